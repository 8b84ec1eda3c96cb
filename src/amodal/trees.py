"""Boosted regression trees as plain tensors: predicts anywhere, is saved like any network, executes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amodal.errors import AmodalError, ShapeError

__all__ = ["BoostedTrees"]

_TREE_BUFFERS = ("root", "column")
_NODE_BUFFERS = ("feature", "threshold", "missing_left", "left", "right", "value")
_PATHS_AT_ONCE = 2**20  # rows x trees followed together; bounds the memory of a prediction


class BoostedTrees(nn.Module):
    r"""A sum of regression trees for each output, fitted by scikit-learn and kept in buffers.

    .. math:: f_k(x) = b_k + \sum_{t \in T_k} v_{t, \ell_t(x)}

    where :math:`\ell_t(x)` is the leaf of tree t that x falls into. At an inner node x goes left if its feature is at
    most the threshold; a feature that is NaN goes to the side that training has chosen for it.

    The nodes of all trees stand one after the other, each tree's root first and every child behind its parent, so that
    following a path always ends. All buffers are empty until `adopt` or `load_state_dict` fills them.

    Args:
        n_features: Number of features F.
        n_outputs: Number of outputs K.

    Source:
        :cite:`friedman2001gradient` for the model, :cite:`ke2017lightgbm` for the way its trees are grown.
    """

    baseline: Tensor
    root: Tensor
    column: Tensor
    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor

    def __init__(self, n_features: int, n_outputs: int):
        super().__init__()
        self.n_features, self.n_outputs = n_features, n_outputs
        self.register_buffer("baseline", torch.zeros(n_outputs, dtype=torch.float64))
        for name in _TREE_BUFFERS + _NODE_BUFFERS:
            kind = {"threshold": torch.float64, "value": torch.float64, "missing_left": torch.bool}.get(name)
            self.register_buffer(name, torch.zeros(0, dtype=kind or torch.int32))

    @property
    def is_fitted(self) -> bool:
        """Whether `adopt` or `load_state_dict` has filled the trees."""
        return len(self.root) > 0

    def adopt(self, models: Sequence[Any], columns: Sequence[Sequence[int]], baseline: Sequence[float]) -> None:
        """Takes over the trees of fitted scikit-learn histogram gradient boosting models.

        Args:
            models: HistGradientBoostingClassifier or -Regressor, fitted on numeric features.
            columns: For each model, the outputs that its raw predictions go to: one for binary classification and
                regression, one a class otherwise.
            baseline: Values of the K outputs before any tree; those that a model goes to are replaced by its own.
        """
        bases = np.array(baseline, dtype=np.float64)
        roots, outputs, parts, size = [], [], [], 0
        for model, targets in zip(models, columns):
            bases[list(targets)] = np.asarray(model._baseline_prediction).reshape(-1)
            for step in model._predictors:  # private, but the only way to the trees; tests compare with predict_proba
                for tree, target in zip(step, targets, strict=True):
                    roots.append(size)
                    outputs.append(target)
                    parts.append(_node_arrays(tree.nodes, size))
                    size += len(tree.nodes)
        arrays = {name: np.concatenate([part[name] for part in parts] or [[]]) for name in _NODE_BUFFERS}
        arrays |= {"baseline": bases, "root": np.array(roots), "column": np.array(outputs)}
        for name, array in arrays.items():
            old = getattr(self, name)
            setattr(self, name, torch.as_tensor(array, dtype=old.dtype).to(old.device))

    def forward(self, features: Tensor) -> Tensor:
        """The outputs of some rows.

        Args:
            features: Of shape (B, F); NaN where not known.

        Returns:
            Of shape (B, K), float64.

        Raises:
            ShapeError: If there is another number of features.
            AmodalError: If there are no trees yet.
        """
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ShapeError(
                "the features do not fit the trees", expected=f"(B, {self.n_features})", got=tuple(features.shape)
            )
        if not self.is_fitted:
            raise AmodalError("the trees have not been fitted", hint="Train first, or load a trained model.")
        features = features.to(self.threshold)
        chunk = max(1, _PATHS_AT_ONCE // len(self.root))
        return torch.cat([self._sum_leaves(part) for part in features.split(chunk)] or [features[:, :0]])

    def _sum_leaves(self, features: Tensor) -> Tensor:
        values = self.value[self._leaves(features)]  # (B, trees)
        sums = values.new_zeros(len(features), self.n_outputs).index_add_(1, self.column.long(), values)
        return self.baseline + sums

    def _leaves(self, features: Tensor) -> Tensor:
        """The node (B, trees) where each row ends up in each tree."""
        rows, trees = len(features), len(self.root)
        feature, left, right = self.feature.long(), self.left.long(), self.right.long()
        is_leaf = left == torch.arange(len(left), device=left.device)
        start = torch.arange(rows, device=features.device) * self.n_features  # where a row begins in the flat features
        flat = features.reshape(-1)
        node = self.root.long().repeat(rows)  # (rows * trees,)
        active = (~is_leaf[node]).nonzero().squeeze(1)
        offset = start.repeat_interleave(trees)[active]
        while len(active):
            at = node[active]
            x = flat[offset + feature[at]]
            goes_left = torch.where(x.isnan(), self.missing_left[at], x <= self.threshold[at])
            at = torch.where(goes_left, left[at], right[at])
            node[active] = at
            on = (~is_leaf[at]).nonzero().squeeze(1)
            active, offset = active[on], offset[on]
        return node.view(rows, trees)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Takes the sizes of the stored trees, which the constructor cannot know."""
        stored = {name: state_dict[prefix + name] for name in self._buffers if prefix + name in state_dict}
        complete = len(stored) == len(self._buffers)  # else the caller reports what is missing
        problem = self._problem_with(stored) if complete else None
        if problem is not None:
            args[-1].append(f"{prefix or 'trees'}: {problem}")  # error_msgs: load_state_dict raises them together
            return
        for name, tensor in stored.items() if complete else ():
            old = getattr(self, name)
            setattr(self, name, torch.empty(tensor.shape, dtype=old.dtype, device=old.device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _problem_with(self, stored: dict[str, Tensor]) -> str | None:
        """The reason why stored buffers are not trees whose paths all end, or None."""
        if any(stored[name].ndim != 1 for name in stored) or len(stored["baseline"]) != self.n_outputs:
            return f"the baseline or a buffer has another shape (expected {self.n_outputs} outputs)"
        nodes = len(stored["left"])
        sizes_fit = all(len(stored[name]) == nodes for name in _NODE_BUFFERS)
        if not sizes_fit or len(stored["root"]) != len(stored["column"]):
            return "the buffers have different numbers of nodes or trees"
        own = torch.arange(nodes, device=stored["left"].device)
        left, right = stored["left"].long(), stored["right"].long()
        leaf = left == own
        ends = bool((torch.where(leaf, right == own, (left > own) & (right > own))).all())
        ranges = (("left", nodes), ("right", nodes), ("root", nodes))
        ranges += (("column", self.n_outputs), ("feature", self.n_features))
        inside = all(bool(((stored[name] >= 0) & (stored[name] < size)).all()) for name, size in ranges)
        return None if ends and inside else "the nodes do not form trees"


def _node_arrays(nodes: np.ndarray, offset: int) -> dict[str, np.ndarray]:
    """The node arrays of one scikit-learn tree; a leaf is its own child."""
    own = np.arange(len(nodes))
    leaf = nodes["is_leaf"].astype(bool)
    return {
        "feature": np.where(leaf, 0, nodes["feature_idx"]),
        "threshold": np.where(leaf, 0.0, nodes["num_threshold"]),
        "missing_left": nodes["missing_go_to_left"].astype(bool) & ~leaf,
        "left": np.where(leaf, own, nodes["left"]) + offset,
        "right": np.where(leaf, own, nodes["right"]) + offset,
        "value": nodes["value"],
    }
