r"""C-vines and D-vines: where pairs of margins differ, in strength and in kind. See ``vine_abstract``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from amodal.distributions.copula_abstract import Copula
from amodal.distributions.vine_abstract import Logs, Step, Trees, Vine

__all__ = ["CVine", "DVine", "Vine"]


class DVine(Vine):
    """A vine whose trees are paths: tree t joins positions i and i + t given those between.

    Args:
        pairs: ``pairs[t][i]`` joins positions i and i + t + 1.
        order: The margins in the order of the path.

    Example:
        >>> from amodal.distributions.copula import Clayton, Frank, Gumbel
        >>> vine = DVine([[Clayton(2.0), Gumbel(1.5)], [Frank(1.0)]])
        >>> vine.log_density(torch.tensor([[0.3, 0.4, 0.5]], dtype=torch.float64)).item()
        0.6...
    """

    @staticmethod
    def _closure(present: Sequence[int]) -> list[int]:
        return list(range(min(present), max(present) + 1))

    def _sweep(self, values: list[Logs], closed: Sequence[int]) -> tuple[Tensor, Trees]:
        total = torch.zeros_like(values[closed[0]][0])
        # tree t, position i: F(i | i+1 … i+t) and F(i+t | i … i+t-1)
        trees: Trees = [{i: (values[i], values[i]) for i in closed}]
        for t in range(1, len(closed)):
            row: dict[int, tuple[Logs, ...]] = {}
            for i in closed[: len(closed) - t]:
                left, right = trees[-1][i][0], trees[-1][i + 1][1]
                up, down = Step(self.pair(t - 1, i), 1, left), Step(self.pair(t - 1, i), 0, right)
                total = total + up.log_density(right)
                row[i] = (down.forward(left), up.forward(right))
            trees.append(row)
        return total, trees

    def _ladder(self, values: list[Logs], closed: Sequence[int], target: int) -> list[Step] | None:
        start, size = closed[0], len(closed)
        if target not in (start - 1, start + size):
            return None
        trees = self._sweep(values, closed)[1]
        if target < start:
            return [Step(self.pair(t, target), 0, trees[t][start][1]) for t in range(size)]
        return [Step(self.pair(t, target - 1 - t), 1, trees[t][target - 1 - t][0]) for t in range(size)]

    def _completion_order(self, present: Sequence[int]) -> list[int]:
        start, stop = (min(present), max(present) + 1) if present else (0, 1)
        return sorted(range(self.dim), key=lambda p: max(start - p, p - stop + 1, 0))

    def _pairs_among(self, closed: Sequence[int]) -> list[list[Copula]]:
        size = len(closed)
        return [[self.pair(t, closed[0] + e) for e in range(size - 1 - t)] for t in range(size - 1)]

    @staticmethod
    def _edge(tree: int, edge: int) -> tuple[range, int, int]:
        return range(edge + 1, edge + 1 + tree), edge, edge + 1 + tree

    @classmethod
    def _choose_order(cls, strength: Tensor) -> tuple[int, ...]:
        """The path of greatest total strength: the best of all up to seven margins, else a greedy one."""
        dim = len(strength)
        if dim <= 7:
            paths = (p for p in itertools.permutations(range(dim)) if p[0] < p[-1])
            return max(paths, key=lambda p: sum(float(strength[a, b]) for a, b in itertools.pairwise(p)))
        path = [int(strength.sum(0).argmax())]
        while len(path) < dim:
            rest = [m for m in range(dim) if m not in path]
            path.append(max(rest, key=lambda m: float(strength[path[-1], m])))
        return tuple(path)


class CVine(Vine):
    """A vine whose trees are stars: tree t joins position t with every later one given the earlier.

    Args:
        pairs: ``pairs[t][e]`` joins positions t and t + 1 + e.
        order: The margins in the order of the roots.

    Example:
        >>> from amodal.distributions.copula import Clayton, Frank, Gumbel
        >>> vine = CVine([[Clayton(2.0), Gumbel(1.5)], [Frank(1.0)]])
        >>> vine.log_density(torch.tensor([[0.3, 0.4, 0.5]], dtype=torch.float64)).item()
        0.6325...
    """

    @staticmethod
    def _closure(present: Sequence[int]) -> list[int]:
        ordered = sorted(present)
        return [*range(ordered[-2] + 1 if len(ordered) > 1 else 0), ordered[-1]]

    def _sweep(self, values: list[Logs], closed: Sequence[int]) -> tuple[Tensor, Trees]:
        total = torch.zeros_like(values[closed[0]][0])
        trees: Trees = [{j: (values[j],) for j in closed}]  # tree t: F(j | 0 … t-1)
        for t in range(1, len(closed)):
            row: dict[int, tuple[Logs, ...]] = {}
            for j in closed[t:]:
                step = Step(self.pair(t - 1, j - t), 1, trees[-1][t - 1][0])
                total = total + step.log_density(trees[-1][j][0])
                row[j] = (step.forward(trees[-1][j][0]),)
            trees.append(row)
        return total, trees

    def _ladder(self, values: list[Logs], closed: Sequence[int], target: int) -> list[Step] | None:
        leaf, roots = closed[-1], len(closed) - 1  # closed = 0 … roots - 1, and a leaf
        trees = self._sweep(values, closed)[1]
        if leaf == roots and target > leaf:  # the leaf is a root as well
            return [Step(self.pair(t, target - 1 - t), 1, trees[t][t][0]) for t in range(roots + 1)]
        if target != roots:
            return None
        steps = [Step(self.pair(t, target - 1 - t), 1, trees[t][t][0]) for t in range(roots)]
        return [*steps, Step(self.pair(roots, leaf - 1 - roots), 0, trees[roots][leaf][0])]

    def _completion_order(self, present: Sequence[int]) -> list[int]:
        return list(range(self.dim))

    def _pairs_among(self, closed: Sequence[int]) -> list[list[Copula]]:
        return [[self.pair(t, j - 1 - t) for j in closed[t + 1 :]] for t in range(len(closed) - 1)]

    @staticmethod
    def _edge(tree: int, edge: int) -> tuple[range, int, int]:
        return range(tree), tree, tree + 1 + edge

    @classmethod
    def _choose_order(cls, strength: Tensor) -> tuple[int, ...]:
        """Margins by the total strength of their dependence."""
        return tuple(int(m) for m in strength.sum(0).argsort(descending=True))
