"""A trained model and its folder: safetensors and JSON, loaded without constructor arguments, executing nothing."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.loader import CohortDataset
from amodal.data.scale import LevelCheck, Scaling
from amodal.encoders import build_encoders, portable_choices
from amodal.errors import ConfigurationError, DataError, RunError, UnknownNameError
from amodal.files import atomic_folder, plain_json, replace_file, write_json
from amodal.method import Clock, Method, SamplingMethod, inference
from amodal.methods import METHODS, method_options
from amodal.missingness import Presence
from amodal.predictive_impact import Advice, Impact, advise, impact
from amodal.recalibration import Recalibration, recalibration_from
from amodal.schema import Schema, check_schema, feature_order
from amodal.seal import check_seal, naming_the_folder, seal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMAT", "TrainedModel", "build_method", "encoder_choices", "read_experiment", "resolve_device"]

FORMAT = 2
_REQUIRED = ("experiment.json", "model.safetensors")
_SEALED = ("model.safetensors", "history.csv", "presence.npz")


def build_method(spec: Mapping[str, Any], schema: Schema) -> Method:
    """Builds an untrained method from its JSON description.

    Args:
        spec: "method" (a name in `amodal.METHODS`), "options" (see `amodal.methods.method_options`), in a run's record
            also "resolved" (all options as they were when it was trained), and "encoders" (keyword arguments of
            `amodal.encoders.build_encoders`).
        schema: The modalities and the task.

    Returns:
        The method, with weights drawn from torch's global generator.

    Raises:
        UnknownNameError: If the method is not known, or does not have one of the options.
        ConfigurationError: If an option's value is of the wrong type or out of range.
    """
    name = spec["method"]
    options = method_options(name, spec.get("resolved", spec.get("options")))
    encoders = build_encoders(schema, **spec.get("encoders", {}))
    return cast(Callable[..., Method], METHODS[name])(schema, encoders, **options)


def encoder_choices(method: str, schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    """Encoders by modality: those a user chose, and for the others those the method prefers for their kind.

    Args:
        method: A name in `amodal.METHODS`.
        schema: The modalities.
        given: The user's choices, as `amodal.encoders.build_encoders` takes them.
    """
    preferred = METHODS[method].preferred_encoders
    return {m.name: preferred[m.kind] for m in schema.modalities if m.kind in preferred} | dict(given)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name asks for ("auto": CUDA where there is one, else the CPU).

    Raises:
        RunError: If the device is not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError("the device is not known", expected="auto, cpu or cuda", got=device) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"{resolved.type} devices are not supported", expected="auto, cpu or cuda", got=device)
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise RunError(
            "CUDA was asked for, but there is none here", hint="Use device='cpu', or install a CUDA build of torch."
        )
    return resolved


@dataclass
class TrainedModel:
    """A trained method with everything that a prediction needs.

    Made by `amodal.fit` and `amodal.load`.

    Attributes:
        method: The network.
        schema: The modalities and the task it was trained on.
        scaling: The standardisation of its training data.
        prior: Prediction for a case of which nothing is observed: class frequencies (C,), label frequencies (K,), or
            the mean target (1,), of the training data.
        experiment: Everything that made it, resolved, as plain JSON values.
        history: One row an epoch: losses, validation scores, seconds.
        presence: Presence of the training data in its first epoch, with rates, patterns and hash.
        recalibration: How its predictions are recalibrated; None: not at all.
        folder: Where it was saved or read; None if nowhere.
        training_cases: The training cases, kept while the model is in memory, for `impact` and `advise`; never saved.
    """

    method: Method
    schema: Schema
    scaling: Scaling
    prior: np.ndarray
    experiment: dict[str, Any]
    history: pd.DataFrame
    presence: Presence | None = None
    recalibration: Recalibration | None = None
    folder: Path | None = field(default=None, repr=False)
    training_cases: Cohort | None = field(default=None, repr=False)

    def change_scale(self, missing: Sequence[str]) -> float:
        """What changes under the method's own completions are multiplied by; found on the validation rows.

        Args:
            missing: The modalities that are missing.
        """
        found = self.experiment.get("result", {}).get("change_scale", {})
        return float(found.get("+".join(missing), found.get("", 1.0)))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next((tensor.device for tensor in self.method.state_dict().values()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> TrainedModel:
        """Moves the weights to a device ("auto", "cpu", "cuda", …) and returns the model itself."""
        self.method.to(resolve_device(device))
        return self

    def batches(
        self, cohort: Cohort, batch_size: int = 1024, rows: np.ndarray | None = None, *, check_levels: bool = False
    ) -> Iterator[Batch]:
        """Cuts a cohort into scaled batches on the model's device, in order.

        Args:
            cohort: Cases with this model's modalities, or some of them; one that the cohort lacks is absent.
            batch_size: Rows a batch.
            rows: Positions of the rows to take; None takes all.
            check_levels: Warn at the end of images that are clearly beyond those of training in level.

        Yields:
            Batches without regard to whether anything is observed.

        Raises:
            SchemaError: If the cohort has none of the modalities, or one of another kind or shape.
        """
        check_schema(self.schema, cohort.schema)
        rows = np.arange(len(cohort)) if rows is None else rows
        dataset, levels = CohortDataset(cohort, None), LevelCheck(self.scaling.levels if check_levels else {})
        for start in range(0, len(rows), batch_size):
            batch = self._conform(dataset[rows[start : start + batch_size]], cohort.schema)
            levels.add(batch)
            yield self.scaling.apply(batch).to(self.device)
        levels.warn()

    def predict(
        self, cohort: Cohort, *, batch_size: int = 1024, on_empty: str = "warn", draw_seed: int = 0
    ) -> np.ndarray:
        """Predicts cases with any presence, and warns of images that are clearly beyond those of training in level.

        Args:
            cohort: N cases.
            batch_size: Rows a batch.
            on_empty: What to do with cases of which nothing is observed: "warn" (predict the training prior, with a
                warning), "silent" (without any warning), or "error". Methods that accept such cases predict them
                themselves.
            draw_seed: Of methods that average over draws: which. Another seed shows what their number leaves open.

        Returns:
            Probabilities of shape (N, C) or (N, K), or values of shape (N,) in the target's units.

        Raises:
            DataError: If a case has nothing observed and `on_empty` is "error".
        """
        if on_empty not in ("warn", "silent", "error"):
            raise UnknownNameError("value of on_empty", on_empty, ("warn", "silent", "error"))
        check_schema(self.schema, cohort.schema)
        seen = self._has_something(cohort)
        if not seen.all():
            self._tell_empty(cohort, ~seen, on_empty)
        rows = np.flatnonzero(seen)
        outputs = np.empty((len(cohort), len(self.prior)), dtype=np.float64)
        outputs[:] = self.prior
        done = 0
        by_draws = self.method.predict_by if isinstance(self.method, SamplingMethod) and draw_seed else None
        with inference(self.method):
            for batch in self.batches(cohort, batch_size, rows, check_levels=on_empty != "silent"):
                predicted = by_draws(batch, seed=draw_seed) if by_draws else self.method.predict(batch)
                predicted = self.recalibrated(predicted.double(), batch).cpu().numpy()
                if self.schema.task.traits.one_value:
                    predicted = np.asarray(self.scaling.unscale(predicted))[:, None]
                outputs[rows[done : done + len(batch)]] = predicted
                done += len(batch)
        return outputs[:, 0] if self.schema.task.traits.one_value else outputs

    def recalibrated(self, predictions: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Predictions (…, B, C) of the method for a batch, recalibrated for what is present in its rows."""
        if self.recalibration is None:
            return predictions
        return self.recalibration(predictions, batch.presence.sum(1), self.schema.task.traits)

    def impact(self, cohort: Cohort, **options: Any) -> Impact:
        """Variability of each prediction over what is missing.

        Args:
            cohort: N cases, whatever they lack.
            **options: Of :func:`amodal.predictive_impact.impact`: `draws`, `seed`, `vary`, `train`, …

        Returns:
            What that function gives.
        """
        return impact(self, cohort, **options)

    def advise(self, cohort: Cohort, **options: Any) -> Advice:
        """Advice on the missing modality of each case to look at next.

        Args:
            cohort: N cases, whatever they lack.
            **options: Of :func:`amodal.predictive_impact.advise`: `draws`, `seed`, `utility`, `train`, …

        Returns:
            What that function gives.
        """
        return advise(self, cohort, **options)

    def _has_something(self, cohort: Cohort) -> np.ndarray:
        if self.method.accepts_empty:
            return np.ones(len(cohort), dtype=bool)
        shared = [i for i, name in enumerate(cohort.schema.names) if name in self.schema.names]
        return np.asarray(cohort.observed[:, shared].any(axis=1))

    def _tell_empty(self, cohort: Cohort, empty: np.ndarray, on_empty: str) -> None:
        ids = ", ".join(map(str, cohort.ids[empty][:5])) + (" …" if empty.sum() > 5 else "")
        if on_empty == "error":
            raise DataError(
                f"cases with nothing observed: {ids} ({int(empty.sum())} of {len(cohort)})",
                hint="Leave them out, or use on_empty='warn' to predict the training prior for them.",
            )
        if on_empty == "warn":
            warnings.warn(
                f"cases with nothing observed get the training prior: {ids} ({int(empty.sum())} of {len(cohort)})",
                stacklevel=3,
            )

    def _conform(self, batch: Batch, given: Schema) -> Batch:
        """Puts modalities and their features into this model's order, absent where the batch lacks a modality."""
        shared = [m for m in self.schema.modalities if m.name in batch.values]
        orders = {m.name: order for m in shared if (order := feature_order(m, given[m.name])) is not None}
        if batch.modalities == self.schema.names and not orders:
            return batch
        size, values, observed = len(batch), {}, {}
        for modality in self.schema.modalities:
            name = modality.name
            if name in batch.values:
                values[name], observed[name] = batch.values[name], batch.observed[name]
            else:
                values[name] = modality.traits.blank(size, modality.shape)
                observed[name] = torch.zeros(size, dtype=torch.bool)
        measured = {name: cells for name, cells in batch.measured.items() if name in values}
        for name, order in orders.items():
            axis = (self.schema[name].traits.feature_axis or 0) + 1
            for part in (values, measured) if name in measured else (values,):
                part[name] = part[name].index_select(axis, torch.tensor(order, device=part[name].device))
        lengths = {name: length for name, length in batch.lengths.items() if name in values}
        times = {name: time for name, time in batch.times.items() if name in values}
        return Batch(values, observed, measured, lengths, batch.target, batch.ids, batch.labelled, times)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the model's folder: experiment.json, model.safetensors, history.csv, presence.npz.

        Args:
            folder: Where; it appears complete or not at all.
            overwrite: Whether to replace an existing run.

        Returns:
            The folder.

        Raises:
            RunError: If the folder exists and must not be replaced, or cannot be written.
        """
        folder = Path(folder)
        if os.path.exists(folder) and not folder.is_dir():
            raise RunError(f"{folder} is a file", expected="a folder, or a name that is free")
        if os.path.exists(folder) and any(folder.iterdir()):
            if not any((folder / name).is_file() for name in ("experiment.json", "plan.json")):
                raise RunError(f"{folder} is there already and is no run", hint="Choose another place.")
            if not overwrite:
                raise RunError(
                    f"the folder {folder} exists already", hint="Choose another one, or pass overwrite=True."
                )
        with atomic_folder(folder) as temporary:
            self.write_into(temporary)
        self.folder = folder
        return folder

    def write_into(self, folder: Path) -> None:
        """Writes the files of `save` into an existing folder, each to a temporary name and then renamed."""
        from safetensors.torch import save_file

        tensors = {f"method.{k}": v.detach().cpu().contiguous() for k, v in self.method.state_dict().items()}
        tensors |= {f"scaling.{k}": torch.as_tensor(np.array(v)) for k, v in self.scaling.to_arrays().items()}
        tensors["prior"] = torch.as_tensor(self.prior)
        replace_file(folder / "model.safetensors", lambda path: save_file(_unshared(tensors), path))
        replace_file(folder / "history.csv", lambda path: self.history.to_csv(path, index=False))
        if self.presence is not None:
            replace_file(folder / "presence.npz", self.presence.save)
        record = {"format": FORMAT, **self.experiment, "schema": self.schema.to_json()}
        encoders = record.get("spec", {}).get("encoders", {})
        if encoders.get("choices"):  # pretrained ones are rebuilt from their configuration, not from where they came
            choices = portable_choices(self.method, encoders["choices"])
            record["spec"] = record["spec"] | {"encoders": encoders | {"choices": choices}}
        record = seal(plain_json(record), folder, _SEALED)
        write_json(folder / "experiment.json", record)  # last: its presence says that the folder is complete

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> TrainedModel:
        """Reads a model's folder; nothing in it is executed.

        Args:
            folder: Made by `save` or `amodal.fit(out=…)`.
            device: Where the weights go.

        Returns:
            The model, in evaluation mode.

        Raises:
            RunError: If the folder is incomplete, damaged, or of a newer format.
        """
        folder = Path(folder)
        experiment = read_experiment(folder)
        with naming_the_folder(folder):
            model = cls._read(folder, experiment)
        return model.to(device)

    @classmethod
    def _read(cls, folder: Path, experiment: dict[str, Any]) -> TrainedModel:
        import pandas as pd
        from safetensors.torch import load_file

        schema = Schema.from_json(experiment.pop("schema"))
        _check_sizes(folder, experiment["spec"], schema)
        tensors = load_file(folder / "model.safetensors")
        method = build_method(experiment["spec"], schema)
        part = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
        try:
            method.load_state_dict(part)
        except RuntimeError as error:
            raise RunError(f"the weights in {folder} do not fit its experiment.json: {error}") from error
        result = experiment.get("result", {})
        method.clock = Clock(*(result.get(k, 0) for k in ("steps", "epochs", "steps", "epochs")))  # at its end
        scaling = {k.removeprefix("scaling."): v.numpy() for k, v in tensors.items() if k.startswith("scaling.")}
        history = folder / "history.csv"
        presence = folder / "presence.npz"
        return cls(
            method=method.eval(),
            schema=schema,
            scaling=Scaling.from_arrays(scaling, schema),
            prior=tensors["prior"].numpy(),
            experiment={k: v for k, v in experiment.items() if k != "format"},
            history=pd.read_csv(history) if history.is_file() and history.stat().st_size > 1 else pd.DataFrame(),
            presence=_training_presence(presence, experiment) if presence.is_file() else None,
            recalibration=recalibration_from(
                experiment, n_modalities=len(schema.names), n_outputs=schema.task.n_outputs
            ),
            folder=folder,
        )


def _training_presence(file: Path, experiment: Mapping[str, Any]) -> Presence:
    """Presence of the training rows; what rows are told about patterns that training never met depends on it.

    Raises:
        RunError: If the file holds another presence than the run's record says.
    """
    presence = Presence.load(file)
    recorded = experiment.get("presence", {}).get("train", {}).get("hash", presence.hash)
    if presence.hash != recorded:
        raise RunError(
            f"{file} is not the presence of the training rows",
            expected=f"hash {recorded[:12]}",
            got=presence.hash[:12],
            hint="Another file has replaced it: train the run again, or bring the file back.",
        )
    return presence


def read_experiment(folder: Path) -> dict[str, Any]:
    """Reads a run's experiment.json, checking that the run is complete and of a format that can be read.

    Raises:
        RunError: If not, naming the file.
    """
    if not os.path.isdir(folder):  # also of a name that no folder can have
        raise RunError(
            f"there is no run at {str(folder)[:300]}", hint="Give a folder made by amodal.fit or model.save."
        )
    lacking = [name for name in _REQUIRED if not (folder / name).is_file()]
    if lacking:
        raise RunError(
            f"the run at {folder} is incomplete: it lacks {', '.join(lacking)}",
            hint="Finish it with amodal.fit(..., resume=True), or train it again.",
        )
    try:
        experiment = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {folder / 'experiment.json'}: {error.strerror or error}") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise RunError(f"{folder / 'experiment.json'} is not readable JSON: {error}") from error
    except RecursionError as error:
        raise RunError(f"{folder / 'experiment.json'} is not readable JSON: it is nested too deeply") from error
    version = experiment.get("format") if isinstance(experiment, dict) else None
    if type(version) is not int or version != FORMAT:
        newer = type(version) is int and version > FORMAT
        raise RunError(
            f"the run at {folder} has a format that this version cannot read",
            expected=f"format {FORMAT}",
            got=version,
            hint="Update amodal." if newer else "Train it again with this version.",
        )
    return check_seal(experiment, folder, "experiment.json")


def _check_sizes(folder: Path, spec: Mapping[str, Any], schema: Schema) -> None:
    """Refuses a record that asks for larger tensors than the weights hold, before memory is taken for them.

    Raises:
        RunError: If a tensor is larger than the stored one.
    """
    from safetensors import safe_open

    try:
        with torch.device("meta"):
            state = build_method(spec, schema).state_dict()
    except (RuntimeError, NotImplementedError):  # a method that needs values to be built
        return
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    for name, tensor in state.items():
        shape = shapes.get(f"method.{name}", (0,))
        if tensor.numel() > math.prod(shape):
            raise RunError(
                f"the weights in {folder} do not fit its experiment.json: {name}",
                expected=tuple(tensor.shape),
                got=shape,
            )


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of tensors that share memory with an earlier one, which safetensors refuses to write."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return result
