"""Boosting: gradient boosted trees on summaries of each modality, a baseline without a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch, Present
from amodal.encoders import PerModality, scatter
from amodal.errors import DataError
from amodal.fusion.selection import select, weighted_mean
from amodal.losses.task import logits_to_predictions
from amodal.method import EstimatedMethod
from amodal.options import Positive, Size, Weight, at_least
from amodal.schema import Modality, Schema
from amodal.trees import BoostedTrees

__all__ = ["Boosting"]

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features (N, F), targets and weights (N,)."""

_UNSEEN = -30.0  # output of a class that no training row has: a probability of about 1e-13, not of zero


class Boosting(EstimatedMethod):
    """Histogram gradient boosting on summaries of each modality; an absent modality's summaries are NaN.

    The summaries are, for a table, its cells; for each feature of a series the mean, minimum, maximum, spread, first
    and last value, count and the mean over the last quarter; for an image its pixels, or means over blocks of them if
    there are many; for a text counts of hashed words. What was not measured is NaN, too, and the trees choose at each
    node to which side NaN goes.

    Where training removes modalities there are two sets of trees: one learns from the rows as they are, one from these
    and from the same rows once for each drawing of the removal, so that it meets every pattern; the rows as they are
    weigh as much as all drawings together. Their predictions are averaged with weights that depend on the number of
    modalities present, chosen on the validation rows (`amodal.fusion.selection`). A case that comes several times would
    fill a leaf by itself: `min_rows` is therefore counted in cases, not in their repetitions. Boosting stops when the
    loss of the validation rows, as they are or as they are and under removal, has not fallen for `patience` steps, and
    keeps the steps up to there.

    Args:
        schema: The modalities and the task.
        encoders: Not used; every method takes them.
        steps: Boosting steps at most, each with one tree an output.
        learning_rate: Shrinkage of each step.
        leaves: Most leaves of a tree.
        min_rows: Fewest cases in a leaf.
        l2: L2 penalty on the leaves' values, in cases like `min_rows`.
        patience: Steps without a lower validation loss after which boosting stops; None: never.
        redraws: How many drawings of the removal to train on.
        image_cells: Most features of an image; larger ones are averaged over blocks.
        buckets: Number of hashed-word counts of a text.

    Source:
        :cite:`friedman2001gradient`, in the histogram form of :cite:`ke2017lightgbm` that scikit-learn implements
        (:cite:`pedregosa2011scikit`). Its defaults are 100 steps of 0.1, 31 leaves and no penalty; those here were
        chosen on folds of training rows (docs/log.md, 2026-11-30). A multilabel task has one model a label.
    """

    title = "Boosted trees"
    summary = "gradient boosted trees on summaries of each modality, absence as NaN"
    references = ("friedman2001gradient", "ke2017lightgbm", "pedregosa2011scikit")

    weights: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        steps: Size = 300,
        learning_rate: Positive = 0.06,
        leaves: Annotated[int, at_least(2)] = 12,
        min_rows: Size = 20,
        l2: Weight = 0.6,
        patience: Size | None = 15,
        redraws: Size = 4,
        image_cells: Size = 256,
        buckets: Size = 256,
    ):
        super().__init__(schema)
        self.steps, self.learning_rate, self.leaves, self.min_rows, self.l2 = steps, learning_rate, leaves, min_rows, l2
        self.patience = patience
        self.redraws, self.image_cells, self.buckets = redraws, image_cells, buckets
        n_features = sum(self._n_features(modality) for modality in schema.modalities)
        self.trees = BoostedTrees(n_features, schema.task.n_outputs)
        self.plain = BoostedTrees(n_features, schema.task.n_outputs)  # of the rows as they are alone
        self.register_buffer("weights", torch.tensor([1.0, 0.0]).repeat(len(schema.names) + 1, 1))

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`.

        Raises:
            AmodalError: If the method has not been fitted.
        """
        features, kind = self.features(batch), self.schema.task.kind
        ways = [lambda _, trees=trees: logits_to_predictions(trees(features), kind) for trees in self._sets]
        return weighted_mean(self.weights, ways, batch).float()

    @property
    def _sets(self) -> tuple[BoostedTrees, BoostedTrees]:
        return self.trees, self.plain

    def adjust(self, rows: Iterable[tuple[Batch, Tensor]]) -> None:
        """Chooses the weights of the two sets of trees, where there are two."""
        if not self.plain.is_fitted:
            return

        def both(batch: Batch) -> Tensor:
            features, kind = self.features(batch), self.schema.task.kind
            return torch.stack([logits_to_predictions(trees(features), kind) for trees in self._sets], dim=1)

        chosen = select(both, rows, self.schema.task.traits)
        if chosen is not None:
            self.weights.copy_(chosen)

    def estimate(self, train: Sequence[Batch], valid: Sequence[Batch], generator: torch.Generator) -> None:
        """Fits the trees with scikit-learn and stores them as tensors; see `EstimatedMethod.estimate`.

        Raises:
            DataError: If the target is missing, or has a single class.
        """
        if not train or any(batch.target is None for batch in train):
            raise DataError("boosting needs training rows with a target", got=f"{len(train)} batches")
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        self._fit(self.trees, train, valid, seed)
        self.weights.copy_(torch.tensor([1.0, 0.0]))
        if len(train) > 1:
            self._fit(self.plain, train[:1], valid[:1], seed)
            self.weights.copy_(torch.tensor([0.5, 0.5]))

    def _fit(self, trees: BoostedTrees, train: Sequence[Batch], valid: Sequence[Batch], seed: int) -> None:
        """Fits one set of trees."""
        x, y, weight = self._rows(train)
        x[:, np.isnan(x).all(0)] = 0.0  # never measured: a constant, which no tree splits at, whatever comes later
        held = self._rows(valid) if valid and self.patience is not None else None
        options = {
            "max_iter": self.steps,
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.leaves,
            "min_samples_leaf": self.min_rows * len(train),
            "l2_regularization": self.l2 * float(weight.sum()) / len(train[0]),
            "n_iter_no_change": self.patience or 1,
            "random_state": seed,
        }
        traits = self.schema.task.traits
        if traits.one_value:
            from sklearn.ensemble import HistGradientBoostingRegressor

            model = _fitted(HistGradientBoostingRegressor, options, (x, y, weight), held)
            trees.adopt([model], [[0]], [0.0])
        elif traits.many_labels:
            self._fit_labels(trees, (x, y, weight), held, options)
        else:
            self._fit_classes(trees, (x, y, weight), held, options)

    def _rows(self, batches: Sequence[Batch]) -> Rows:
        """Features, targets and weights of rows as they are, which the first batch has, and under removal."""
        x = torch.cat([self.features(batch) for batch in batches]).cpu().numpy()
        y = torch.cat([batch.labels for batch in batches]).cpu().numpy()
        weight = np.ones(len(y))
        weight[: len(batches[0])] = max(1, len(batches) - 1)
        return x, y, weight

    def _fit_classes(self, trees: BoostedTrees, rows: Rows, held: Rows | None, options: dict[str, Any]) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        classes = np.unique(rows[1])
        if len(classes) < 2:
            raise DataError(
                "the training rows have one class only",
                expected="two or more",
                got=self.schema.task.classes[classes[0]],
            )
        if held is not None:
            held = _where(np.isin(held[1], classes), held)
        model = _fitted(HistGradientBoostingClassifier, options, rows, held)
        baseline = np.full(self.schema.task.n_outputs, _UNSEEN)
        baseline[classes] = 0.0
        columns = classes[1:] if len(classes) == 2 else classes  # of two classes only the second has an output
        trees.adopt([model], [columns.tolist()], baseline.tolist())

    def _fit_labels(self, trees: BoostedTrees, rows: Rows, held: Rows | None, options: dict[str, Any]) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        models, columns, baseline = [], [], []
        for label in range(rows[1].shape[1]):
            known = _label(rows, label)
            positive, count = float(known[1].sum()), len(known[1])
            baseline.append(
                math.log((positive + 0.5) / (count - positive + 0.5))
            )  # the only output of a constant label
            if 0 < positive < count:
                own = None if held is None else _label(held, label)
                models.append(_fitted(HistGradientBoostingClassifier, options, known, own))
                columns.append([label])
        if not models:
            raise DataError("every label is constant in the training rows", expected="both values of some label")
        trees.adopt(models, columns, baseline)

    def features(self, batch: Batch) -> Tensor:
        """Summaries of all modalities side by side.

        Args:
            batch: B rows.

        Returns:
            Of shape (B, F), float32; NaN where absent or not measured.
        """
        parts = []
        for modality in self.schema.modalities:
            present = batch.present(modality.name)
            if len(present.rows):
                summaries = self._summarise(modality, present).float()  # rounding hides the order of a sum
            else:
                summaries = torch.empty(0, self._n_features(modality), device=batch.device)
            whole = scatter(summaries, present.rows, len(batch))
            parts.append(torch.where(batch.observed[modality.name][:, None], whole, math.nan))
        return torch.cat(parts, dim=1)

    def _summarise(self, modality: Modality, present: Present) -> Tensor:
        """Summaries (P, F) of the rows that have a modality."""
        size = self.buckets if modality.traits.holds_texts else self.image_cells
        return modality.traits.summary(present, modality.shape, size=size)

    def _n_features(self, modality: Modality) -> int:
        no_rows = Present(torch.empty(0, dtype=torch.int64), modality.traits.blank(0, modality.shape), None, None)
        return self._summarise(modality, no_rows).shape[1]


def _where(chosen: np.ndarray, rows: Rows) -> Rows:
    x, y, weight = rows
    return x[chosen], y[chosen], weight[chosen]


def _label(rows: Rows, label: int) -> Rows:
    """The rows that know a label, and it alone."""
    x, y, weight = _where(~np.isnan(rows[1][:, label]), rows)
    return x, y[:, label] > 0.5, weight


def _fitted(kind: type, options: dict[str, Any], rows: Rows, held: Rows | None) -> Any:
    """A model of scikit-learn, stopped early by the held rows if there are any, with its steps up to the best."""
    x, y, weight = rows
    if held is None or not len(held[1]):
        return kind(**options, early_stopping=False).fit(x, y, sample_weight=weight)
    model = kind(**options, early_stopping=True, scoring="loss", tol=0.0)
    model.fit(x, y, sample_weight=weight, X_val=held[0], y_val=held[1], sample_weight_val=held[2])
    best = int(np.argmax(model.validation_score_))  # minus the loss, before the first step and after each
    del model._predictors[max(1, best) :]
    return model
