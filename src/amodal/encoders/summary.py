"""Summary statistics of series, and the encoder that uses nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amodal.encoders.encoder import Encoder, Tokens
from amodal.encoders.squash import SOFT_STEP_CUTS, soft_clip, soft_steps
from amodal.encoders.tabular import ResidualBlock
from amodal.options import Count, Positive, Share
from amodal.schema import Modality

__all__ = ["STATISTICS", "SeriesSummary", "SummaryToken", "read_cells", "summarise"]

STATISTICS = (
    "mean",
    "min",
    "max",
    "spread",
    "first",
    "last",
    "late_mean",
    "slope",
    "count",
    "since_last",
    "ever",
)
_SLOPE_RIDGE = 0.02


def read_cells(values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells of a series can be read, with all others blanked.

    Args:
        values: Of shape (P, T, D).
        measured: Cells measured, bool, of shape (P, T, D); None: all.
        lengths: Valid steps, of shape (P,); None: all.

    Returns:
        Values with zeros where nothing can be read (P, T, D); the readable cells, bool (P, T, D); the steps inside
        each row's length, bool (P, T).
    """
    steps = torch.arange(values.shape[1], device=values.device)
    if lengths is None:
        inside = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    else:
        inside = steps < lengths[:, None]  # (P, T)
    readable = inside[..., None].expand(values.shape)
    if measured is not None:
        readable = readable & measured
    return torch.where(readable, values, 0.0), readable, inside


def summarise(values: Tensor, readable: Tensor, inside: Tensor, horizon: int) -> Tensor:
    r"""Statistics of each feature over the cells that were measured.

    Over the n readable cells of a feature: mean, minimum, maximum, spread (population standard deviation), first and
    last value, mean over the last quarter of the row's steps (the last value if nothing was measured there), slope per
    horizon :math:`\sum (t-\bar t)(x-\bar x) / (\sum (t-\bar t)^2 + 0.02)` with t in horizons (the constant shrinks
    slopes over a few close cells), :math:`\log(1+n)`, the logarithm of one plus the steps from the last measurement to
    the row's end, both over :math:`\log(1 + T)`, and whether anything was measured. A feature that was never measured
    has zeros, and 1 for the time since.

    Args:
        values: Of shape (P, T, D).
        readable: Cells to use, bool, of shape (P, T, D).
        inside: Steps inside the rows' lengths, bool, of shape (P, T).
        horizon: Full number of steps, the unit of time.

    Returns:
        Of shape (P, D, 11), in the order of `STATISTICS`.
    """
    n_steps = values.shape[1]
    time = torch.arange(n_steps, device=values.device, dtype=values.dtype)[None, :, None]  # (1, T, 1)
    weight = readable.to(values.dtype)
    count = weight.sum(1)  # (P, D)
    ever = count > 0
    some = count.clamp(min=1)
    mean = (values * weight).sum(1) / some
    deviation = torch.where(readable, values - mean[:, None], 0.0)
    spread = (deviation.square().sum(1) / some + 1e-12).sqrt()
    low = torch.where(readable, values, math.inf).amin(1)
    high = torch.where(readable, values, -math.inf).amax(1)
    position = time.long().expand(values.shape)
    first_at = torch.where(readable, position, n_steps - 1).amin(1)
    last_at = torch.where(readable, position, 0).amax(1)
    first = values.gather(1, first_at[:, None])[:, 0]
    last = values.gather(1, last_at[:, None])[:, 0]
    length = inside.sum(1, keepdim=True).to(values.dtype)  # (P, 1)
    late = readable & (time >= (0.75 * length).floor()[..., None])
    n_late = late.sum(1)
    late_mean = torch.where(n_late > 0, torch.where(late, values, 0.0).sum(1) / n_late.clamp(min=1), last)
    moment = time / horizon
    centred = torch.where(readable, moment - ((moment * weight).sum(1) / some)[:, None], 0.0)
    slope = (centred * deviation).sum(1) / (centred.square().sum(1) + _SLOPE_RIDGE)
    scale = math.log1p(horizon)
    since = torch.where(ever, torch.log1p((length - 1 - last_at).clamp(min=0)) / scale, 1.0)
    columns = [mean, low, high, spread, first, last, late_mean, slope]
    columns = [torch.where(ever, column, 0.0) for column in columns]
    return torch.stack([*columns, torch.log1p(count) / scale, since, ever.to(values.dtype)], dim=2)  # (P, D, 11)


class SummaryToken(nn.Module):
    """The summary statistics of a series as one token.

    Args:
        modality: A series modality (T, D).
        width: Width of the token.
        layers: Residual blocks after the input layer.
        dropout: Dropout on the statistics and in the blocks.
        steps: Whether the statistics stand beside soft steps of themselves; see `soft_steps`.
    """

    def __init__(self, modality: Modality, width: int, *, layers: Count = 1, dropout: Share = 0.1, steps: bool = True):
        super().__init__()
        self.horizon = modality.shape[0]
        self.steps = steps
        self.drop = nn.Dropout(dropout)
        expansion = 1 + len(SOFT_STEP_CUTS) if steps else 1
        self.input = nn.Linear(modality.n_features * len(STATISTICS) * expansion, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, dropout=dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor, readable: Tensor, inside: Tensor) -> Tensor:
        """Softly clipped values (P, T, D), what of them can be read, and the steps inside, to (P, width)."""
        statistics = summarise(values, readable, inside, self.horizon).flatten(1)
        if self.steps:
            statistics = soft_steps(statistics)
        return self.norm(self.blocks(self.input(self.drop(statistics))))


class SeriesSummary(Encoder):
    """Summary statistics of a series and a small residual network: one token, no recurrence; the fastest for series.

    Args:
        modality: A series modality (T, D).
        width: Width of the token and of the pooled vector.
        layers: Residual blocks.
        dropout: Dropout on the statistics and in the blocks.
        clip: Scale of the soft clipping of values, in standard deviations.
        steps: Whether the statistics stand beside soft steps of themselves; see `soft_steps`.
    """

    kinds = ("series",)
    references = ("gorishniy2021revisiting", "gorishniy2022embeddings")

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: Count = 1,
        dropout: Share = 0.3,
        clip: Positive = 3.0,
        steps: bool = True,
    ):
        super().__init__(modality, width=width)
        self.clip = clip
        self.summary = SummaryToken(modality, width, layers=layers, dropout=dropout, steps=steps)

    @property
    def n_tokens(self) -> int:
        """One."""
        return 1

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, T, D) to one token."""
        values, readable, inside = read_cells(values, measured, lengths)
        token = self.summary(soft_clip(values, self.clip), readable, inside)
        return Tokens(token[:, None], torch.ones(len(values), 1, dtype=torch.bool, device=values.device))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Nothing is left to do."""
        return tokens
