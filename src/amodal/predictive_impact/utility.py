r"""Utilities: what a prediction is worth if the best is made of it.

A utility U maps a prediction p to the expected worth of the best decision under it, the prediction being right. What a
look is worth is then :math:`\mathbb{E}\,U(p_\mathrm{after}) - U(p_\mathrm{now})`, which health economists call the
expected value of partial perfect information (EVPPI), and knowing the target itself is worth :math:`\sum_c p_c U(e_c)
- U(p)`, the expected value of perfect information (EVPI).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from amodal.errors import ConfigurationError, ShapeError, UnknownNameError
from amodal.schema import Task

__all__ = ["Utility", "UtilityFunction", "net_benefit", "perfect_information", "realised_utility", "utility_function"]

UtilityFunction = Callable[[Tensor], Tensor]
Utility = (
    Literal["log_likelihood", "accuracy", "squared_error"]
    | str
    | Callable[[Any], Any]
    | Mapping[str, Any]
    | Sequence[Sequence[float]]
    | np.ndarray
)


def net_benefit(threshold: float) -> dict[str, tuple[float, float]]:
    r"""Payoffs whose utility is the net benefit at a threshold probability, in true positives a case.

    Treating whoever has the event pays 1, treating who has not costs :math:`t / (1 - t)`, and leaving pays nothing; so
    the best decision is to treat above the threshold :math:`t`.

    Args:
        threshold: Threshold probability :math:`t`, between 0 and 1.

    Returns:
        The payoff of each action in the two classes, the event second.

    Raises:
        ConfigurationError: If the threshold is out of range.

    Source:
        :cite:`vickers2006decision`.

    Example:
        >>> net_benefit(0.2)
        {'treat': (-0.25, 1.0), 'leave': (0.0, 0.0)}
    """
    if not 0 < threshold < 1:
        raise ConfigurationError("a threshold probability is out of range", expected="between 0 and 1", got=threshold)
    return {"treat": (-threshold / (1 - threshold), 1.0), "leave": (0.0, 0.0)}


def utility_function(utility: Utility | None, task: Task) -> UtilityFunction:
    """The utilities (…) of predictions (…, D), for a task.

    Args:
        utility: None: "log_likelihood" (minus the entropy, nats; over labels its sum), for regression "squared_error".
            "accuracy": the largest probability, over labels the mean. "net_benefit:THRESHOLD" (two classes). A table of
            payoffs: {action: payoff in each class}, the latter a list in the classes' order or {class: payoff}; or an
            array (actions, classes). A function of predictions, as torch tensors (…, C) or as numpy arrays, that gives
            one number each; of a regression it is given the values (…).
        task: What is predicted.

    Raises:
        UnknownNameError: If the task knows no utility of this name.
        ShapeError: If payoffs do not fit the classes, or a function does not give one number for each prediction.
        ConfigurationError: If payoffs are not numbers, or a function fails.

    Example:
        >>> treat_or_leave = utility_function([[-1.0, 3.0], [0.0, 0.0]], Task("binary", classes=("well", "ill")))
        >>> treat_or_leave(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
        tensor([0., 1.])
    """
    if isinstance(utility, str) or utility is None:
        return _named(utility, task)
    if callable(utility):
        return _checked(utility, task)
    return _best_of(_payoffs(utility, task))


def perfect_information(function: UtilityFunction, present: Tensor, utility: Any, task: Task) -> Tensor:
    """Expected value of perfect information (B,): what knowing the target itself would be worth.

    Args:
        function: What `utility_function` gives for `utility`.
        present: Present predictions (B, D).
        utility: As it was asked for.
        task: What is predicted.

    Returns:
        NaN for regression, and for a function of one's own over several labels, where it is not defined.
    """
    if task.is_classification:
        certain = torch.eye(present.shape[-1], dtype=present.dtype, device=present.device)
        return present @ function(certain) - function(present)
    if task.traits.many_labels and not callable(utility):
        return function(present.round()) - function(present)
    return torch.full_like(present[..., 0], torch.nan)


def _named(name: str | None, task: Task) -> UtilityFunction:
    known = task.traits.utilities
    if task.traits.one_value:
        known = {key: _of_value(function) for key, function in known.items()}
    if name is None:
        return next(iter(known.values()))
    head, _, argument = name.partition(":")
    if head == "net_benefit" and _two_classes(task):
        try:
            threshold = float(argument)
        except ValueError as error:
            raise ConfigurationError(
                "net benefit needs a threshold probability", expected="net_benefit:0.2", got=repr(name)
            ) from error
        return _best_of(_payoffs(net_benefit(threshold), task))
    if name not in known:
        options = [*known, *(["net_benefit:THRESHOLD"] if _two_classes(task) else [])]
        raise UnknownNameError(f"utility of a {task.kind} task", name, options)
    return known[name]


def _of_value(function: UtilityFunction) -> UtilityFunction:
    return lambda p: function(p[..., 0])


def _two_classes(task: Task) -> bool:
    return task.is_classification and len(task.classes) == 2


def _payoffs(table: Any, task: Task) -> Tensor:
    """Payoffs (A, C) of actions in classes."""
    if not task.is_classification:
        raise ConfigurationError(
            "a table of payoffs needs classes", expected="a binary or multiclass task", got=task.kind
        )
    classes = [str(name) for name in task.classes]
    expected = f"for each action one payoff in each of the classes {', '.join(classes)}"
    rows = list(table.values()) if isinstance(table, Mapping) else list(table)
    if not rows:
        raise ShapeError("the table of payoffs has no action", expected=expected)
    lines = []
    for row in rows:
        if isinstance(row, Mapping):
            given = {str(name): value for name, value in row.items()}
            for name in given:
                if name not in classes:
                    raise UnknownNameError("class in the table of payoffs", name, classes)
            if len(given) < len(classes):
                raise ShapeError("payoffs of some classes are missing", expected=expected, got=", ".join(given))
            row = [given[name] for name in classes]
        lines.append(row)
    try:
        payoffs = torch.as_tensor(np.asarray(lines, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ShapeError("the table of payoffs cannot be read", expected=expected, got=repr(table)[:80]) from error
    if payoffs.dim() != 2 or payoffs.shape[1] != len(classes):
        raise ShapeError("the table of payoffs has the wrong shape", expected=expected, got=tuple(payoffs.shape))
    if not bool(torch.isfinite(payoffs).all()):
        raise ConfigurationError("payoffs must be finite numbers", got=lines)
    return payoffs


def _best_of(payoffs: Tensor) -> UtilityFunction:
    return lambda p: (p @ payoffs.T.to(p)).amax(-1)


def _checked(function: Callable[[Any], Any], task: Task) -> UtilityFunction:
    def value(predictions: Tensor) -> Tensor:
        given = (predictions[..., 0] if task.traits.one_value else predictions).float()
        shape = tuple(predictions.shape[:-1])
        try:
            result = function(given)
        except Exception:  # perhaps one for numpy
            try:
                result = function(given.detach().cpu().numpy())
            except Exception as error:
                raise ConfigurationError(
                    f"the utility fails on predictions of shape {tuple(given.shape)}: {error}",
                    hint="Give a function of a torch tensor or a numpy array whose last axis are the classes.",
                ) from error
        if isinstance(result, np.ndarray | np.generic):
            result = torch.as_tensor(result, device=predictions.device)
        if not isinstance(result, Tensor) or tuple(result.shape) != shape:
            raise ShapeError(
                "a utility must give one number for each prediction",
                expected=f"a tensor or array of shape {shape} for predictions {tuple(given.shape)}",
                got=tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__,
            )
        return result.to(predictions)

    return value


def realised_utility(utility: Utility | None, predictions: np.ndarray, target: np.ndarray, task: Task) -> np.ndarray:
    """The utility of predictions (N,) when the classes are known.

    Args:
        utility: As in `utility_function`: the log-likelihood of the true class, whether it was the most probable, or
            the payoff of the action that was best under the prediction. NaN for a function of one's own.
        predictions: Probabilities (N, C).
        target: Classes (N,).
        task: A binary or multiclass task.
    """
    rows = np.arange(len(predictions))
    if utility is None or (isinstance(utility, str) and utility == "log_likelihood"):
        return np.log(np.maximum(predictions[rows, target], np.finfo(np.float32).tiny))
    if isinstance(utility, str) and utility == "accuracy":
        return (predictions.argmax(axis=1) == target).astype(np.float64)
    if callable(utility):
        return np.full(len(predictions), np.nan)
    table = net_benefit(float(utility.partition(":")[2])) if isinstance(utility, str) else utility
    payoffs = _payoffs(table, task).numpy()
    return payoffs[(predictions @ payoffs.T).argmax(axis=1), target]
