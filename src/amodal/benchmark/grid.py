"""Experiments for every combination of method, mechanism, rate and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from amodal.benchmark.experiment import Experiment
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import MCAR, Mechanism, Natural

__all__ = ["grid"]


def grid(
    methods: Sequence[str | Mapping[str, Any]],
    *,
    mechanisms: Sequence[Callable[[float], Mechanism]] = (MCAR,),
    rates: Sequence[float] = (0.5,),
    seeds: Sequence[int] = (0,),
    where: Literal["test", "train", "both"] = "both",
    **common: Any,
) -> list[Experiment]:
    """Lists the experiments of a comparison: every method meets exactly the same conditions.

    Args:
        methods: Names, or fields of `Experiment` that differ between the methods, with "method" among them.
        mechanisms: Mechanisms that take a rate.
        rates: Per-modality marginal rates; 0 removes nothing.
        seeds: One experiment for each; a seed gives all methods the same presence.
        where: Whose data the mechanism is drawn for, once: the training (and validation) rows, the test rows, or both.
        **common: Fields of `Experiment` common to all.

    Returns:
        Experiments, those of one seed and setting together, so that a comparison is complete as early as possible.

    Raises:
        UnknownNameError: If a field is not one of `Experiment`, or `where` is not known.
        ConfigurationError: If there is nothing to do, or two methods have the same name.

    Example:
        >>> experiments = grid(["fusion", {"method": "fusion", "name": "plain", "removal": None}], seeds=(0, 1))
        >>> [(e.name, e.seed) for e in experiments]
        [('fusion', 0), ('plain', 0), ('fusion', 1), ('plain', 1)]
    """
    if where not in ("test", "train", "both"):
        raise UnknownNameError("value of where", where, ("test", "train", "both"))
    fields = [{"method": method} if isinstance(method, str) else dict(method) for method in methods]
    for given in [*fields, common]:
        for name in given:
            if name not in Experiment.__dataclass_fields__:
                raise UnknownNameError("field of an experiment", name, Experiment.__dataclass_fields__)
    experiments = []
    for seed in seeds:
        for drawn in _drawn(mechanisms, rates):
            conditions: dict[str, Any] = {} if where == "test" else {"train_missingness": drawn}
            conditions |= {} if where == "train" else {"test_missingness": drawn}
            experiments += [Experiment(**{**common, **conditions, "seed": seed, **given}) for given in fields]
    if not experiments:
        raise ConfigurationError("a grid needs at least one method, mechanism, rate and seed")
    names = [experiment.name for experiment in experiments[: len(fields)]]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            "two methods have the same name", got=", ".join(names), hint='Tell them apart: {"name": …}.'
        )
    return experiments


def _drawn(mechanisms: Sequence[Callable[[float], Mechanism]], rates: Sequence[float]) -> list[Mechanism]:
    """Each mechanism at each rate; at rate 0 all are the same."""
    drawn: list[Mechanism] = [Natural()] if 0 in rates else []
    return drawn + [mechanism(rate) for mechanism in mechanisms for rate in rates if rate]
