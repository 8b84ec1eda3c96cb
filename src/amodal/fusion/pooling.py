"""Fusions that keep the width or concatenate: concatenation with a fill, mean of present, gates."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from amodal.fusion.fusion import Fusion
from amodal.options import at_least

__all__ = ["Concatenate", "GatedFusion", "MeanOfPresent", "track_mean"]


class Concatenate(Fusion):
    """All features side by side, absent ones replaced by a fill.

    Args:
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.
        fill: "zero"; "mean", the running mean of the present features seen in training; or "learned", one vector a
            modality.
        memory: Number of training batches over which the running mean forgets. The fill is what was tracked before the
            batch at hand, so that a row's result does not depend on its neighbours.
    """

    running_sum: Tensor
    running_count: Tensor

    def __init__(
        self,
        n_modalities: int,
        width: int,
        *,
        fill: Literal["zero", "mean", "learned"] = "zero",
        memory: Annotated[float, at_least(1)] = 20.0,
    ):
        super().__init__(n_modalities, width)
        self.fill = fill
        self.decay = 1.0 - 1.0 / memory
        self.learned = nn.Parameter(0.02 * torch.randn(n_modalities, width)) if fill == "learned" else None
        if fill == "mean":
            self.register_buffer("running_sum", torch.zeros(n_modalities, width))
            self.register_buffer("running_count", torch.zeros(n_modalities, 1))

    @property
    def out_width(self) -> int:
        """M · D."""
        return self.n_modalities * self.width

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D) and presence (B, M) to (B, M · D)."""
        keep = observed[..., None]
        if self.fill == "mean":
            fill = self.running_sum / self.running_count.clamp(min=1e-12)
            if self.training:
                track_mean(self.running_sum, self.running_count, features.detach(), keep, self.decay)
        else:
            fill = self.learned if self.learned is not None else torch.zeros((), device=features.device)
        return torch.where(keep, features, fill.to(features.dtype)).flatten(1)


@torch.no_grad()
def track_mean(total: Tensor, count: Tensor, values: Tensor, keep: Tensor, decay: float) -> None:
    """Adds a batch to a running sum and count that forget, in place; their ratio is the running mean.

    Args:
        total: The sum, of shape (…, D).
        count: The count, of shape (…, 1).
        values: Of B rows, (B, …, D).
        keep: Which rows count, bool, of shape (B, …, 1); a place that no row counts at forgets nothing.
        decay: What remains of the past.
    """
    seen = keep.sum(0).float()
    remains = torch.where(seen > 0, decay, 1.0)
    total.mul_(remains).add_(torch.where(keep, values, 0.0).float().sum(0))
    count.mul_(remains).add_(seen)


class MeanOfPresent(Fusion):
    """The mean of the present features; zero where nothing is present.

    Args:
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.
    """

    @property
    def out_width(self) -> int:
        """D."""
        return self.width

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D) and presence (B, M) to (B, D)."""
        total = torch.where(observed[..., None], features, 0.0).sum(1)
        return total / observed.sum(1, keepdim=True).clamp(min=1)


class GatedFusion(Fusion):
    r"""A weighted mean of transformed features, with weights from a softmax over the present modalities.

    .. math::
        f = \sum_{m \in O} \alpha_m \tanh(W_m h_m), \qquad \alpha_m \propto \exp(v_m^\top h_m + c_m)

    Args:
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.

    Source:
        After the gated multimodal unit of :cite:`arevalo2017gated`, section 3.1, whose gates are sigmoids that see all
        modalities; here each gate sees its own modality and they compete in a softmax, so that any subset works.
    """

    references = ("arevalo2017gated",)

    def __init__(self, n_modalities: int, width: int):
        super().__init__(n_modalities, width)
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(n_modalities, width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_modalities, width))
        self.gate = nn.Parameter(torch.empty(n_modalities, width).uniform_(-bound, bound))
        self.offset = nn.Parameter(torch.zeros(n_modalities))

    @property
    def out_width(self) -> int:
        """D."""
        return self.width

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D) and presence (B, M) to (B, D)."""
        features = torch.where(observed[..., None], features, 0.0)
        score = (features * self.gate).sum(-1) + self.offset
        readable = observed | ~observed.any(1, keepdim=True)
        share = torch.where(readable, score, -math.inf).softmax(1)
        share = torch.where(observed, share, 0.0)
        moved = torch.tanh(torch.einsum("bmd,mde->bme", features, self.weight) + self.bias)
        return (share[..., None] * moved).sum(1)
