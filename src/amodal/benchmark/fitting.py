"""Arguments of `amodal.fit` as plain values, with every default resolved, for cells that train a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from amodal.benchmark.cells import Cell
from amodal.checkpoint import TrainedModel
from amodal.data import Cohort
from amodal.encoders import ENCODERS
from amodal.errors import UnknownNameError
from amodal.kinds import MODALITY_KINDS
from amodal.methods import METHODS
from amodal.settings import settings_from
from amodal.training import fit

__all__ = ["fit_cell", "fit_values"]


def fit_values(
    method: str,
    *,
    options: Mapping[str, Any] | None = None,
    encoders: Mapping[str, Any] | None = None,
    width: int = 64,
    seed: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """The values of a cell that trains a model; checked, so that a wrong one is told before any cell is computed.

    They hold what is given and the defaults of everything else, so that a cell is computed anew where a default of the
    library has changed.

    Args:
        method: A name in `amodal.METHODS`.
        options: Options of the method.
        encoders: Encoders by modality.
        width: Width of tokens and pooled vectors.
        seed: The seed.
        **settings: Fields of `amodal.training.TrainingSettings`.

    Raises:
        UnknownNameError: If a method, option, encoder or setting is not known.
        ConfigurationError: If a setting is out of range.

    Example:
        >>> values = fit_values("fusion", options={"dropout": 0.0}, epochs=4)
        >>> values["settings"]["epochs"], values["settings"]["schedule"], values["defaults"]["options"]["dropout"]
        (4, 'cosine', 0.0)
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    resolved = asdict(settings_from(settings))
    given, choices = dict(options or {}), dict(encoders or {})
    by_kind = {name: kind.encoder for name, kind in MODALITY_KINDS.items()}
    return {
        "method": method,
        "options": given,
        "encoders": choices,
        "width": width,
        "seed": seed,
        "settings": resolved,
        "defaults": {
            "options": _resolved(METHODS[method], given, f"option of {method}", ("schema", "encoders")),
            "encoders": {name: _encoder(choice) for name, choice in {**by_kind, **choices}.items()},
        },
    }


def fit_cell(cell: Cell, train: Cohort, valid: Cohort | None = None, **more: Any) -> TrainedModel:
    """Trains the model that a cell's values describe; see `fit_values`.

    Args:
        cell: The cell.
        train: Training rows.
        valid: Validation rows; None: some are held back.
        **more: Further arguments of `amodal.fit`, which the cell's values must decide.
    """
    given = {name: cell[name] for name in ("options", "encoders", "width", "seed")}
    return fit(cell["method"], train, valid, **given, **cell["settings"], **more)


def _resolved(build: Any, given: Mapping[str, Any], what: str, outside: tuple[str, ...]) -> dict[str, Any]:
    parameters = {n: p for n, p in inspect.signature(build).parameters.items() if n not in outside}
    presets = getattr(build, "PRESETS", {})  # {name: differences from the defaults}
    known = [*parameters, *(["preset"] if presets else [])]
    for name in given:
        if name not in known:
            raise UnknownNameError(what, name, known)
    values = {n: p.default for n, p in parameters.items() if p.default is not inspect.Parameter.empty}
    values |= {**presets.get(given.get("preset", ""), {}), **given}
    return {name: value if _is_plain(value) else repr(value) for name, value in values.items()}


def _encoder(choice: Any) -> Any:
    options = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = options.pop("name", None)
    if name is None:
        return options
    if name not in ENCODERS:
        raise UnknownNameError("encoder", name, ENCODERS)
    return {"name": name, **_resolved(ENCODERS[name], options, f"option of encoder {name!r}", ("modality", "width"))}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | tuple | dict)
