"""Classifier and regressor of several modalities, and the loading of a saved one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.class_weight import compute_sample_weight

from amodal.checkpoint import TrainedModel, read_experiment
from amodal.data.checks import as_array, is_missing
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.estimator.base import MissingModalityEstimator
from amodal.missingness import Mechanism, mechanism_from_json
from amodal.outcome import Outcome, read_labels, read_numbers
from amodal.schema import put_in_order
from amodal.seal import naming_the_folder

__all__ = ["MissingModalityClassifier", "MissingModalityRegressor", "load"]


class MissingModalityClassifier(ClassifierMixin, MissingModalityEstimator):
    """A classifier for several modalities of which some are missing, in training, at prediction, or both.

    `X` is a dictionary {name: values}, `Cases` of one (what the tools of scikit-learn need: `cross_val_score`,
    searches, splits), or one table with `modalities={name: columns}`. Values are arrays, tensors, frames or lists:
    (N, D) tabular, (N, T, D) series, (N, C, H, W) image, N strings text, N arrays (T_i, D) series of different length.
    A row that is NaN throughout (or None) is absent, as is one with observed[name] False; a NaN inside a present row
    of a table or series is a cell that was not measured.

    Rows of pandas objects are aligned by their labels, columns by their names; see `Cases`.

    Args:
        method: A name in `amodal.METHODS`.
        modalities: For one table: the columns of each modality, by name, position or slice; None: all are one.
        options: Keyword arguments of the method.
        encoders: For some modalities, an encoder's name or {"name": …, option: …}.
        missingness: Further removal in training; "auto" redraws it every epoch so that every pattern is met.
        epochs: Passes over the training rows, at most; early stopping looks at a tenth held back by group.
        learning_rate: Peak learning rate; None: that of `TrainingSettings`.
        batch_size: Rows a step; None: by the number of rows.
        settings: Further fields of `amodal.training.TrainingSettings`; what stands here goes before the parameter of
            the same name, so that a search may vary ``settings__epochs``.
        width: Width of tokens and pooled vectors.
        kinds: For some modalities, the kind where the shape does not tell.
        class_weight: "balanced", so that all classes count alike, or {label: weight}; not for several labels at once.
        seed: Decides weights, order, removal and all noise.
        keep_training: Whether to keep the training cases, which `impact` needs for methods that cannot draw.
        progress: Whether to show a progress bar.

    Attributes:
        classes_: The class labels, in the order of the columns of `predict_proba`.
        model_: The `amodal.TrainedModel` beneath.
        schema_: Modalities and task.
        feature_names_in_: Names of the columns, by modality; for one table as one array.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = {"a": rng.normal(size=(60, 3)), "b": rng.normal(size=(60, 2))}
        >>> y = np.where(X["a"][:, 0] > 0, "yes", "no")
        >>> X["b"][::2] = np.nan  # the second modality is absent in every other case
        >>> clf = MissingModalityClassifier("fusion", epochs=1).fit(X, y)
        >>> clf.predict_proba({"a": X["a"][:5]}).shape
        (5, 2)
    """

    def __init__(
        self,
        method: str = "modality_dropout",
        *,
        modalities: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        encoders: dict[str, Any] | None = None,
        missingness: Mechanism | str | None = "auto",
        epochs: int = 60,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        settings: dict[str, Any] | None = None,
        width: int = 64,
        kinds: dict[str, str] | None = None,
        class_weight: str | dict[Any, float] | None = None,
        seed: int = 0,
        keep_training: bool = False,
        progress: bool = False,
    ):
        super().__init__(
            method,
            modalities=modalities,
            options=options,
            encoders=encoders,
            missingness=missingness,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            settings=settings,
            width=width,
            kinds=kinds,
            seed=seed,
            keep_training=keep_training,
            progress=progress,
        )
        self.class_weight = class_weight

    def fit(
        self,
        X: Any,
        y: Any,
        observed: Any = None,
        groups: Any = None,
        sample_weight: Any = None,
        eval_set: Any = None,
    ) -> Self:
        """Trains on N cases.

        Args:
            X: Cases; see the class.
            y: N labels of any type, or (N, K) of 0, 1 and NaN for K labels that may be true at once.
            observed: For some modalities, presence, bool (N,); the others are judged by their NaN.
            groups: Group (patient) of each case; rows of a group stay on one side of the validation split.
            sample_weight: How much each case counts, (N,): one of weight 2 comes twice as often as one of weight 1.
            eval_set: (X, y) to validate on; None: a tenth held back, by group.

        Returns:
            The estimator itself.

        Raises:
            DataError: If labels are missing, are no classes, or of one class only, or rows cannot be aligned.
        """
        return self._fit(X, y, observed, groups, sample_weight, eval_set)

    def _read(self, y: Any) -> Outcome:
        outcome = read_labels(y)
        assert outcome.classes is not None
        self.classes_, self._label_dtype = outcome.classes, outcome.dtype
        return outcome

    def _weights(self, sample_weight: Any, outcome: Outcome, n: int) -> np.ndarray | None:
        weights = super()._weights(sample_weight, outcome, n)
        if self.class_weight is None:
            return weights
        if outcome.task.traits.many_labels:
            raise ConfigurationError(
                "class_weight is for classes that exclude each other", got=outcome.task.kind, hint="Pass sample_weight."
            )
        assert outcome.classes is not None
        names = list(outcome.task.classes)
        known = np.array([label is not None for label in outcome.target], dtype=bool)
        labels = outcome.classes[[names.index(label) for label in outcome.target[known]]]
        by_class = np.ones(n)
        if isinstance(self.class_weight, Mapping):
            for label in self.class_weight:
                if label not in outcome.classes.tolist():
                    raise UnknownNameError("class in class_weight", str(label), list(map(str, outcome.classes)))
            by_class[known] = [self.class_weight.get(label, 1.0) for label in labels.tolist()]
        elif self.class_weight == "balanced":
            by_class[known] = compute_sample_weight("balanced", labels)
        else:
            raise ConfigurationError(
                "class_weight is out of range", expected='"balanced" or {label: weight}', got=self.class_weight
            )
        return by_class if weights is None else by_class * weights

    def _coded(self, y: Any, outcome: Outcome) -> Any:
        if outcome.task.traits.many_labels:
            return as_array(y)
        assert outcome.classes is not None
        names = dict(zip(outcome.classes.tolist(), outcome.task.classes))
        return np.array([names.get(label, label) for label in as_array(y).ravel().tolist()], dtype=object)

    def _in_order(self, y: Any) -> Any:
        """Targets of further cases; of several labels named by a frame, the columns in the order of `classes_`."""
        names = self.classes_.tolist()
        if not hasattr(y, "iloc") or y.ndim != 2 or y.shape[1] == 1 or names == list(range(len(names))):
            return y
        return y.iloc[:, put_in_order("y has other labels", [str(label) for label in y.columns], names)]

    def predict_proba(self, X: Any, observed: Any = None) -> np.ndarray:
        """Probabilities of shape (N, C); cases may miss anything, and `X` may lack whole modalities."""
        return self._predictions(X, observed)

    def predict(self, X: Any, observed: Any = None) -> np.ndarray:
        """The most probable label of each case (N,), or the 0/1 labels (N, K) of a multilabel task."""
        probabilities = self.predict_proba(X, observed)
        if self.schema_.task.traits.many_labels:
            return (probabilities > 0.5).astype(self._label_dtype)
        return self.classes_[probabilities.argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy where the label is known; `y` is aligned with the rows of X by label where both have some.

        Of several labels all must be right, as in scikit-learn: all that are known, over the cases that have one.
        """
        X, y, weight = self._aligned_score_arguments(X, y, sample_weight)
        labels = np.asarray(y, dtype=object)
        if labels.ndim != 2 or not self.schema_.task.traits.many_labels:
            return self._known_score(accuracy_score, X, y, weight)
        known = np.array([[not is_missing(entry) for entry in row] for row in labels.tolist()], dtype=bool)
        if known.all():
            return super().score(X, y, weight)
        rows = known.any(axis=1)
        if not rows.any():
            raise DataError("no label is known in y", expected="at least one to score against")
        wrong = known & (self.predict(X) != np.where(known, labels, 0).astype(float))
        weight = None if weight is None else np.asarray(weight)[rows]
        return float(np.average(~wrong[rows].any(axis=1), weights=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _record(self) -> dict[str, Any]:
        return super()._record() | {"label_dtype": str(self._label_dtype), "class_dtype": str(self.classes_.dtype)}

    def _restore(self, model: TrainedModel, record: Mapping[str, Any]) -> Self:
        classes = np.asarray(model.schema.task.classes)
        dtype = np.dtype(record.get("class_dtype", classes.dtype))
        if dtype.kind not in "biufUOM":
            raise ValueError(f"labels are of no type {dtype}")
        self.classes_ = classes.astype(dtype)
        self._label_dtype = np.dtype(record.get("label_dtype", int))
        return super()._restore(model, record)


class MissingModalityRegressor(RegressorMixin, MissingModalityEstimator):
    """A regressor for several modalities of which some are missing; inputs as `MissingModalityClassifier`.

    Args:
        method: A name in `amodal.METHODS`.
        modalities: For one table: the columns of each modality, by name, position or slice; None: all are one.
        options: Keyword arguments of the method.
        encoders: For some modalities, an encoder's name or {"name": …, option: …}.
        missingness: Further removal in training; "auto" redraws it every epoch so that every pattern is met.
        epochs: Passes over the training rows, at most; early stopping looks at a tenth held back by group.
        learning_rate: Peak learning rate; None: that of `TrainingSettings`.
        batch_size: Rows a step; None: by the number of rows.
        settings: Further fields of `amodal.training.TrainingSettings`; see the classifier.
        width: Width of tokens and pooled vectors.
        kinds: For some modalities, the kind where the shape does not tell.
        seed: Decides weights, order, removal and all noise.
        keep_training: Whether to keep the training cases, which `impact` needs for methods that cannot draw.
        progress: Whether to show a progress bar.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = {"a": rng.normal(size=(60, 3)), "b": rng.normal(size=(60, 2))}
        >>> model = MissingModalityRegressor("fusion", epochs=1).fit(X, X["a"][:, 0])
        >>> model.predict({"b": X["b"][:5]}).shape
        (5,)
    """

    def fit(
        self,
        X: Any,
        y: Any,
        observed: Any = None,
        groups: Any = None,
        sample_weight: Any = None,
        eval_set: Any = None,
    ) -> Self:
        """Trains on N cases; see `MissingModalityClassifier.fit`. `y` are N finite numbers."""
        return self._fit(X, y, observed, groups, sample_weight, eval_set)

    def _read(self, y: Any) -> Outcome:
        return read_numbers(y)

    def predict(self, X: Any, observed: Any = None) -> np.ndarray:
        """Predicted values of shape (N,); cases may miss anything, and `X` may lack whole modalities."""
        return self._predictions(X, observed)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² where the target is known; `y` is aligned with the rows of X by label where both have some."""
        X, y, weight = self._aligned_score_arguments(X, y, sample_weight)
        return self._known_score(r2_score, X, y, weight)


def load(
    folder: str | Path, *, device: str = "cpu"
) -> TrainedModel | MissingModalityClassifier | MissingModalityRegressor:
    """Gives back what was saved: an estimator or a `TrainedModel`. Nothing in the folder is executed.

    Args:
        folder: Made by `save`, `amodal.fit(out=…)` or `amodal fit`.
        device: Where the weights go.

    Returns:
        The estimator if one was saved, else the trained model.

    Raises:
        RunError: If the folder is incomplete, damaged, or of a newer format.
    """
    record = read_experiment(Path(folder)).get("estimator")
    model = TrainedModel.load(folder, device=device)
    if record is None:
        return model
    kinds = {kind.__name__: kind for kind in (MissingModalityClassifier, MissingModalityRegressor)}
    with naming_the_folder(Path(folder)):
        params = dict(record["params"])
        if isinstance(params.get("missingness"), dict):
            params["missingness"] = mechanism_from_json(params["missingness"])
        if isinstance(params.get("class_weight"), list):
            params["class_weight"] = dict(params["class_weight"])
        return kinds[record["class"]](**params)._restore(model, record)
