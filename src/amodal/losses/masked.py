"""The only reductions from rows to a number, each with its denominator, and the selection that goes before and after.

Four denominators are easily mistaken for each other, and the mistake passes most tests:

==========================  ==========================================================================
:func:`mean_over_rows`      all rows of the batch; a row that lacks the modality adds zero
:func:`mean_over_observed`  the rows that have the modality
:func:`mean_over_labelled`  the rows whose label is known
:func:`mean_over_terms`     the rows that count, modality by modality, then the modalities that have one
==========================  ==========================================================================

A term of a likelihood belongs to the first: the batch's objective is then the mean of its samples' objectives, and
single-row batches add up to it. A modality's own score, reported or balanced for itself, belongs to the second, and
every loss of a task to the third: rows without a label must not dilute it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from amodal.errors import ShapeError

__all__ = ["connected_zero", "mean_over_labelled", "mean_over_observed", "mean_over_rows", "mean_over_terms", "select"]


def select(value: Tensor, observed: Tensor | None, fill: float = 0.0) -> Tensor:
    """Keep the entries of the rows that are present and put a constant in the others.

    Use it twice around a function of values that may be absent: *before*, so that the function never sees what is
    hidden (a NaN or an infinity there would come back as a NaN gradient, because 0 times NaN is NaN), and *after*, so
    that the result of the filled rows is dropped. Multiplying by presence does neither.

    Args:
        value: Values of the rows, of shape (B, …).
        observed: Presence, bool, of shape (B,). None means that every row is present.
        fill: What the absent rows hold afterwards.

    Returns:
        A tensor of the shape of ``value``. The gradient with respect to the absent rows is exactly zero.

    Raises:
        ShapeError: If ``observed`` is not a bool tensor of shape (B,).

    Example:
        >>> import torch
        >>> x = torch.tensor([4.0, float("nan")], requires_grad=True)
        >>> observed = torch.tensor([True, False])
        >>> select(select(x, observed, fill=1.0).sqrt(), observed).sum().backward()
        >>> x.grad
        tensor([0.2500, 0.0000])
    """
    if observed is None:
        return value
    _check_rows(value, observed)
    shape = observed.shape + (1,) * (value.dim() - 1)
    return torch.where(observed.view(shape), value, torch.full((), fill, dtype=value.dtype, device=value.device))


def mean_over_rows(value: Tensor, observed: Tensor | None = None) -> Tensor:
    r"""Likelihood reduction: the sum over the rows that are present, divided by the number of *all* rows.

    .. math:: \frac{1}{B} \sum_i r_i \, \ell_i

    Args:
        value: One value for each row, of shape (B,). What stands in absent rows does not matter.
        observed: Presence :math:`r`, bool, of shape (B,). None means that every row counts.

    Returns:
        A scalar, shape (). Zero, connected to the graph, for a batch without rows or without presence.

    Raises:
        ShapeError: If ``value`` does not have one value for each row.

    Example:
        >>> import torch
        >>> mean_over_rows(torch.tensor([3.0, 1.0, 8.0]), torch.tensor([True, True, False])).item()
        1.3333333730697632
    """
    _check_one_value_a_row(value)
    return select(value, observed).sum() / max(value.shape[0], 1)


def mean_over_observed(value: Tensor, observed: Tensor | None = None) -> Tensor:
    r"""A modality's own score: the mean over the rows that have it.

    .. math:: \frac{\sum_i r_i \, \ell_i}{\max(1, \sum_i r_i)}

    Args:
        value: One value for each row, of shape (B,). What stands in absent rows does not matter.
        observed: Presence :math:`r`, bool, of shape (B,). None means that every row has it.

    Returns:
        A scalar, shape (). Zero, connected to the graph, when nobody has the modality.

    Raises:
        ShapeError: If ``value`` does not have one value for each row.

    Example:
        >>> import torch
        >>> mean_over_observed(torch.tensor([3.0, 1.0, 8.0]), torch.tensor([True, True, False])).item()
        2.0
    """
    _check_one_value_a_row(value)
    if observed is None:
        return mean_over_rows(value)
    return select(value, observed).sum() / observed.sum().clamp_min(1)


def mean_over_labelled(value: Tensor, labelled: Tensor) -> Tensor:
    r"""A task's loss: the mean over the rows whose label is known, each perhaps seen several times.

    .. math:: \frac{\sum_i r_i \, \ell_i}{\max(1, \sum_i r_i)}

    Args:
        value: One value for each row, of shape (B,), or (n · B,): all rows under a first pattern of presence, then all
            under a second, and so on. What stands in rows without a label does not matter.
        labelled: Whether a row's label is known :math:`r`, bool, of shape (B,).

    Returns:
        A scalar, shape (). Zero, connected to the graph, when no row has a label.

    Raises:
        ShapeError: If the number of values is not a multiple of the number of rows.

    Example:
        >>> import torch
        >>> mean_over_labelled(torch.tensor([3.0, 8.0, 1.0, 8.0]), torch.tensor([True, False])).item()
        2.0
    """
    _check_one_value_a_row(value)
    if labelled.dim() != 1 or value.shape[0] % max(1, labelled.shape[0]):
        raise ShapeError(
            "labelled rows do not fit the losses",
            expected=f"bool of shape (B,), B a divisor of {value.shape[0]}",
            got=tuple(labelled.shape),
        )
    return mean_over_observed(value, labelled.repeat(value.shape[0] // max(1, labelled.shape[0])))


def mean_over_terms(values: Mapping[str, Tensor], counted: Mapping[str, Tensor]) -> Tensor:
    r"""Mean over the rows that count, modality by modality, and then over the modalities in which any row counts.

    .. math:: \frac{1}{|\mathcal M|} \sum_{m \in \mathcal M} \frac{1}{|I_m|} \sum_{i \in I_m} \ell_i^{(m)},
        \qquad \mathcal M = \{m : I_m \neq \emptyset\}

    Args:
        values: For each modality one value for each row, of shape (B,).
        counted: For each modality the rows :math:`I_m` that count, bool, of shape (B,).

    Returns:
        A scalar, shape (). Zero, connected to the graph, when no row of any modality counts.

    Raises:
        ShapeError: If there is no modality, or a value or row set has another shape than (B,).

    Example:
        >>> import torch
        >>> values = {"ecg": torch.tensor([4.0, 2.0]), "notes": torch.tensor([1.0, 9.0])}
        >>> counted = {"ecg": torch.tensor([True, True]), "notes": torch.tensor([True, False])}
        >>> mean_over_terms(values, counted).item()
        2.0
    """
    if not values:
        raise ShapeError("there is no modality to average over", expected="at least one", got="none")
    means = torch.stack([mean_over_observed(value, counted[name]) for name, value in values.items()])  # (M,)
    present = torch.stack([counted[name].any() for name in values])  # (M,)
    return means.sum() / present.sum().clamp_min(1)


def connected_zero(*tensors: Tensor) -> Tensor:
    """A zero that hangs on the graph of some tensors, whatever they contain.

    ``0 * tensor.sum()`` would be NaN for a tensor that holds NaN or infinity; the sum of an empty slice is not.

    Args:
        *tensors: Tensors of any shape with at least one axis. Their gradients become zero, not None.

    Returns:
        A scalar zero, shape ().

    Example:
        >>> import torch
        >>> x = torch.tensor([float("nan")], requires_grad=True)
        >>> connected_zero(x).backward()
        >>> x.grad
        tensor([0.])
    """
    return torch.stack([tensor[:0].sum() for tensor in tensors]).sum()


def _check_one_value_a_row(value: Tensor) -> None:
    if value.dim() != 1:
        raise ShapeError("a loss must have one value for each row", expected="shape (B,)", got=tuple(value.shape))


def _check_rows(value: Tensor, observed: Tensor) -> None:
    if observed.dtype != torch.bool or value.dim() < 1 or observed.shape != value.shape[:1]:
        raise ShapeError(
            "presence does not fit the values",
            expected=f"bool of shape ({value.shape[0] if value.dim() else 'B'},)",
            got=f"{observed.dtype} of shape {tuple(observed.shape)}",
            hint="Presence is a bool tensor with one entry for each row, True where the modality is present",
        )
