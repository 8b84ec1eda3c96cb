"""The scikit-learn face: estimators that take dictionaries of arrays in which modalities may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError

from amodal.checkpoint import TrainedModel, read_experiment
from amodal.data.checks import name_rows
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError, SchemaError, ShapeError
from amodal.kinds import modality_kind
from amodal.missingness import Mechanism, mechanism_from_json
from amodal.predictive_impact.model import impact
from amodal.predictive_impact.result import Impact
from amodal.schema import Schema, Task
from amodal.training import fit

__all__ = ["MissingModalityClassifier", "MissingModalityRegressor", "load"]

Inputs = Mapping[str, Any]


class _Estimator(BaseEstimator):
    """What the classifier and the regressor share."""

    def __init__(
        self,
        method: str = "modality_dropout",
        *,
        options: dict[str, Any] | None = None,
        encoders: dict[str, Any] | None = None,
        missingness: Mechanism | str | None = "auto",
        epochs: int = 60,
        settings: dict[str, Any] | None = None,
        width: int = 64,
        kinds: dict[str, str] | None = None,
        seed: int = 0,
        progress: bool = False,
    ):
        self.method = method
        self.options = options
        self.encoders = encoders
        self.missingness = missingness
        self.epochs = epochs
        self.settings = settings
        self.width = width
        self.kinds = kinds
        self.seed = seed
        self.progress = progress

    def _fit(self, X: Inputs, task: Task, target: np.ndarray, observed: Inputs | None, groups: Any) -> Self:
        cohort = Cohort.from_arrays(
            _named(X, self.kinds or {}),
            task=task,
            target=target,
            observed=_presence(observed),
            groups=groups,
            kinds=self.kinds,
        )
        self.model_ = fit(
            self.method,
            cohort,
            missingness=self.missingness,
            options=self.options,
            encoders=self.encoders,
            width=self.width,
            seed=self.seed,
            progress=self.progress,
            epochs=self.epochs,
            **(self.settings or {}),
        )
        self.schema_: Schema = self.model_.schema
        self.n_features_in_ = len(cohort.schema.names)
        return self

    def _cohort(self, X: Inputs, observed: Inputs | None) -> Cohort:
        """New cases as a cohort; a modality they lack altogether is absent for all."""
        if not hasattr(self, "model_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        if isinstance(X, Mapping):
            self.schema_.check_names(list(X))
        values = _named(X, {name: self.schema_[name].kind for name in self.schema_.names})
        kinds: dict[str, str] = {name: self.schema_[name].kind for name in values}
        return Cohort.from_arrays(values, task=self.schema_.task, observed=_presence(observed), kinds=kinds)

    def _predictions(self, X: Inputs, observed: Inputs | None) -> np.ndarray:
        cohort = self._cohort(X, observed)
        return self.model_.predict(cohort)

    def impact(
        self, X: Inputs, observed: Inputs | None = None, *, draws: int = 200, seed: int = 0, vary: Any = "missing"
    ) -> Impact:
        """How much what is missing could still change each prediction; see `amodal.impact`.

        Args:
            X: Cases as for `predict`.
            observed: For some modalities, presence, bool (N,); the others are judged by their NaN.
            draws: Number of plausible completions of each case.
            seed: Seed of all draws.
            vary: Modalities that get a V of their own: "missing", "all", or names.

        Returns:
            V with its standard error, by case and by modality, and the plausible labels. Methods that cannot draw
            completions themselves take them from the cases the estimator was fitted on.

        Raises:
            ConfigurationError: If there are no draws, or the method cannot draw and the estimator was loaded: a
                folder does not hold the cases it was fitted on.
        """
        cohort = self._cohort(X, observed)
        return impact(self.model_, cohort, draws=draws, seed=seed, vary=vary)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the fitted estimator's folder; `amodal.load` gives the estimator back.

        Args:
            folder: Where; it appears complete or not at all.
            overwrite: Whether to replace an existing run.

        Returns:
            The folder.
        """
        if not hasattr(self, "model_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        params = self.get_params(deep=False)
        if isinstance(self.missingness, Mechanism):
            params["missingness"] = self.missingness.to_json()
        self.model_.experiment["estimator"] = {"class": type(self).__name__, "params": params}
        return self.model_.save(folder, overwrite=overwrite)

    def _restore(self, model: TrainedModel) -> Self:
        self.model_, self.schema_ = model, model.schema
        self.n_features_in_ = len(model.schema.names)
        return self


class MissingModalityClassifier(ClassifierMixin, _Estimator):
    """A classifier for several modalities of which some are missing, in training, at prediction, or both.

    `X` is a dictionary {name: array of shape (N, …) or list of N strings}: (N, D) tabular, (N, T, D) series,
    (N, C, H, W) image, strings text. A row that is NaN throughout is absent, as is one with observed[name] False; a NaN
    inside a present row of a table or series is a cell that was not measured.

    Args:
        method: A name in `amodal.METHODS`.
        options: Keyword arguments of the method.
        encoders: For some modalities, an encoder's name or {"name": …, option: …}.
        missingness: Further removal in training; "auto" redraws it every epoch so that every pattern is met.
        epochs: Passes over the training rows, at most; early stopping looks at a tenth held back by group.
        settings: Further fields of `amodal.training.TrainingSettings`.
        width: Width of tokens and pooled vectors.
        kinds: For some modalities, the kind where the shape does not tell.
        seed: Decides weights, order, removal and all noise.
        progress: Whether to show a progress bar.

    Attributes:
        classes_: The class labels, in the order of the columns of `predict_proba`.
        model_: The `amodal.TrainedModel` beneath.
        schema_: Modalities and task.

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

    def fit(self, X: Inputs, y: Any, observed: Inputs | None = None, groups: Any = None) -> Self:
        """Trains on N cases.

        Args:
            X: Arrays of N rows, or lists of N strings, by modality.
            y: N labels of any type, or a 0/1 array (N, K) for K labels at once.
            observed: For some modalities, presence, bool (N,); the others are judged by their NaN.
            groups: Group (patient) of each case; rows of a group stay on one side of the validation split.

        Returns:
            The estimator itself.

        Raises:
            DataError: If labels are missing or there is one class only.
        """
        labels = np.asarray(y)
        if labels.ndim == 2 and labels.shape[1] > 1:
            self.classes_ = np.arange(labels.shape[1])
            task = Task("multilabel", classes=tuple(int(k) for k in self.classes_))
            return self._fit(X, task, labels.astype(np.float32), observed, groups)
        labels = labels.reshape(-1)
        if _any_missing(labels):
            rows = name_rows(_missing(labels), np.arange(len(labels)))
            raise DataError(f"labels are missing in rows: {rows}", hint="Leave these rows out.")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError("there is one class only", expected="two or more", got=list(map(str, self.classes_)))
        kind = "binary" if len(self.classes_) == 2 else "multiclass"
        names = tuple(_plain(c) for c in self.classes_)
        return self._fit(X, Task(kind, classes=names), np.asarray(names)[codes], observed, groups)

    def predict_proba(self, X: Inputs, observed: Inputs | None = None) -> np.ndarray:
        """Probabilities of shape (N, C); cases may miss anything, and `X` may lack whole modalities."""
        return self._predictions(X, observed)

    def predict(self, X: Inputs, observed: Inputs | None = None) -> np.ndarray:
        """The most probable label of each case (N,), or the 0/1 labels (N, K) of a multilabel task."""
        probabilities = self.predict_proba(X, observed)
        if self.schema_.task.kind == "multilabel":
            return (probabilities > 0.5).astype(int)
        return self.classes_[probabilities.argmax(axis=1)]

    def _restore(self, model: TrainedModel) -> Self:
        self.classes_ = np.asarray(model.schema.task.classes)
        return super()._restore(model)


class MissingModalityRegressor(RegressorMixin, _Estimator):
    """A regressor for several modalities of which some are missing; inputs as `MissingModalityClassifier`.

    Args:
        method: A name in `amodal.METHODS`.
        options: Keyword arguments of the method.
        encoders: For some modalities, an encoder's name or {"name": …, option: …}.
        missingness: Further removal in training; "auto" redraws it every epoch so that every pattern is met.
        epochs: Passes over the training rows, at most; early stopping looks at a tenth held back by group.
        settings: Further fields of `amodal.training.TrainingSettings`.
        width: Width of tokens and pooled vectors.
        kinds: For some modalities, the kind where the shape does not tell.
        seed: Decides weights, order, removal and all noise.
        progress: Whether to show a progress bar.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = {"a": rng.normal(size=(60, 3)), "b": rng.normal(size=(60, 2))}
        >>> model = MissingModalityRegressor("fusion", epochs=1).fit(X, X["a"][:, 0])
        >>> model.predict({"b": X["b"][:5]}).shape
        (5,)
    """

    def fit(self, X: Inputs, y: Any, observed: Inputs | None = None, groups: Any = None) -> Self:
        """Trains on N cases; see `MissingModalityClassifier.fit`. `y` are N finite numbers."""
        target = np.asarray(y, dtype=np.float64).reshape(-1)
        if not np.isfinite(target).all():
            bad = ~np.isfinite(target)
            raise DataError(
                f"targets are missing or infinite in rows: {name_rows(bad, np.arange(len(target)))}",
                expected="finite numbers",
                hint="Leave these rows out.",
            )
        return self._fit(X, Task("regression"), target, observed, groups)

    def predict(self, X: Inputs, observed: Inputs | None = None) -> np.ndarray:
        """Predicted values of shape (N,); cases may miss anything, and `X` may lack whole modalities."""
        return self._predictions(X, observed)


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
    params = dict(record["params"])
    if isinstance(params.get("missingness"), dict):
        params["missingness"] = mechanism_from_json(params["missingness"])
    return kinds[record["class"]](**params)._restore(model)


def _named(X: Inputs, kinds: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(X, Mapping):
        raise SchemaError(
            "X is not a dictionary of modalities",
            expected="{name: array of shape (N, …) or list of str}",
            got=type(X).__name__,
            hint="For a single modality pass {'x': X}.",
        )
    if not X:
        raise SchemaError("X has no modality")
    return {name: _array(name, value, kinds.get(name)) for name, value in X.items()}


def _array(name: str, value: Any, kind: str | None) -> Any:
    is_text = kind is not None and modality_kind(kind).holds_texts
    if isinstance(value, Sequence) and not isinstance(value, str):
        entries = value
    else:
        array = np.asarray(value)
        flat = array.ndim == 1 and (is_text or array.dtype.kind in "UTO")
        entries = array.tolist() if flat else ()
    if len(entries) and (is_text or any(isinstance(entry, str) for entry in entries)):
        return list(entries)  # None = absent
    array = np.asarray(value)
    if array.ndim < 2:
        raise ShapeError(
            f"modality {name!r} has the wrong number of axes",
            expected="(N, D), (N, T, D), (N, C, H, W) or a list of str",
            got=array.shape,
            hint="A single feature is a column: reshape(-1, 1)." if array.ndim == 1 else None,
        )
    return array


def _presence(observed: Inputs | None) -> dict[str, np.ndarray] | None:
    if observed is None:
        return None
    result = {}
    for name, value in observed.items():
        array = np.asarray(value)
        if array.dtype != bool:
            raise ConfigurationError(f"observed[{name!r}] must be bool", expected="True = present", got=array.dtype)
        result[name] = array
    return result


def _missing(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind == "f":
        return np.isnan(labels)
    return np.array([label is None or label != label for label in labels.tolist()], dtype=bool)


def _any_missing(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "fO" and bool(_missing(labels).any())


def _plain(label: Any) -> str | int | bool:
    value = label.item() if isinstance(label, np.generic) else label
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | bool) else str(value)
