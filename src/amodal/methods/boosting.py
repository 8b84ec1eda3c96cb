"""Boosting: gradient boosted trees on summaries of each modality, a baseline without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch, Present
from amodal.encoders import PerModality, scatter
from amodal.errors import DataError
from amodal.losses.task import logits_to_predictions
from amodal.method import EstimatedMethod
from amodal.options import Positive, Size, Weight, at_least
from amodal.schema import Modality, Schema
from amodal.trees import BoostedTrees

__all__ = ["Boosting"]

_UNSEEN = -30.0  # output of a class that no training row has: a probability of about 1e-13, not of zero


class Boosting(EstimatedMethod):
    """Histogram gradient boosting on summaries of each modality; an absent modality's summaries are NaN.

    The summaries are, for a table, its cells; for each feature of a series the mean, minimum, maximum, spread, first
    and last value, count and the mean over the last quarter; for an image its pixels, or means over blocks of them if
    there are many; for a text counts of hashed words. What was not measured is NaN, too, and the trees choose at each
    node to which side NaN goes.

    Training rows come once for each drawing of the removal, so that the trees meet every pattern. A case that comes
    several times would fill a leaf by itself: `min_rows` is therefore counted in cases, not in their repetitions.

    Args:
        schema: The modalities and the task.
        encoders: Not used; every method takes them.
        steps: Boosting steps, each with one tree an output.
        learning_rate: Shrinkage of each step.
        leaves: Most leaves of a tree.
        min_rows: Fewest cases in a leaf.
        l2: L2 penalty on the leaves' values.
        redraws: How many drawings of the removal to train on.
        image_cells: Most features of an image; larger ones are averaged over blocks.
        buckets: Number of hashed-word counts of a text.

    Source:
        :cite:`friedman2001gradient`, in the histogram form of :cite:`ke2017lightgbm` that scikit-learn implements
        (:cite:`pedregosa2011scikit`); scikit-learn's defaults but for 300 steps of 0.04 and no early stopping, which
        would hold back repetitions of the rows it trains on. A multilabel task has one model a label.
    """

    summary = "gradient boosted trees on summaries of each modality, absence as NaN"
    references = ("friedman2001gradient", "ke2017lightgbm", "pedregosa2011scikit")

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        steps: Size = 300,
        learning_rate: Positive = 0.04,
        leaves: Annotated[int, at_least(2)] = 31,
        min_rows: Size = 20,
        l2: Weight = 0.0,
        redraws: Size = 10,
        image_cells: Size = 256,
        buckets: Size = 256,
    ):
        super().__init__(schema)
        self.steps, self.learning_rate, self.leaves, self.min_rows, self.l2 = steps, learning_rate, leaves, min_rows, l2
        self.redraws, self.image_cells, self.buckets = redraws, image_cells, buckets
        n_features = sum(self._n_features(modality) for modality in schema.modalities)
        self.trees = BoostedTrees(n_features, schema.task.n_outputs)

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`.

        Raises:
            AmodalError: If the method has not been fitted.
        """
        return logits_to_predictions(self.trees(self.features(batch)), self.schema.task.kind).float()

    def estimate(self, train: Sequence[Batch], valid: Batch | None, generator: torch.Generator) -> None:
        """Fits the trees with scikit-learn and stores them as tensors.

        Args:
            train: All training rows, with target, once for each drawing of the removal.
            valid: Not used; the number of steps is fixed.
            generator: Source of scikit-learn's seed.

        Raises:
            DataError: If the target is missing, or has a single class.
        """
        targets = [batch.target for batch in train]
        if not targets or any(target is None for target in targets):
            raise DataError("boosting needs training rows with a target", got=f"{len(targets)} batches")
        x = torch.cat([self.features(batch) for batch in train]).cpu().numpy()
        x[:, np.isnan(x).all(0)] = 0.0  # never measured: a constant, which no tree splits at, whatever comes later
        y = torch.cat([target for target in targets if target is not None]).cpu().numpy()
        options = {
            "max_iter": self.steps,
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.leaves,
            "min_samples_leaf": self.min_rows * len(train),
            "l2_regularization": self.l2,
            "early_stopping": False,
            "random_state": int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device)),
        }
        traits = self.schema.task.traits
        if traits.one_value:
            self._fit_regression(x, y, options)
        elif traits.many_labels:
            self._fit_labels(x, y, options)
        else:
            self._fit_classes(x, y, options)

    def _fit_regression(self, x: np.ndarray, y: np.ndarray, options: dict) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.trees.adopt([HistGradientBoostingRegressor(**options).fit(x, y)], [[0]], [0.0])

    def _fit_classes(self, x: np.ndarray, y: np.ndarray, options: dict) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        classes = np.unique(y)
        if len(classes) < 2:
            raise DataError(
                "the training rows have one class only",
                expected="two or more",
                got=self.schema.task.classes[classes[0]],
            )
        model = HistGradientBoostingClassifier(**options).fit(x, y)
        baseline = np.full(self.schema.task.n_outputs, _UNSEEN)
        baseline[classes] = 0.0
        columns = classes[1:] if len(classes) == 2 else classes  # of two classes only the second has an output
        self.trees.adopt([model], [columns.tolist()], baseline.tolist())

    def _fit_labels(self, x: np.ndarray, y: np.ndarray, options: dict) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        models, columns, baseline = [], [], []
        for label in range(y.shape[1]):
            known = ~np.isnan(y[:, label])
            positive, count = float(y[known, label].sum()), int(known.sum())
            baseline.append(
                math.log((positive + 0.5) / (count - positive + 0.5))
            )  # the only output of a constant label
            if 0 < positive < count:
                models.append(HistGradientBoostingClassifier(**options).fit(x[known], y[known, label] > 0.5))
                columns.append([label])
        if not models:
            raise DataError("every label is constant in the training rows", expected="both values of some label")
        self.trees.adopt(models, columns, baseline)

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
