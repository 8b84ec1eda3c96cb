"""The base of the estimators: parameters, cases of any form, fitting, impact and folders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import validate_data

from amodal.cases import Cases
from amodal.checkpoint import TrainedModel
from amodal.data.checks import as_array, is_missing
from amodal.data.cohort import Cohort
from amodal.data.frames import as_frame, named_columns
from amodal.errors import ConfigurationError, DataError, SchemaError, ShapeError
from amodal.estimator.columns import (
    are_places,
    check_table,
    checked_column,
    division,
    is_empty,
    labels_of,
    positions_of,
    read_presence,
)
from amodal.method import draws_itself
from amodal.missingness import Mechanism
from amodal.outcome import Outcome
from amodal.predictive_impact import Advice, Impact
from amodal.schema import Schema, Task, put_in_order
from amodal.training import fit

__all__ = ["MissingModalityEstimator"]


class MissingModalityEstimator(BaseEstimator, ABC):
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
        try:
            weights = np.asarray(sample_weight, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError("sample_weight is not numeric", expected=f"numbers ({n},), none missing") from None
        return np.full(n, float(weights)) if weights.ndim == 0 else weights

    def _validation(self, outcome: Outcome, eval_set: Any, schema: Schema) -> Cohort | None:
        if eval_set is None:
            return None
        pairs = [eval_set] if isinstance(eval_set, tuple) else list(eval_set)
        if len(pairs) != 1 or len(pairs[0]) != 2:
            raise ConfigurationError("eval_set is not one set of cases", expected="(X, y)", got=f"{len(pairs)} sets")
        cases, target = self._cases(pairs[0][0], reset=False), pairs[0][1]
        target = self._coded(self._in_order(cases.align("y", target)), outcome)
        return self._cohort_of(cases, outcome.task, target, None, None, schema)

    def _coded(self, y: Any, outcome: Outcome) -> Any:
        """Targets of further cases, as the task has them."""
        return np.ravel(as_array(y))

    def _in_order(self, y: Any) -> Any:
        """Targets of further cases, their columns in the order of those of fit."""
        return y

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
        check_table(X)
        given = as_frame(X)
        frame = None if given is None else named_columns(given)
        if frame is None or not all(isinstance(label, str) for label in frame.columns):
            return self._divide_array(X if frame is None else frame, frame, reset)
        assert given is not None
        return self._divide_frame(frame, reset, list(given.columns))

    def _divide_array(self, X: Any, frame: Any, reset: bool) -> Cases:
        X = validate_data(self, X, reset=reset, ensure_all_finite="allow-nan")
        if reset:
            given = division(self.modalities, [])
            places = np.arange(X.shape[1])
            self._columns = {name: positions_of(name, columns, places) for name, columns in given.items()}
        assert self._columns is not None
        chosen = {
            name: columns if are_places(columns) else [list(self.feature_names_in_).index(c) for c in columns]
            for name, columns in self._columns.items()
        }
        cases = Cases({name: X[:, columns] for name, columns in chosen.items()})
        cases.index = None if frame is None else frame.index
        return cases

    def _divide_frame(self, frame: Any, reset: bool, original: list[Any]) -> Cases:
        if reset:
            given = division(self.modalities, original)
            labels = np.array(frame.columns, dtype=object)
            self._columns = {name: labels_of(name, columns, labels) for name, columns in given.items()}
            used = list(dict.fromkeys(label for columns in self._columns.values() for label in columns))
            twice = sorted(set(frame.columns[frame.columns.duplicated()]) & set(used))
            if twice:
                raise SchemaError("X has columns of the same name", got=", ".join(twice[:8]))
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
        values = {name: checked_column(name, column) for name, column in cases.items()}
        ids = cases.index
        if ids is None or not ids.is_unique or not all(isinstance(label, str | int | np.integer) for label in ids):
            ids = np.arange(len(cases))
        return Cohort.from_arrays(
            values,
            task=task,
            target=target,
            observed=read_presence(cases, observed),
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
        lacking = [name for name, column in cases.items() if is_empty(column)]
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
        return X, self._in_order(cases.align("y", y)), cases.align("sample_weight", sample_weight)

    def _known_score(self, metric: Callable[..., float], X: Any, y: Any, weight: Any) -> float:
        """A metric of scikit-learn over the cases whose target is known."""
        array, predicted = as_array(y), self.predict(X)
        if array.ndim == 2 and array.shape[1] == 1:
            y = array = array[:, 0]
        known = np.array([not is_missing(entry) for entry in array.tolist()], dtype=bool)
        if not known.any():
            raise DataError("no target is known in y", expected="at least one to score against")
        if known.all():
            y = np.array(array.tolist()) if array.dtype == object or hasattr(y, "detach") else y
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
        if kept is None and not draws_itself(self.model_.method):
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
        if isinstance(params.get("class_weight"), Mapping):  # labels may be numbers, which are no keys in JSON
            params["class_weight"] = list(params["class_weight"].items())
        record: dict[str, Any] = {"class": type(self).__name__, "params": params, "columns": self._columns}
        self.model_.experiment["estimator"] = record | self._record()
        return self.model_.save(folder, overwrite=overwrite)

    def _record(self) -> dict[str, Any]:
        names = getattr(self, "feature_names_in_", None)
        return {"features": names.tolist() if isinstance(names, np.ndarray) else None, "inputs": self.n_features_in_}

    def _restore(self, model: TrainedModel, record: Mapping[str, Any]) -> Self:
        columns, features = record.get("columns"), record.get("features")
        if columns is not None:
            used = {column for part in dict(columns).values() for column in part}
            named = any(isinstance(column, str) for column in used)
            if (named and not used <= set(features or ())) or (features and len(features) != record["inputs"]):
                raise ValueError("columns of the modalities that are not among those of the table")
        self.model_, self.schema_, self._columns = model, model.schema, columns
        if record.get("features"):
            self.feature_names_in_ = np.array(record["features"], dtype=object)
        self._take_names(model.schema)
        if self._columns is not None:
            self.n_features_in_ = int(record["inputs"])
        return self
