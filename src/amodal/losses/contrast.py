r"""Contrasts and rankings: anchors against candidates with hard or soft positives, margins, own domain.

Similarities are :math:`s_{ij} = \langle a_i, b_j \rangle / T`. Vectors are taken as they are: a caller that wants
cosines normalises them. What is not counted is neither an anchor nor a candidate, whatever it holds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from amodal.errors import ShapeError
from amodal.kinds import task_kind

__all__ = [
    "agreement_contrast",
    "domain_classification",
    "info_nce",
    "label_agreement",
    "margin_ranking",
    "soft_contrast",
]


def soft_contrast(
    anchors: Tensor, candidates: Tensor, weights: Tensor, *, temperature: float, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy of each anchor's softmax over its candidates with the shares of its positives.

    .. math::
        \ell_i = - \sum_j \frac{w_{ij}}{\sum_k w_{ik}} \log \frac{e^{s_{ij}}}{\sum_{k \text{ counted}} e^{s_{ik}}}

    With weights 0 and 1 it is the supervised contrastive loss, with the identity InfoNCE in one direction.

    Args:
        anchors: Of shape (A, D).
        candidates: Of shape (N, D).
        weights: How much each candidate is a positive of each anchor, 0 or more, of shape (A, N).
        temperature: T.
        counted: Which candidates an anchor is compared with, bool, of shape (A, N); None: all. A positive that is not
            counted is none.

    Returns:
        Values (A,), zero and connected to the graph for anchors without a positive; and which have one, bool (A,).

    Raises:
        ShapeError: If the shapes do not fit each other.

    Source:
        :cite:`khosla2020supervised`, equation 2, for weights of 0 and 1.

    Example:
        >>> codes = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> others = ~torch.eye(3, dtype=torch.bool)
        >>> values, some = soft_contrast(codes, codes, others.float(), temperature=0.1, counted=others)
        >>> values.exp()  # two candidates that cannot be told apart
        tensor([2., 2., 2.])
    """
    shape = (len(anchors), len(candidates))
    if weights.shape != shape or (counted is not None and counted.shape != shape):
        raise ShapeError("weights do not fit anchors and candidates", expected=shape, got=tuple(weights.shape))
    similarity = _similarity(anchors, candidates, temperature)
    counted = torch.ones_like(similarity, dtype=torch.bool) if counted is None else counted
    weights = torch.where(counted, weights.to(similarity.dtype), 0.0)
    readable = counted | ~counted.any(1, keepdim=True)  # a row without candidates stays finite, and is dropped
    log_share = torch.where(readable, similarity, -math.inf).log_softmax(1)
    total = weights.sum(1)
    nats = -(weights * torch.where(counted, log_share, 0.0)).sum(1) / torch.where(total > 0, total, 1.0)
    return nats, total > 0


def info_nce(one: Tensor, other: Tensor, *, temperature: float, counted: Tensor | None = None) -> Tensor:
    r"""Symmetric InfoNCE: each row's vector finds the same row's other vector among all rows, in both directions.

    .. math::
        \ell_i = \tfrac12 \Bigl[-\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
            - \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}\Bigr]

    Args:
        one: Of shape (B, D).
        other: Of shape (B, D).
        temperature: T.
        counted: Rows that take part, bool, of shape (B,); None: all.

    Returns:
        Values (B,), in nats; zero for rows that do not take part. The mean over n rows of equal vectors is log n.

    Source:
        :cite:`oord2018representation`, in both directions.

    Example:
        >>> info_nce(torch.ones(4, 2), torch.ones(4, 2), temperature=0.07).exp()
        tensor([4., 4., 4., 4.])
    """
    same = torch.eye(len(one), dtype=one.dtype, device=one.device)
    pairs = None if counted is None else counted[:, None] & counted
    forth, _ = soft_contrast(one, other, same, temperature=temperature, counted=pairs)
    back, _ = soft_contrast(other, one, same, temperature=temperature, counted=pairs)
    return 0.5 * (forth + back)


def agreement_contrast(
    one: Tensor, other: Tensor, agreement: Tensor, *, temperature: float, counted: Tensor | None = None
) -> Tensor:
    r"""Binary cross-entropy of similarities with the agreement of the rows' labels.

    .. math::
        \ell_i = \frac1n \sum_{j \text{ counted}}
        - t_{ij} \log \sigma(s_{ij}) - (1 - t_{ij}) \log \sigma(-s_{ij})

    Args:
        one: Of shape (B, D).
        other: Of shape (B, D).
        agreement: Targets in [0, 1], of shape (B, B), a row with itself included.
        temperature: T.
        counted: The n rows that take part, bool, of shape (B,); None: all.

    Returns:
        Values (B,), in nats; zero for rows that do not take part.

    Source:
        :cite:`wu2024muse`, whose code has this form of the supervised contrast.

    Example:
        >>> agreement_contrast(torch.zeros(2, 3), torch.zeros(2, 3), torch.eye(2), temperature=0.07)  # log 2
        tensor([0.6931, 0.6931])
    """
    similarity = _similarity(one, other, temperature)
    counted = torch.ones(len(one), dtype=torch.bool, device=one.device) if counted is None else counted
    pairs = counted[:, None] & counted
    target = torch.where(pairs, agreement.to(similarity.dtype), 0.0)
    nats = functional.binary_cross_entropy_with_logits(similarity, target, reduction="none")
    return torch.where(pairs, nats, 0.0).sum(1) / counted.sum().clamp_min(1)


def label_agreement(target: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    r"""Agreement of the targets of every two rows, and the rows that have one.

    ============  ================================================================================
    one class     1 where it is the same (of probabilities, that of drawing the same)
    labels        shared true labels over labels true in either, of those known in both; 1 without a true one
    a value       :math:`\exp(-(y_i - y_j)^2 / 2)` on the standardised scale of training
    ============  ================================================================================

    Args:
        target: Of B rows, as in `amodal.losses.task.task_loss`.
        kind: Kind of task.

    Returns:
        Agreement in [0, 1], of shape (B, B), 0 where a row has no known target; and which have one, bool (B,).

    Example:
        >>> label_agreement(torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), "multilabel")[0]
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    return task_kind(kind).agreement(target)


def margin_ranking(smaller: Tensor, larger: Tensor, *, margin: float = 0.0) -> Tensor:
    """How far a value that should be smaller is from being so by a margin: max(0, smaller − larger + margin).

    Args:
        smaller: Values of any shape.
        larger: Values of the same shape.
        margin: By how much.

    Returns:
        Of the same shape, 0 where the order holds.

    Example:
        >>> margin_ranking(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
        tensor([0., 1.])
    """
    if smaller.shape != larger.shape:
        raise ShapeError("the values to be ranked differ in shape", expected=tuple(smaller.shape), got=larger.shape)
    return (smaller - larger + margin).clamp_min(0.0)


def domain_classification(logits: Tensor, observed: Tensor) -> Tensor:
    """Cross-entropy of telling from a code which modality it is of.

    Args:
        logits: Of shape (B, M, M): for each modality's code the scores of all modalities.
        observed: Presence, bool, of shape (B, M).

    Returns:
        Values (B, M), in nats, zero where absent.

    Raises:
        ShapeError: If there is not one score for each modality.

    Example:
        >>> domain_classification(torch.zeros(1, 2, 2), torch.tensor([[True, False]]))
        tensor([[0.6931, 0.0000]])
    """
    n = observed.shape[1]
    if logits.shape != (*observed.shape, n):
        raise ShapeError("logits of modalities do not fit presence", expected=f"(B, {n}, {n})", got=tuple(logits.shape))
    own = -logits.float().log_softmax(2).diagonal(dim1=1, dim2=2)  # (B, M)
    return torch.where(observed, own, 0.0)


def _similarity(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Inner products over the temperature (A, N), float32 at least."""
    dtype = torch.promote_types(one.dtype, torch.float32)
    return one.to(dtype) @ other.to(dtype).mT / temperature
