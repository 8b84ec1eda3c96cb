r"""What C- and D-vines have in common: copulas of many margins built from pairs.

.. math::
    \log c(u) = \sum_{t=1}^{M-1} \sum_{e \in T_t} \log c_e\bigl(F(u_i \mid u_{D_e}), F(u_j \mid u_{D_e})\bigr)

In a **D-vine** the first tree is a path, and tree t joins margins i and i + t given those between. In a **C-vine** each
tree is a star: tree t joins margin t with every later one given the earlier. Arguments are made by the conditional
distribution functions of the pairs below; all of it in pairs of logarithms.

Some subsets of margins keep a closed form: consecutive margins of a D-vine, leading margins and one more of a C-vine.
Others are integrated numerically over the absent margins inside, up to two of them.

Source:
    Aas, Czado, Frigessi & Bakken, *Pair-copula constructions of multiple dependence*, 2009.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from amodal.distributions.archimedean_tau import gauss_legendre
from amodal.distributions.copula_abstract import Copula
from amodal.distributions.copula_fit import complete_presence, pairwise_kendall_tau, select_family
from amodal.distributions.elliptical_families import GaussianCopula
from amodal.distributions.normal import LOG_ROOT_TWO_PI, normal_log_tails, normal_score
from amodal.distributions.rotation import Independence
from amodal.errors import ConfigurationError, ShapeError

__all__ = ["Logs", "Step", "Trees", "Vine"]

Logs = tuple[Tensor, Tensor]  # log p and log(1 - p)
Trees = list[dict[int, tuple[Logs, ...]]]  # conditional values by tree and position
_NODES = {1: 160, 2: 48}
_REACH = 7.5  # normal scores between which an absent margin is integrated
_CDF_POINTS = 1024


class Step(NamedTuple):
    """One rung of a ladder of conditions: a pair, which of its margins is the target, the value of the other."""

    pair: Copula
    target: int
    given: Logs

    def _points(self, x: Logs) -> tuple[Tensor, Tensor, Tensor]:
        first, second = (x, self.given) if self.target == 0 else (self.given, x)
        log_u = torch.stack(torch.broadcast_tensors(first[0], second[0]))
        log_1mu = torch.stack(torch.broadcast_tensors(first[1], second[1]))
        observed = torch.tensor([self.target == 1, self.target == 0], device=log_u.device)
        return log_u, log_1mu, observed.reshape(2, *[1] * (log_u.ndim - 1))

    def forward(self, x: Logs) -> Logs:
        """Condition the target on the other margin."""
        log_u, log_1mu, observed = self._points(x)
        return self.pair._conditional(log_u, log_1mu, self.target, observed)

    def inverse(self, w: Logs) -> Logs:
        """Undo :meth:`forward`."""
        log_u, log_1mu, observed = self._points(w)
        return self.pair._conditional_quantile(*w, log_u, log_1mu, self.target, observed)

    def log_density(self, x: Logs) -> Tensor:
        """Log density of the pair."""
        log_u, log_1mu, _ = self._points(x)
        return self.pair._log_density(log_u, log_1mu, None, 2)


class Vine(Copula):
    """A vine of pair copulas.

    Args:
        pairs: ``pairs[t][e]``: the copula of edge e in tree t + 1, M - 1 - t of them, all of two margins.
        order: The margins in the order of the vine; 0, 1, … if not given.

    Raises:
        ShapeError: If the trees do not have M - 1, M - 2, …, 1 edges.
        ConfigurationError: If a pair has more than two margins, or ``order`` is not a permutation.
    """

    def __init__(self, pairs: Sequence[Sequence[Copula]], order: Sequence[int] | None = None):
        super().__init__(len(pairs) + 1)
        sizes, expected = [len(tree) for tree in pairs], list(range(self.dim - 1, 0, -1))
        if sizes != expected:
            raise ShapeError("the trees of a vine have one edge fewer each", expected=f"{expected} edges", got=sizes)
        for copula in itertools.chain.from_iterable(pairs):
            if copula.dim != 2:
                raise ConfigurationError("a vine joins pairs", expected="dim = 2", got=f"dim = {copula.dim}")
        self.order = tuple(range(self.dim)) if order is None else tuple(int(m) for m in order)
        if sorted(self.order) != list(range(self.dim)):
            raise ConfigurationError(
                "order must name each margin once", expected=f"a permutation of 0 … {self.dim - 1}", got=self.order
            )
        self.pairs = nn.ModuleList(nn.ModuleList(tree) for tree in pairs)

    def pair(self, tree: int, edge: int) -> Copula:
        """The copula of an edge; trees and edges count from 0."""
        return cast(Copula, cast(nn.ModuleList, self.pairs[tree])[edge])

    @property
    def batch_shape(self) -> torch.Size:
        """The broadcast shape of the pairs."""
        every = itertools.chain.from_iterable(cast("Any", self.pairs))
        return torch.broadcast_shapes(*(pair.batch_shape for pair in every))

    # ---------------------------------------------------------------- what makes it a C- or a D-vine

    @staticmethod
    @abstractmethod
    def _closure(present: Sequence[int]) -> list[int]:
        """The smallest set of positions that holds these and has a density in closed form, in order."""

    @abstractmethod
    def _sweep(self, values: list[Logs], closed: Sequence[int]) -> tuple[Tensor, Trees]:
        """Log density of a closed set of positions, and the conditional values of each tree."""

    @abstractmethod
    def _ladder(self, values: list[Logs], closed: Sequence[int], target: int) -> list[Step] | None:
        """Rungs that condition a target on a closed set; None where there is no closed form."""

    @abstractmethod
    def _completion_order(self, present: Sequence[int]) -> list[int]:
        """Positions in the order in which to draw them so that as little as possible is integrated."""

    @abstractmethod
    def _pairs_among(self, closed: Sequence[int]) -> list[list[Copula]]:
        """The pairs of a closed set, tree by tree."""

    @staticmethod
    @abstractmethod
    def _edge(tree: int, edge: int) -> tuple[range, int, int]:
        """The positions an edge is conditioned on, and the two that it joins."""

    @classmethod
    @abstractmethod
    def _choose_order(cls, strength: Tensor) -> tuple[int, ...]:
        """Order of the margins from absolute pairwise taus."""

    # ---------------------------------------------------------------- densities and conditional laws

    def _values(self, log_u: Tensor, log_1mu: Tensor) -> list[Logs]:
        return [(log_u[m], log_1mu[m]) for m in self.order]

    def _each_pattern(
        self,
        tensors: Sequence[Tensor],
        observed: Tensor,
        function: Callable[[list[Tensor], list[int]], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """Apply a function to the rows of each pattern, given the positions that are present in it.

        Args:
            tensors: Tensors of shape (…, rows), their first axis kept.
            observed: Presence, margins first.
            function: Takes the tensors of some rows, shape (…, rows), and the positions.
        """
        shape = torch.broadcast_shapes(*(x.shape[1:] for x in tensors), observed.shape[1:], self.batch_shape)
        placed = observed[list(self.order)].expand(-1, *shape).reshape(self.dim, -1)
        flat = [x.expand(-1, *shape) if self.batch_shape else x.expand(-1, *shape).flatten(1) for x in tensors]
        result: tuple[Tensor, ...] = ()
        for pattern in torch.unique(placed, dim=1).unbind(1):
            here = (placed == pattern.unsqueeze(1)).all(0)
            present = pattern.nonzero().flatten().tolist()
            if self.batch_shape:  # parameters belong to rows: evaluate all, keep those of the pattern
                values = function(flat, present)
                old = result or tuple(torch.zeros_like(v) for v in values)
                pairs = zip(values, old, strict=True)
                result = tuple(torch.where(here.reshape(shape), v, o.expand(*v.shape)) for v, o in pairs)
            else:
                rows = here.nonzero().flatten()
                values = function([x[:, rows] for x in flat], present)
                old = result or tuple(v.new_zeros(*v.shape[:-1], here.numel()) for v in values)
                result = tuple(o.index_copy(-1, rows, v) for v, o in zip(values, old, strict=True))
        return tuple(v if self.batch_shape else v.reshape(*v.shape[:-1], *shape) for v in result)

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        if observed is None or bool(observed.all()):
            return self._sweep(self._values(log_u, log_1mu), range(self.dim))[0]

        def density(points: list[Tensor], present: list[int]) -> tuple[Tensor, ...]:
            return (self._subset_log_density(self._values(*points), present),)

        return self._each_pattern((log_u, log_1mu), observed, density)[0]

    def _subset_log_density(
        self, values: list[Logs], present: Sequence[int], span: tuple[int, Tensor | float, Tensor | float] | None = None
    ) -> Tensor:
        """Log density of some positions, the absent ones between them integrated out.

        ``span`` names one more position that is integrated, between two normal scores.
        """
        named = [] if span is None else [span]
        closed = self._closure([*present, *(s[0] for s in named)])
        spans = [(p, -_REACH, _REACH) for p in closed if p not in present and all(p != s[0] for s in named)] + named
        if not spans:
            return self._sweep(values, closed)[0]
        if len(spans) > 2:
            raise ConfigurationError(
                f"{type(self).__name__} would have to integrate over {len(spans)} absent margins at once",
                expected="at most 2",
                hint="Order the vine so that what is observed together stands together, or use GaussianCopula.",
            )
        nodes, weights = (x.to(values[0][0]) for x in gauss_legendre(_NODES[len(spans)]))
        values = [(a.unsqueeze(0), b.unsqueeze(0)) for a, b in values]
        grid = torch.cartesian_prod(*[torch.arange(len(nodes))] * len(spans)).reshape(-1, len(spans))
        shape = (-1, *[1] * (values[0][0].ndim - 1))
        log_weight: Tensor | float = 0.0
        for axis, (position, low, high) in enumerate(spans):
            low, high = (torch.as_tensor(x).to(nodes).unsqueeze(0) for x in (low, high))
            width = (high - low).clamp_min(1e-30)
            score = low + width * nodes[grid[:, axis]].reshape(shape)
            values[position] = normal_log_tails(score)
            node_weight = weights[grid[:, axis]].log().reshape(shape) + width.log()
            log_weight = log_weight + node_weight - 0.5 * score * score - LOG_ROOT_TWO_PI
        return torch.logsumexp(self._sweep(values, closed)[0] + log_weight, 0)

    def _ladder_for(self, values: list[Logs], present: Sequence[int], target: int) -> list[Step] | None:
        """Rungs for a target given these positions; None where there is no closed form."""
        if not present:
            return []
        closed = self._closure(present)
        return self._ladder(values, closed, target) if len(closed) == len(present) else None

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        place = self.order.index(target)

        def conditional(points: list[Tensor], present: list[int]) -> tuple[Tensor, ...]:
            values = self._values(*points)
            steps = self._ladder_for(values, present, place)
            h = self._integrated(values, present, place) if steps is None else values[place]
            for step in steps or []:
                h = step.forward(h)
            return h

        lower, upper = self._each_pattern((log_u, log_1mu), observed, conditional)
        return lower, upper

    def _integrated(self, values: list[Logs], present: list[int], place: int) -> Logs:
        """A conditional distribution function as the ratio of two integrals over its target."""
        score = normal_score(*values[place]).clamp(-_REACH, _REACH)
        below = self._subset_log_density(values, present, (place, -_REACH, score))
        above = self._subset_log_density(values, present, (place, score, _REACH))
        total = torch.logaddexp(below, above)
        return below - total, above - total

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        place = self.order.index(target)

        def quantile(points: list[Tensor], present: list[int]) -> tuple[Tensor, ...]:
            log_us, log_1mus, x = points[0], points[1], (points[2][0], points[3][0])
            steps = self._ladder_for(self._values(log_us, log_1mus), present, place)
            if steps is None:
                seen = self._pattern(present, log_us)
                x = super(Vine, self)._conditional_quantile(*x, log_us, log_1mus, target, seen)
            for step in reversed(steps or []):
                x = step.inverse(x)
            return x

        tensors = (log_u, log_1mu, log_w.unsqueeze(0), log_1mw.unsqueeze(0))
        lower, upper = self._each_pattern(tensors, observed, quantile)
        return lower, upper

    def _pattern(self, present: Sequence[int], like: Tensor) -> Tensor:
        """Presence of these positions in every row."""
        seen = torch.zeros_like(like, dtype=torch.bool)
        seen[[self.order[p] for p in present]] = True
        return seen

    def _sample_given_logs(
        self, log_u: Tensor, log_1mu: Tensor, observed: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Pattern by pattern, each in its own order."""

        def completed(points: list[Tensor], present: list[int]) -> tuple[Tensor, ...]:
            order = [self.order[p] for p in self._completion_order(present)]
            return self._fill_in(points[0], points[1], self._pattern(present, points[0]), generator, order)

        lower, upper = self._each_pattern((log_u, log_1mu), observed, completed)
        return lower, upper

    # ---------------------------------------------------------------- distribution function

    def _log_cdf_by_pattern(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor) -> Tensor:
        return self._log_cdf(log_u, log_1mu, observed)

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None = None) -> Tensor:
        """Separation of variables on fixed quasi-random points: relative error about 1e-3."""
        engine = torch.quasirandom.SobolEngine(self.dim, scramble=True, seed=0)
        draws = engine.draw(_CDF_POINTS, dtype=torch.float64).clamp(1e-9, 1 - 1e-9).to(log_u).log()
        values = [
            (a.expand(_CDF_POINTS, *a.shape), b.expand(_CDF_POINTS, *b.shape)) for a, b in self._values(log_u, log_1mu)
        ]
        total: Tensor | float = 0.0
        for place, margin in enumerate(self.order):
            steps = (self._ladder(values, range(place), place) or []) if place else []
            h = values[place]
            for step in steps:
                h = step.forward(h)
            log_p = h[0] if observed is None else torch.where(observed[margin], h[0], 0.0)
            total = total + log_p
            log_w = log_p + draws[:, place].reshape(-1, *[1] * (log_u.ndim - 1))
            x = (log_w, torch.log(-torch.expm1(log_w)))
            for step in reversed(steps):
                x = step.inverse(x)
            values[place] = x
        return torch.logsumexp(cast(Tensor, total), 0) - math.log(_CDF_POINTS)

    # ---------------------------------------------------------------- parameters

    def margin(self, indices: Sequence[int]) -> Copula:
        """The vine of a closed stretch of margins, sharing its pairs."""
        places = sorted(self.order.index(m) for m in indices)
        if self._closure(places) != places:
            raise ConfigurationError(
                f"these margins do not form a {type(self).__name__} of their own",
                expected="consecutive margins of a D-vine; leading margins and one more of a C-vine",
                got=list(indices),
                hint="log_density with `observed` integrates over the others.",
            )
        return type(self)(self._pairs_among(places), [list(indices).index(self.order[p]) for p in places])

    def kendall_tau(self) -> Tensor:
        """Kendall's tau of each pair, (M, M), from 20,000 draws of a fixed generator: no closed form beyond tree 1."""
        if self.batch_shape:
            raise ConfigurationError("Kendall's tau is for one vine", got=f"batch shape {tuple(self.batch_shape)}")
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        u = self.sample(20_000, generator=torch.Generator(device=device).manual_seed(0)).cpu().double()
        return pairwise_kendall_tau(u, torch.ones_like(u, dtype=torch.bool))

    @classmethod
    def from_kendall_tau(cls, tau: Any, dim: int = 2, *, learnable: bool = False) -> Self:
        r"""Gaussian pairs: :math:`\rho = \sin(\pi\tau/2)`, then partial correlations :math:`\rho/(1+t\rho)`."""
        rho = torch.sin(torch.as_tensor(tau, dtype=torch.float64) * (math.pi / 2))[..., None, None]
        unit = torch.eye(2, dtype=torch.float64)

        def gaussian(tree: int) -> GaussianCopula:
            return GaussianCopula(rho / (1 + tree * rho) * (1 - unit) + unit, learnable=learnable)

        return cls([[gaussian(tree) for _ in range(dim - 1 - tree)] for tree in range(dim - 1)])

    _families: ClassVar[tuple[str, ...]] = ("independence", "gaussian", "clayton", "gumbel", "frank", "joe")

    @classmethod
    def fit(
        cls,
        u: Any,
        *,
        observed: Any = None,
        iterations: int = 100,
        families: Sequence[str] | None = None,
        order: Sequence[int] | None = None,
    ) -> Self:
        """Tree by tree: the family of each pair by Akaike's criterion, its parameter by maximum likelihood.

        Args:
            u: Points, shape (N, M).
            observed: Presence, bool (N, M); an edge is fitted to the rows that have all it needs.
            iterations: Of joint maximum likelihood afterwards, over all pairs at once; 0 leaves it at tree by tree.
            families: Families to choose from, with their rotations.
            order: Order of the margins; otherwise by the strength of their dependence.
        """
        from amodal.distributions.copula_fit import maximise_likelihood

        points, presence = complete_presence(u, observed)
        dim = points.shape[1]
        chosen = cls._choose_order(pairwise_kendall_tau(points, presence).abs()) if order is None else order
        vine = cls([[Independence() for _ in range(dim - 1 - tree)] for tree in range(dim - 1)], chosen)
        names = cls._families if families is None else tuple(families)
        for tree, edge in ((t, e) for t in range(dim - 1) for e in range(dim - 1 - t)):
            cast(nn.ModuleList, vine.pairs[tree])[edge] = vine._fit_edge(points, presence, tree, edge, names)
        if iterations and bool(presence.all()):
            maximise_likelihood(vine, points, presence, iterations=iterations)
        return vine

    def _fit_edge(self, u: Tensor, observed: Tensor, tree: int, edge: int, names: Sequence[str]) -> Copula:
        given, first, second = self._edge(tree, edge)
        needed = [self.order[p] for p in (*given, first, second)]
        rows = u[observed[:, needed].all(1)].movedim(-1, 0)
        if rows.shape[1] < 10:
            return Independence()
        values = self._values(rows.log(), torch.log1p(-rows))
        arguments = []
        with torch.no_grad():
            for target in (first, second):
                x = values[target]
                for step in self._ladder_for(values, given, target) or []:
                    x = step.forward(x)
                arguments.append(x[0].exp().clamp(1e-12, 1 - 1e-12))
        return select_family(torch.stack(arguments, -1), names)
