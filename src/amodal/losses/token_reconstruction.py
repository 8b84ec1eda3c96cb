"""Reconstruction of hidden tokens: squared distances, modality by modality, of each row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["hidden_token_error"]


def hidden_token_error(
    predicted: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    hidden: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    r"""Squared distance of predicted from true tokens where they were hidden.

    .. math::
        \ell = \frac{1}{|O|} \sum_{m \in O} \frac{1}{K_m}
        \sum_{t \text{ hidden}} \lVert \hat z_t^{(m)} - z_t^{(m)} \rVert^2

    with O the modalities of the row of which something is hidden, and :math:`K_m` how much. The distance is a sum over
    the width, so that the value grows with it.

    Args:
        predicted: Predicted tokens of each modality, of shape (B, L, D) with L at least the length of `own`.
        target: True tokens, of the same shapes.
        own: Which tokens are there, bool, of shape (B, L_m): no padding, and none of rows that lack the modality.
        hidden: Which of them were hidden, of shape (B, L_m), bool or 0/1 with a gradient.

    Returns:
        Values (B,), float32 at least, zero for rows of which nothing is hidden, and which rows have something hidden,
        bool (B,).

    Source:
        :cite:`choi2025cepa`, eqs. 4 and 6, with 1 = hidden.

    Example:
        >>> z, z_hat = torch.zeros(1, 3, 2), torch.tensor([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]])
        >>> own, hidden = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[True, True, False]])
        >>> hidden_token_error({"a": z_hat}, {"a": z}, {"a": own}, {"a": hidden})  # (25 + 1) / 2
        (tensor([13.]), tensor([True]))
    """
    values, counted = [], []
    for name, valid in own.items():
        length, hide = valid.shape[1], hidden[name]
        dtype = torch.promote_types(target[name].dtype, torch.float32)  # a sum over the width loses half precision
        error = (predicted[name][:, :length].to(dtype) - target[name][:, :length].to(dtype)).square().sum(2)  # (B, L)
        count = hide.detach().sum(1)
        values.append((torch.where(valid, error, 0.0) * hide.to(error.dtype)).sum(1) / count.clamp(min=1))
        counted.append(count > 0)
    some = torch.stack(counted, dim=1)  # (B, M)
    total = torch.where(some, torch.stack(values, dim=1), 0.0).sum(1)
    return total / some.sum(1).clamp(min=1), some.any(1)
