"""Divergences of several modalities' probabilities from their mean, one value for each row."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.errors import ShapeError
from amodal.kinds.task import log_mean

__all__ = ["jensen_shannon"]


def jensen_shannon(log_probabilities: Tensor, observed: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence of a row's observed modalities, summed over the last axis, in nats.

    .. math::
        \ell = \frac{1}{|O|} \sum_{m \in O} \sum_j p_{mj} \log \frac{p_{mj}}{\bar p_j}, \qquad
        \bar p = \frac{1}{|O|} \sum_{m \in O} p_m

    The probabilities may be of one choice among D (they add up to one), or of D separate events; of the latter this is
    the part of the events that happen, without that of :math:`1 - p`, which is at least zero as well.

    Args:
        log_probabilities: Logarithms :math:`\log p_m`, of shape (B, M, D); arbitrary where a modality is absent.
        observed: Presence, bool, of shape (B, M).

    Returns:
        Values between 0 (up to rounding) and :math:`D \log |O|`, of shape (B,); zero where fewer than two are
        observed, connected to the graph.

    Raises:
        ShapeError: If the shapes do not fit each other.

    Source:
        For two modalities :cite:`yao2024drfuse`; the generalised divergence of several laws with equal weights.

    Example:
        >>> p = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # two sure choices that differ: log 2
        >>> jensen_shannon(p.log().clamp_min(-100), torch.tensor([[True, True]]))
        tensor([0.6931])
    """
    if log_probabilities.ndim != 3 or observed.shape != log_probabilities.shape[:2] or observed.dtype != torch.bool:
        raise ShapeError(
            "presence does not fit the probabilities",
            expected="logarithms (B, M, D) and bool (B, M)",
            got=f"{tuple(log_probabilities.shape)} and {observed.dtype} {tuple(observed.shape)}",
        )
    keep = observed[..., None]
    logs = torch.where(keep, log_probabilities, 0.0)
    mean = log_mean(logs, keep)[:, None]  # (B, 1, D)
    nats = torch.where(keep, logs.exp() * (logs - mean), 0.0).sum((1, 2)) / observed.sum(1).clamp(min=1)
    return torch.where(observed.sum(1) > 1, nats, 0.0)
