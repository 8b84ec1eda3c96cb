"""The scikit-learn face: estimators of several modalities of which some are missing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import validate_data

from amodal.cases import Cases
from amodal.checkpoint import TrainedModel, read_experiment
from amodal.data.checks import as_array, is_missing
from amodal.data.cohort import Cohort
from amodal.data.frames import as_frame
from amodal.errors import ConfigurationError, DataError, SchemaError, ShapeError
from amodal.method import SamplingMethod
from amodal.missingness import Mechanism, mechanism_from_json
from amodal.outcome import Outcome, read_labels, read_numbers
from amodal.predictive_impact import Advice, Impact
from amodal.schema import Schema, Task, put_in_order
from amodal.seal import naming_the_folder
from amodal.training import fit

__all__ = ["MissingModalityClassifier", "MissingModalityRegressor", "load"]

_ONE = "x"  # name of the modality that a table is when nothing divides it


class _Estimator(BaseEstimator, ABC):
    """Base of the classifier and the regressor."""

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
        seed: int = 0,
        keep_training: bool = False,
        progress: bool = False,
    ):
        self.method = method
        self.modalities = modalities
        self.options = options
        self.encoders = encoders
        self.missingness = missingness
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.settings = settings
        self.width = width
        self.kinds = kinds
        self.seed = seed
        self.keep_training = keep_training
        self.progress = progress

    # Parameters ------------------------------------------------------------------------------------------------------

    def set_params(self, **params: Any) -> Self:
        """Sets parameters; ``settings__epochs=5`` sets one entry of a parameter that is a dictionary."""
        entries = {key: value for key, value in params.items() if self._entry_of(key)}
        super().set_params(**{key: value for key, value in params.items() if key not in entries})
        for key, value in entries.items():
            name, _, entry = key.partition("__")
            setattr(self, name, {**(getattr(self, name) or {}), entry: value})
        return self

    def _entry_of(self, key: str) -> bool:
        name, sign, entry = key.partition("__")
        return bool(sign and entry) and name in ("settings", "options", "encoders", "kinds", "modalities")

    def _settings(self) -> dict[str, Any]:
        named = {"learning_rate": self.learning_rate, "batch_size": self.batch_size}
        chosen = {key: value for key, value in named.items() if value is not None}
        return {"epochs": self.epochs, **chosen, **(self.settings or {})}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # Fitting ---------------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, observed: Any, groups: Any, sample_weight: Any, eval_set: Any) -> Self:
        cases = self._cases(X, reset=True)
        outcome = self._read(cases.align("y", y))
        if len(outcome.target) != len(cases):
            raise ShapeError(
                "X and y have inconsistent numbers of samples", expected=len(cases), got=len(outcome.target)
            )
        if len(cases) < 2:
            raise DataError("one sample is not enough to learn from", expected="n_samples of 2 or more", got=len(cases))
        train = self._cohort_of(cases, outcome.task, outcome.target, observed, groups)
        self.model_ = fit(
            self.method,
            train,
            self._validation(outcome, eval_set, train.schema),
            missingness=self.missingness,
            weight=self._weights(cases.align("sample_weight", sample_weight), outcome, len(cases)),
            options=self.options,
            encoders=self.encoders,
            width=self.width,
            seed=self.seed,
            progress=self.progress,
            **self._settings(),
        )
        self.schema_: Schema = self.model_.schema
        self.model_.training_cases = train if self.keep_training else None
        self._take_names(train.schema)
        return self

    @abstractmethod
    def _read(self, y: Any) -> Outcome:
        """The outcome that a user's `y` is."""

    @abstractmethod
    def predict(self, X: Any, observed: Any = None) -> np.ndarray:
        """The predicted labels or values."""

    def _weights(self, sample_weight: Any, outcome: Outcome, n: int) -> np.ndarray | None:
        """The weight of each case; None: all alike."""
        if sample_weight is None:
            return None
        weights = np.asarray(sample_weight, dtype=np.float64)
        return np.full(n, float(weights)) if weights.ndim == 0 else weights

    def _validation(self, outcome: Outcome, eval_set: Any, schema: Schema) -> Cohort | None:
        if eval_set is None:
            return None
        pairs = [eval_set] if isinstance(eval_set, tuple) else list(eval_set)
        if len(pairs) != 1 or len(pairs[0]) != 2:
            raise ConfigurationError("eval_set is not one set of cases", expected="(X, y)", got=f"{len(pairs)} sets")
        cases, target = self._cases(pairs[0][0], reset=False), pairs[0][1]
        target = self._coded(cases.align("y", target), outcome)
        return self._cohort_of(cases, outcome.task, target, None, None, schema)

    def _coded(self, y: Any, outcome: Outcome) -> Any:
        """Targets of further cases, as the task has them."""
        return np.asarray(y)

    def _take_names(self, schema: Schema) -> None:
        """Names of the features as scikit-learn has them: an array for one table, arrays by modality for several."""
        if self._columns is None:
            self.n_features_in_ = len(schema.names)
            named = {m.name: np.array(m.features, dtype=object) for m in schema.modalities if m.features}
            if named:
                self.feature_names_in_ = named
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_

    # Cases -----------------------------------------------------------------------------------------------------------

    def _cases(self, X: Any, *, reset: bool) -> Cases:
        """X as cases with the modalities by name; `reset`: they are those to learn from."""
        if isinstance(X, Mapping) and not hasattr(X, "tocsr"):  # some sparse matrices are dictionaries
            if reset:
                if self.modalities is not None:
                    raise SchemaError("`modalities` divides one table, and X is a dictionary", hint="Leave it out.")
                self._columns: dict[str, list[Any]] | None = None
            return Cases(X)
        if not reset and self._columns is None:
            raise SchemaError(
                "X is not a dictionary of modalities",
                expected=f"{{name: values}} with {', '.join(self.schema_.names)}, as in fit",
                got=type(X).__name__,
            )
        dimensions = getattr(X, "ndim", 2)
        if dimensions > 2:
            raise ShapeError(
                f"Found array with dim {dimensions}, while dim <= 2 is required of one table",
                hint="Give other modalities by name: {'x': X}.",
            )
        frame = as_frame(X)
        if frame is None or not all(isinstance(label, str) for label in frame.columns):
            return self._divide_array(X, frame, reset)
        return self._divide_frame(frame, reset)

    def _divide_array(self, X: Any, frame: Any, reset: bool) -> Cases:
        X = validate_data(self, X, reset=reset, ensure_all_finite="allow-nan")
        if reset:
            given = {_ONE: slice(None)} if self.modalities is None else self.modalities
            places = np.arange(X.shape[1])
            self._columns = {name: _positions(name, columns, places) for name, columns in given.items()}
        assert self._columns is not None
        chosen = {
            name: columns if _are_places(columns) else [list(self.feature_names_in_).index(c) for c in columns]
            for name, columns in self._columns.items()
        }
        cases = Cases({name: X[:, columns] for name, columns in chosen.items()})
        cases.index = None if frame is None else frame.index
        return cases

    def _divide_frame(self, frame: Any, reset: bool) -> Cases:
        if reset:
            given = {_ONE: slice(None)} if self.modalities is None else self.modalities
            labels = np.array(frame.columns, dtype=object)
            self._columns = {name: _labels(name, columns, labels) for name, columns in given.items()}
            used = list(dict.fromkeys(label for columns in self._columns.values() for label in columns))
            validate_data(self, frame[used], skip_check_array=True)
        assert self._columns is not None
        if not hasattr(self, "feature_names_in_"):  # learned from an array: columns go by position
            return self._divide_array(frame, frame, reset=False)
        chosen = {}
        for name, columns in self._columns.items():
            present = [label for label in columns if label in frame.columns]
            if len(present) == len(columns) and self.modalities is not None:
                chosen[name] = frame[columns]
            elif present or self.modalities is None:  # raises, with the names
                given = present if self.modalities is not None else list(frame.columns)
                put_in_order(f"modality {name!r} has other features", given, columns)
                chosen[name] = frame[columns]
        if not chosen:
            raise SchemaError(
                "X has none of the columns of fit",
                expected=", ".join(map(str, self.feature_names_in_)),
                got=list(frame),
            )
        return Cases(chosen)

    def _cohort_of(
        self, cases: Cases, task: Task, target: Any, observed: Any, groups: Any, schema: Schema | None = None
    ) -> Cohort:
        """Cases as a cohort; `schema`: what they have to fit."""
        kinds = dict(self.kinds or {}) if schema is None else {name: schema[name].kind for name in cases}
        features = {} if schema is None else {name: schema[name].features for name in cases}
        values = {name: _one_column(name, column) for name, column in cases.items()}
        ids = cases.index
        if ids is None or not ids.is_unique or not all(isinstance(label, str | int | np.integer) for label in ids):
            ids = np.arange(len(cases))
        return Cohort.from_arrays(
            values,
            task=task,
            target=target,
            observed=_presence(cases, observed),
            groups=cases.align("groups", groups),
            ids=np.asarray(ids),
            kinds=kinds,
            features=features,
        )

    def _cohort(self, X: Any, observed: Any) -> Cohort:
        """New cases as a cohort; a modality they lack altogether is absent for all."""
        self._check_fitted()
        cases = self._cases(X, reset=False)
        self.schema_.check_names(list(cases))
        lacking = [name for name, column in cases.items() if _is_empty(column)]
        if len(lacking) < len(list(cases.keys())):
            index = cases.index
            cases = Cases({name: column for name, column in cases.items() if name not in lacking})
            cases.index = index
            observed = None if observed is None else {k: v for k, v in observed.items() if k not in lacking}
        return self._cohort_of(cases, self.schema_.task, None, observed, None, self.schema_)

    def _predictions(self, X: Any, observed: Any) -> np.ndarray:
        cohort = self._cohort(X, observed)
        return self.model_.predict(cohort)

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet; call fit first.")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _aligned_score_arguments(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        self._check_fitted()
        cases = self._cases(X, reset=False)
        return X, cases.align("y", y), cases.align("sample_weight", sample_weight)

    def _known_score(self, metric: Callable[..., float], X: Any, y: Any, weight: Any) -> float:
        """A metric of scikit-learn over the cases whose target is known."""
        array, predicted = as_array(y), self.predict(X)
        known = np.array([not is_missing(entry) for entry in array.tolist()], dtype=bool)
        if not known.any():
            raise DataError("no target is known in y", expected="at least one to score against")
        if known.all():
            return float(metric(y, predicted, sample_weight=weight))
        weight = None if weight is None else np.asarray(weight)[known]
        return float(metric(np.array(array[known].tolist()), predicted[known], sample_weight=weight))

    # What is missing -------------------------------------------------------------------------------------------------

    def impact(self, X: Any, observed: Any = None, *, train: Any = None, **options: Any) -> Impact:
        """Variability of each prediction over what is missing; see `amodal.impact`.

        Args:
            X: Cases as for `predict`.
            observed: As for `predict`.
            train: The cases that `fit` was given, to take completions from; needed only where the method cannot draw
                completions itself, and not with `keep_training`.
            **options: Of `amodal.impact`: `draws`, `seed`, `vary`, `completions`, `neighbours`, `plausible`, …

        Returns:
            V with its standard error, by case and by modality, and the plausible labels.

        Raises:
            ConfigurationError: If there are no draws, or the method cannot draw and there are no training cases.
        """
        cohort = self._cohort(X, observed)
        lenders = self._donors(train)
        return self.model_.impact(cohort, train=None if train is None else lenders, **options)

    def advise(self, X: Any, observed: Any = None, *, train: Any = None, **options: Any) -> Advice:
        """Advice on the missing modality of each case to look at next; see `amodal.predictive_impact.advise`.

        Args:
            X: Cases as for `predict`.
            observed: As for `predict`.
            train: As for `impact`.
            **options: Of that function: `draws`, `seed`, `utility`, …

        Returns:
            What that function gives.

        Raises:
            ConfigurationError: As `impact`.
        """
        return self.model_.advise(self._cohort(X, observed), train=self._donors(train), **options)

    def _donors(self, train: Any) -> Cohort | None:
        """Training cases to take completions from."""
        if train is not None:
            return self._cohort(train, None)
        kept = self.model_.training_cases
        if kept is None and not isinstance(self.model_.method, SamplingMethod):
            raise ConfigurationError(
                f"the method {self.method!r} cannot draw completions itself, and there are no training cases to take "
                "them from",
                hint="Pass them: train=X_train; or fit with keep_training=True (a saved estimator does not keep them).",
            )
        return kept

    # Folders ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the fitted estimator's folder; `amodal.load` gives the estimator back.

        Args:
            folder: Where; it appears complete or not at all.
            overwrite: Whether to replace an existing run.

        Returns:
            The folder.
        """
        self._check_fitted()
        params = self.get_params(deep=False)
        if isinstance(self.missingness, Mechanism):
            params["missingness"] = self.missingness.to_json()
        if self.modalities is not None:
            params["modalities"] = self._columns
        record: dict[str, Any] = {"class": type(self).__name__, "params": params, "columns": self._columns}
        self.model_.experiment["estimator"] = record | self._record()
        return self.model_.save(folder, overwrite=overwrite)

    def _record(self) -> dict[str, Any]:
        names = getattr(self, "feature_names_in_", None)
        return {"features": names.tolist() if isinstance(names, np.ndarray) else None, "inputs": self.n_features_in_}

    def _restore(self, model: TrainedModel, record: Mapping[str, Any]) -> Self:
        self.model_, self.schema_, self._columns = model, model.schema, record.get("columns")
        if record.get("features"):
            self.feature_names_in_ = np.array(record["features"], dtype=object)
        self._take_names(model.schema)
        if self._columns is not None:
            self.n_features_in_ = int(record["inputs"])
        return self


class MissingModalityClassifier(ClassifierMixin, _Estimator):
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
        by_class[known] = compute_sample_weight(self.class_weight, labels)
        return by_class if weights is None else by_class * weights

    def _coded(self, y: Any, outcome: Outcome) -> Any:
        if outcome.task.traits.many_labels:
            return np.asarray(y, dtype=np.float32)
        assert outcome.classes is not None
        names = dict(zip(outcome.classes.tolist(), outcome.task.classes))
        return np.array([names.get(label, label) for label in np.asarray(y).ravel().tolist()], dtype=object)

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
        self.classes_ = classes.astype(record.get("class_dtype", classes.dtype))
        self._label_dtype = np.dtype(record.get("label_dtype", int))
        return super()._restore(model, record)


class MissingModalityRegressor(RegressorMixin, _Estimator):
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
        return kinds[record["class"]](**params)._restore(model, record)


def _labels(name: str, columns: Any, labels: np.ndarray) -> list[str]:
    """The columns of one modality, by name or position, as names."""
    if isinstance(columns, str):
        columns = [columns]
    if not isinstance(columns, slice) and all(isinstance(column, str) for column in columns):
        unknown = [column for column in columns if column not in labels]
        if unknown:
            raise SchemaError(
                f"X lacks columns of modality {name!r}: {', '.join(unknown)}", got=", ".join(map(str, labels[:12]))
            )
        return list(columns)
    return [str(label) for label in labels[_positions(name, columns, np.arange(len(labels)))]]


def _positions(name: str, columns: Any, places: np.ndarray) -> list[int]:
    """The columns of one modality as positions."""
    if isinstance(columns, slice):
        chosen = places[columns]
    elif _are_places(columns):
        chosen = np.asarray(columns, dtype=int)
    else:
        raise SchemaError(
            f"the columns of modality {name!r} are names, and X has none",
            expected="a frame, or positions of columns",
            got=columns,
        )
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(places):
        raise SchemaError(
            f"X has n_features = {len(places)}: modality {name!r} has no such columns",
            expected=columns,
            got=len(places),
        )
    return chosen.tolist()


def _are_places(columns: Any) -> bool:
    return not isinstance(columns, str) and all(isinstance(column, int | np.integer) for column in columns)


def _one_column(name: str, column: Any) -> Any:
    """Refuses a bare vector of numbers, which could be a feature or a row."""
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "biufc":
        raise ShapeError(
            f"modality {name!r} has the wrong number of axes",
            expected="(N, D), (N, T, D), (N, C, H, W), or a list of str or arrays",
            got=column.shape,
            hint="A single feature is a column: reshape(-1, 1).",
        )
    return column


def _is_empty(column: Any) -> bool:
    """Whether a list or column holds nothing but what stands for missing."""
    if not isinstance(column, list | tuple) and getattr(column, "dtype", None) != np.dtype(object):
        return False
    return all(is_missing(entry) for entry in column)


def _presence(cases: Cases, observed: Any) -> dict[str, np.ndarray] | None:
    if observed is None:
        return None
    if not isinstance(observed, Mapping):
        raise ConfigurationError(
            "observed is not given by modality", expected="{name: bool (N,)}", got=type(observed).__name__
        )
    result = {}
    for name, value in observed.items():
        array = np.asarray(cases.align(f"observed[{name!r}]", value))
        if array.dtype != bool:
            raise ConfigurationError(f"observed[{name!r}] must be bool", expected="True = present", got=array.dtype)
        result[name] = array
    return result
