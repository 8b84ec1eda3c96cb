"""`amodal.fit`: from a method's name and a cohort to a trained model."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from amodal.checkpoint import TrainedModel, build_method, encoder_choices, resolve_device
from amodal.data.cohort import Cohort, check_trainable
from amodal.data.split import split_groups
from amodal.errors import ConfigurationError, DataError, RunError, ShapeError, UnknownNameError
from amodal.files import clear_leftovers, plain_json, write_json
from amodal.method import Method
from amodal.methods import method_options
from amodal.missingness import BalancedCounts, Mechanism, Natural
from amodal.seal import naming_the_folder
from amodal.seeds import forked_rng, mix_seed
from amodal.settings import settings_from
from amodal.training.data import TrainingData
from amodal.training.processes import follow, is_follower, processes_for
from amodal.training.run import Run

__all__ = ["fit"]


def fit(
    method: str,
    train: Cohort,
    valid: Cohort | None = None,
    *,
    missingness: Mechanism | str | None = "auto",
    valid_missingness: Mechanism | str | None = "same",
    weight: ArrayLike | None = None,
    class_weight: str | Mapping[Any, float] | None = None,
    options: Mapping[str, Any] | None = None,
    encoders: Mapping[str, Any] | None = None,
    width: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    loggers: Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> TrainedModel:
    """Trains a method on a cohort in which modalities are missing.

    Inputs (and a regression target) are standardised by the statistics of present training values. Early stopping and
    the choice of the best weights look at the validation rows only: their mean task loss (or error: `best_by`) under
    `valid_missingness`, drawn once.

    Args:
        method: A name in `amodal.METHODS`.
        train: Training cases; whatever modalities they lack stay absent. Rows without a label teach the methods that
            can use them (`Method.uses_unlabelled`); for others they are left out, with a warning.
        valid: Validation cases, of which those with a label count; None holds a tenth of the labelled rows of `train`
            back, by group.
        missingness: Further removal in training. "auto" redraws `BalancedCounts()` every epoch, so that every pattern
            is met (none for methods that remove modalities in their own objective); None removes nothing. With
            `redraw=False` it is drawn once: the data set then simply lacks what was removed.
        valid_missingness: Further removal in validation, drawn once: "same" as in training, a mechanism, or None.
        weight: How much each training case counts, (N,), not negative: one of weight 2 comes twice as often as one of
            weight 1, in every term of the objective, whatever the method. None: `Cohort.weight`, where there is none
            all count alike.
        class_weight: How much the classes count, times `weight`: "balanced", so that all count alike, or {class:
            weight}, 1 for those not named. Not for several labels at once, or numbers. Predictions are then those of
            a population in which the classes are so frequent.
        options: Keyword arguments of the method.
        encoders: For some modalities, an encoder's name or {"name": …, option: …}; see `amodal.encoders`.
        width: Width of tokens and pooled vectors.
        seed: Decides weights, order, removal and all noise.
        out: Folder of the run, written as training goes; None keeps the model in memory.
        resume: Continue the run in `out` where it stopped (the same call gives the same weights as an uninterrupted
            run); a finished one is loaded.
        loggers: More loggers beside history.csv: "tensorboard", "mlflow", "wandb".
        progress: Whether to show a progress bar.
        **settings: Fields of `TrainingSettings`.

    Returns:
        The trained model, with the best weights by validation loss (or error), in evaluation mode.

    Raises:
        UnknownNameError: If a method, encoder, option or setting is not known.
        ConfigurationError: If a setting is out of range.
        DataError: If the rows cannot be learnt from: empty, without target, of one class only, with nothing observed,
            or with a modality that is never observed.
        RunError: If the device is not there or the folder cannot be used.

    Example:
        >>> import amodal
        >>> cohort = amodal.load_cohort("digits")
        >>> model = amodal.fit("fusion", cohort.split("train"), cohort.split("valid"), epochs=1, seed=0)
        >>> model.predict(cohort.split("test")).shape[1]
        10
    """
    if is_follower():
        follow()  # and end: only the first of several processes runs the user's program
    settings_ = settings_from(settings)
    seed = _check_seed(seed)
    spec = _spec(method, options, train, width, encoders)
    if settings_.best_by == "error" and not train.schema.task.traits.has_errors:
        raise ConfigurationError("a regression has no share of wrong predictions", hint="Use best_by='loss'.")
    device = resolve_device(settings_.device)
    with forked_rng(device):
        torch.manual_seed(mix_seed(seed, 0, 0))
        built = build_method(spec, train.schema)
    by_class = _class_weights(train, class_weight)
    weights = _weights(train, train.weight if weight is None else weight, by_class)
    rows = _rows_that_teach(train, method, built)
    if len(rows) < len(train):
        train, weights = train.take(rows), None if weights is None else weights[rows]
    check_trainable(train, allow_empty_rows=built.accepts_empty)
    if valid is None:
        kept, held = _hold_back(train, seed)
        valid, valid_weights = _labelled_only(train.take(held)), None if weights is None else weights[held]
        train, weights = train.take(kept), None if weights is None else weights[kept]
    else:
        valid = _labelled_only(valid.with_task(train.schema.task))
        valid_weights = _weights(valid, valid.weight, by_class)
    train_mechanism, valid_mechanism = _mechanisms(built.meets_all_patterns, missingness, valid_missingness)
    removal = {
        "train": train_mechanism.to_json(),
        "valid": valid_mechanism.to_json(),
        "by_objective": built.meets_all_patterns,
    }
    if weights is not None and not weights[train.labelled].any():
        raise DataError(
            "no training row with a label has a weight", expected="some beside those that are held back",
            hint="Pass `valid`, or weights for more rows.",
        )  # fmt: skip
    training, record = asdict(settings_), _data_record(train, valid, weights)
    plan = {"spec": spec, "training": training, "missingness": removal, "seed": seed, "data": record}
    try:
        plan = plain_json(plan)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"options, encoders and settings must be plain JSON: {error}") from error
    folder = None if out is None else Path(out)
    if folder is not None:
        _open_folder(folder, plan, resume)
    if folder is not None and (folder / "experiment.json").is_file():
        return TrainedModel.load(folder, device=device)
    data = TrainingData(train, valid, train_mechanism, valid_mechanism, settings_, seed, weights, valid_weights)
    run = Run(plan, settings_, built, data, folder)
    with processes_for(settings_, device, run.take_part) as processes, forked_rng(device):
        return run.train(processes, loggers, progress=progress)


def _spec(
    method: str, options: Mapping[str, Any] | None, train: Cohort, width: int, encoders: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a run builds its method from."""
    return {
        "method": method,
        "options": dict(options or {}),
        "resolved": method_options(method, options),  # a later change of a default does not change this run
        "encoders": {"width": width, "choices": encoder_choices(method, train.schema, encoders or {})},
    }


def _data_record(train: Cohort, valid: Cohort, weights: np.ndarray | None) -> dict[str, Any]:
    """The content that a run is of: rows, hashes, and how new tables are read as these were."""
    record: dict[str, Any] = {
        "cohort": train.name,
        "rows": {"train": len(train), "valid": len(valid)},
        "fingerprint": train.fingerprint[:16] + valid.fingerprint[:16],
        "digests": {"train": train.digests, "valid": valid.digests},
    }
    if not train.labelled.all():
        record["rows"]["labelled"] = int(train.labelled.sum())
    if train.source is not None:
        record["source"] = dict(train.source)
    if weights is not None:
        record["weight"] = hashlib.sha256(weights.tobytes()).hexdigest()[:16]
    return record


def _check_seed(seed: Any) -> int:
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise ConfigurationError("the seed is out of range", expected="a whole number, 0 or more", got=repr(seed))
    return int(seed)


def _weights(cohort: Cohort, weight: ArrayLike | None, by_class: np.ndarray | None) -> np.ndarray | None:
    """How much each case counts, by its own weight and that of its class; None: all alike."""
    weights = None if weight is None else _check_weight(weight, len(cohort))
    if by_class is None or cohort.target is None:
        return weights
    own = np.append(by_class, 1.0)[cohort.target]  # the last entry: of an unknown class
    return own if weights is None else own * weights


def _class_weights(train: Cohort, class_weight: str | Mapping[Any, float] | None) -> np.ndarray | None:
    """The weight of each class (C,), or None."""
    if class_weight is None:
        return None
    task, target = train.schema.task, train.target
    if not task.is_classification:
        raise ConfigurationError(
            "class_weight is for classes that exclude each other", got=task.kind, hint="Pass weight."
        )
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise UnknownNameError("class_weight", class_weight, ("balanced",))
        counts = np.bincount([] if target is None else target[train.labelled], minlength=task.n_outputs)
        return counts.sum() / np.maximum(counts, 1) / max(1, int((counts > 0).sum()))
    for name in class_weight:
        if name not in task.classes:
            raise UnknownNameError("class", str(name), tuple(map(str, task.classes)))
    return _check_weight([class_weight.get(name, 1.0) for name in task.classes], task.n_outputs)


def _check_weight(weight: ArrayLike, n: int) -> np.ndarray:
    try:
        weights = np.asarray(weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("weight is not numeric", expected=f"numbers ({n},), none missing") from None
    if weights.shape != (n,):
        raise ShapeError("weight has another number of rows", expected=f"({n},)", got=weights.shape)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError("weight cannot be used", expected="finite numbers, not negative, not all zero")
    return weights if 1e-100 < weights.max() < 1e100 else weights / weights.max()


def _mechanisms(
    meets_all: bool, train: Mechanism | str | None, valid: Mechanism | str | None
) -> tuple[Mechanism, Mechanism]:
    if train == "auto":
        chosen: Mechanism = BalancedCounts()
        used: Mechanism = Natural() if meets_all else chosen
    elif train is None or isinstance(train, Mechanism):
        chosen = used = train or Natural()
    else:
        raise UnknownNameError("missingness", train, ("auto",))
    if valid == "same":
        return used, chosen
    if valid is None or isinstance(valid, Mechanism):
        return used, valid or Natural()
    raise UnknownNameError("valid_missingness", valid, ("same",))


def _rows_that_teach(train: Cohort, method: str, built: Method) -> np.ndarray:
    """Positions of the training rows that a method can learn from; says so if some are left out."""
    labelled = train.labelled
    if built.uses_unlabelled or labelled.all() or not labelled.any():
        return np.arange(len(train))
    warnings.warn(
        f"{int((~labelled).sum()):,} of {len(train):,} training rows have no label: {method} learns from the other "
        f"{int(labelled.sum()):,} alone. See docs/absence.md for methods that use all.",
        UserWarning,
        stacklevel=3,
    )
    return np.flatnonzero(labelled)


def _labelled_only(valid: Cohort) -> Cohort:
    """The validation rows with a label."""
    if not len(valid) or valid.labelled.all() or valid.target is None:
        return valid
    if not valid.labelled.any():
        raise DataError(
            "no validation row has a label",
            expected="labelled rows, by which the best weights are chosen",
            hint="Pass other rows as `valid`, or None: a tenth of the labelled training rows is then held back.",
        )
    return valid.take(valid.labelled)


def _hold_back(train: Cohort, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to train on and of a tenth of the labelled ones to validate with, by group."""
    parts = np.full(len(train), "train")
    shared = np.isin(train.groups, train.groups[train.labelled])  # a group without any label stays in training
    assert train.target is not None
    shares = {"train": 0.9, "valid": 0.1}
    parts[shared] = split_groups(train.groups[shared], train.target[shared], shares, seed=seed)
    kept, held = np.flatnonzero(parts == "train"), np.flatnonzero((parts == "valid") & train.labelled)
    if not len(held):
        raise DataError(
            "there are too few groups to hold a tenth back for validation", got=len(train), hint="Pass `valid`."
        )
    return kept, held


def _open_folder(folder: Path, plan: dict[str, Any], resume: bool) -> None:
    """Makes or finds the run's folder.

    Raises:
        RunError: If it holds another run, or one that should not be continued.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    clear_leftovers(folder / "plan.json")
    if not any(folder.iterdir()):
        write_json(folder / "plan.json", plan, only_new=True)
        return
    if not resume:
        raise RunError(
            f"the folder {folder} is not empty", hint="Choose another one, or pass resume=True to continue its run."
        )
    if not (folder / "plan.json").is_file():
        raise RunError(f"the folder {folder} does not hold a run", hint="Choose another one.")
    with naming_the_folder(folder):
        stored = dict(json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    if stored != json.loads(json.dumps(plan)):
        raise RunError(
            f"the run in {folder} was started with other arguments: {', '.join(_differing(plan, stored))}",
            hint="Resume with the same data, method, settings and seed, or choose another folder.",
        )


def _differing(plan: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """The differences between two plans, in words; of data, the part of the content."""
    differing = sorted(key for key in plan if json.loads(json.dumps(plan[key])) != stored.get(key))
    if "data" in differing:
        before = stored.get("data", {}).get("digests", {})
        parts = {
            f"{part} of the {rows} rows"
            for rows, digests in plan["data"]["digests"].items()
            for part in {**digests, **before.get(rows, {})}
            if digests.get(part) != before.get(rows, {}).get(part)
        }
        differing[differing.index("data")] = f"data ({'; '.join(sorted(parts) or ['its name or source'])})"
    return differing
