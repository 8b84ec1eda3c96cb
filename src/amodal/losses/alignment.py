r"""Alignment of modalities: similarity of one case's features across its present modalities.

Each function takes the features of any number of modalities and gives one value for each row, the mean over the pairs
of modalities that the row has; a row with fewer than two is zero, connected to the graph. Cosine and divergence are the
two losses that copula alignment is compared with, the absolute difference is ShaSpec's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from amodal.errors import ConfigurationError, ShapeError
from amodal.losses.masked import select

__all__ = ["Direction", "absolute_alignment", "cosine_alignment", "kl_alignment", "pairs_observed"]

Direction = Literal["forward", "reverse", "symmetric"]


def cosine_alignment(features: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    r"""One minus the cosine similarity of two modalities' features, averaged over a row's observed pairs.

    .. math:: \ell = \frac{1}{|\{m < n \text{ observed}\}|} \sum_{m < n} 1 - \frac{z_m^\top z_n}{\|z_m\| \, \|z_n\|}

    Args:
        features: For each modality features :math:`z_m` of shape (B, D), of one width; arbitrary where it is absent.
        observed: For each modality its presence, bool, of shape (B,).

    Returns:
        Values in [0, 2], of shape (B,). Zero where fewer than two modalities are observed.

    Raises:
        ShapeError: If there are fewer than two modalities, or their shapes disagree.

    Source:
        :cite:`wu2025cm2`, table 4 ("Cosine"), for two modalities; the mean over pairs is this library's.

    Example:
        >>> import torch
        >>> z = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 2.0]])}
        >>> cosine_alignment(z, {"a": torch.tensor([True]), "b": torch.tensor([True])})
        tensor([1.])
    """
    stacked, presence = _stack(features, observed)  # (B, M, D), (B, M)
    unit = torch.nn.functional.normalize(stacked, dim=-1)
    return _mean_over_pairs(1 - unit @ unit.mT, presence)


def kl_alignment(
    features: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    *,
    temperature: float = 0.2,
    direction: Direction = "forward",
    detach_target: bool = True,
) -> Tensor:
    r"""Kullback-Leibler divergence of two modalities' features as distributions over their D coordinates, in nats.

    .. math:: \ell_{mn} = \sum_j p_j (\log p_j - \log q_j), \qquad
        p = \operatorname{softmax}(z_m / T), \quad q = \operatorname{softmax}(z_n / T),

    averaged over the pairs m < n, in the order of ``features``, that a row has.

    Args:
        features: For each modality features :math:`z_m` of shape (B, D), of one width; arbitrary where it is absent.
        observed: For each modality its presence, bool, of shape (B,).
        temperature: T. The value is not multiplied by its square.
        direction: ``"forward"``: the earlier modality is the target p, as in the paper's code for its two modalities;
            ``"reverse"``: the later one is; ``"symmetric"``: the mean of both, which does not depend on the order.
        detach_target: Whether p is a constant, so that q moves towards it and not both towards each other.

    Returns:
        Values of at least zero (up to rounding), of shape (B,). Zero where fewer than two modalities are observed.

    Raises:
        ShapeError: If there are fewer than two modalities, or their shapes disagree.
        ConfigurationError: If the temperature is not positive or the direction unknown.

    Source:
        :cite:`wu2025cm2`, table 4 ("KL"), with the temperature and the detached target of its code.

    Example:
        >>> import torch
        >>> z = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([[0.2, 0.0]])}
        >>> here = {"a": torch.tensor([True]), "b": torch.tensor([True])}
        >>> round(kl_alignment(z, here).item(), 4)  # log((1 + e) / 2) - 1/2
        0.1201
    """
    if not temperature > 0:
        raise ConfigurationError("the temperature must be positive", expected="> 0", got=temperature)
    stacked, presence = _stack(features, observed)  # (B, M, D), (B, M)
    log_q = torch.log_softmax(stacked / temperature, dim=-1)
    log_p = log_q.detach() if detach_target else log_q
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1, keepdim=True)  # (B, M, 1)
    divergence = -entropy - p @ log_q.mT  # (B, M, M), row the target
    if direction == "symmetric":
        divergence = (divergence + divergence.mT) / 2
    elif direction == "reverse":
        divergence = divergence.mT
    elif direction != "forward":
        raise ConfigurationError(
            "unknown direction", expected="'forward', 'reverse' or 'symmetric'", got=repr(direction)
        )
    return _mean_over_pairs(divergence, presence)


def absolute_alignment(features: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    r"""Mean absolute difference of two modalities' features, averaged over a row's observed pairs.

    .. math:: \ell = \frac{1}{|\{m < n \text{ observed}\}|} \sum_{m < n} \frac1D \sum_j |z_{mj} - z_{nj}|

    Args:
        features: For each modality features :math:`z_m` of shape (B, D), of one width; arbitrary where it is absent.
        observed: For each modality its presence, bool, of shape (B,).

    Returns:
        Values of at least zero, of shape (B,). Zero where fewer than two modalities are observed.

    Raises:
        ShapeError: If there are fewer than two modalities, or their shapes disagree.

    Source:
        :cite:`wang2023shaspec`, whose code sums neighbouring pairs.

    Example:
        >>> import torch
        >>> z = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 3.0]])}
        >>> absolute_alignment(z, {"a": torch.tensor([True]), "b": torch.tensor([True])})
        tensor([2.])
    """
    stacked, presence = _stack(features, observed)
    return _mean_over_pairs((stacked[:, :, None] - stacked[:, None]).abs().mean(-1), presence)


def pairs_observed(observed: Mapping[str, Tensor]) -> Tensor:
    """Rows that have at least two modalities, bool, of shape (B,): those whose alignment is defined.

    Args:
        observed: For each modality its presence, bool, of shape (B,).

    Returns:
        For :func:`~amodal.losses.masked.mean_over_observed`, to average over the rows that have a pair.

    Example:
        >>> import torch
        >>> pairs_observed({"a": torch.tensor([True, True]), "b": torch.tensor([True, False])})
        tensor([ True, False])
    """
    return torch.stack(list(observed.values())).sum(0) >= 2


def _stack(features: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features (B, M, D), blanked where absent and float32 at least, and presence (B, M)."""
    if len(features) < 2:
        raise ShapeError("alignment needs modalities to align", expected="two or more", got=list(features))
    missing = set(features) - set(observed)
    if missing:
        raise ShapeError("presence is not given for every modality", expected=list(features), got=list(observed))
    shapes = {name: tuple(value.shape) for name, value in features.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ShapeError("features of the modalities do not fit each other", expected="(B, D) for all", got=shapes)
    blanked = torch.stack([select(value, observed[name]) for name, value in features.items()], 1)
    presence = torch.stack([observed[name] for name in features], 1)
    return blanked.to(torch.promote_types(blanked.dtype, torch.float32)), presence


def _mean_over_pairs(values: Tensor, presence: Tensor) -> Tensor:
    """Mean over the observed pairs m < n of values (B, M, M), of shape (B,)."""
    pairs = (presence[:, :, None] & presence[:, None, :]).triu(1)
    return torch.where(pairs, values, torch.zeros_like(values)).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
