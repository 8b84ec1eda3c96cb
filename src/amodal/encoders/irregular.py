"""UTDE: irregular series brought to a grid of times by learned interpolation and by filling forward, with a gate."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from amodal.attention import drop_out
from amodal.encoders.encoder import Encoded, Encoder, Tokens
from amodal.encoders.squash import soft_clip
from amodal.errors import ConfigurationError
from amodal.kinds.statistics import read_cells
from amodal.options import Positive, Share, Size
from amodal.schema import Modality

__all__ = ["UTDE", "fill_forward"]


def fill_forward(values: Tensor, readable: Tensor, times: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The last measured value of each feature at every point of a grid, and whether one was measured since the last.

    Args:
        values: Of shape (P, T, D), in any order of time.
        readable: Cells measured, bool (P, T, D).
        times: Of shape (P, T).
        grid: Increasing times (G,).

    Returns:
        Values (P, G, D), zero before the first (several at one time: their mean); and 0 or 1, in their dtype (P, G, D).

    Example:
        >>> filled, new = fill_forward(torch.tensor([[[5.0], [7.0]]]), torch.ones(1, 2, 1, dtype=torch.bool),
        ...     torch.tensor([[0.6, 0.1]]), torch.tensor([0.0, 0.5, 1.0]))
        >>> filled.flatten().tolist(), new.flatten().tolist()
        ([0.0, 7.0, 5.0], [0.0, 1.0, 1.0])
    """
    before = readable[:, None] & (times[:, None] <= grid[:, None])[..., None]  # (P, G, T, D)
    at = torch.where(before, times[:, None, :, None], -torch.inf)
    last = at.amax(2)  # (P, G, D)
    chosen = before & (at == last[:, :, None])
    filled = torch.where(chosen, values[:, None], 0.0).sum(2) / chosen.sum(2).clamp(min=1)
    previous = torch.cat([torch.full_like(grid[:1], -torch.inf), grid[:-1]])
    return filled, (last > previous[:, None]).to(values.dtype)


class UTDE(Encoder):
    r"""An irregular series as tokens on a regular grid: attention over observation times, forward filling, and a gate.

    With times scaled to [0, 1], a learned code of time :math:`\phi`, and for each head the attention of a grid point to
    the observations of each feature,

    .. math::
        e^{att}_g = W \, [\textstyle\sum_t a_{gt} x_{td}]_{h, d}, \qquad
        a_{g \cdot} = \mathrm{softmax}_{t \text{ measured in } d}(\phi(g)^\top Q_h^\top K_h \phi(\tau_t) / \sqrt{v / H})

    beside whether a feature was measured at all; :math:`e^{imp}` is a linear map of the values filled forward and of
    what is new in each interval; and the token is :math:`g \odot e^{att} + (1 - g) \odot e^{imp}`, with the gate g a
    small network of both. The order of observations does not matter, nor do unmeasured ones. A series without a clock
    of its own is taken at equal steps.

    Args:
        modality: A series modality (T, D); its `clock` says what times 0 and 1 are.
        width: Width of tokens and of the pooled vector.
        grid: Points of the grid.
        time: Width v of the code of time: one number linear in it, the others periodic.
        heads: Number H of heads.
        gate: What has a gate of its own: a "sample", each "time", or each "channel" at each time; "attention" and
            "filled" take one of the two parts alone.
        dropout: Dropout of the attention's weights and of the gate's input.
        clip: Scale of the soft clipping of values, in standard deviations.

    Raises:
        ConfigurationError: If the heads do not divide the width of the code.

    Source:
        :cite:`zhang2023interleaved`, section 3.1; the attention over times is of :cite:`shukla2021mtan`. Deviations:
        dropped weights are not renormalised by feature but drawn once for all; forward filling knows measured zeros.
    """

    kinds = ("series",)
    references = ("zhang2023interleaved", "shukla2021mtan")
    takes_times = True

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        grid: Size = 24,
        time: Size = 16,
        heads: Size = 4,
        gate: Literal["sample", "time", "channel", "attention", "filled"] = "channel",
        dropout: Share = 0.1,
        clip: Positive = 3.0,
    ):
        super().__init__(modality, width=width)
        if time % heads or time < 2:
            raise ConfigurationError("the heads do not divide the width of the time's code", expected="a divisor of it",
                                     got=f"{heads} heads, width {time}")  # fmt: skip
        self.grid, self.heads, self.gate, self.dropout, self.clip = grid, heads, gate, dropout, clip
        n = modality.n_features
        self.linear_time, self.periodic_time = nn.Linear(1, 1), nn.Linear(1, time - 1)
        self.query, self.key = nn.Linear(time, time), nn.Linear(time, time)
        self.attended = nn.Linear(heads * 2 * n, width) if gate != "filled" else None
        self.filled = nn.Linear(2 * n, width, bias=False) if gate != "attention" else None
        self.gates: nn.Module | None = None
        if gate in ("sample", "time", "channel"):
            out = width if gate == "channel" else 1
            hidden = nn.Linear(2 * width, width)
            self.gates = nn.Sequential(nn.Dropout(dropout), hidden, nn.ReLU(), nn.Linear(width, out))
            nn.init.zeros_(self.gates[3].bias)  # type: ignore[arg-type]

    @property
    def n_tokens(self) -> int:
        """One a point of the grid."""
        return self.grid

    def code(self, time: Tensor) -> Tensor:
        """The learned code (…, v) of times (…)."""
        time = time[..., None]
        return torch.cat([self.linear_time(time), self.periodic_time(time).sin()], dim=-1)

    def scaled(self, times: Tensor | None, like: Tensor) -> Tensor:
        """Times (P, T) with 0 and 1 at the ends of the clock; equal steps of the values (P, T, D) without one."""
        if times is None:
            steps = torch.arange(like.shape[1], device=like.device, dtype=like.dtype)
            return (steps / max(1, self.modality.shape[0] - 1)).expand(like.shape[:2])
        start, stop = self.modality.clock or (0.0, 1.0)
        return ((times - start) / (stop - start)).to(like.dtype)

    def attend(self, values: Tensor, readable: Tensor, times: Tensor, grid: Tensor) -> Tensor:
        """Values read at every grid point by every head, and which features were ever measured: (P, G, H, 2 D)."""
        query = self.query(self.code(grid)).unflatten(-1, (self.heads, -1))  # (G, H, v / H)
        key = self.key(self.code(times)).unflatten(-1, (self.heads, -1))  # (P, T, H, v / H)
        scores = torch.einsum("ghk,pthk->phgt", query, key) / query.shape[-1] ** 0.5
        some = readable.any(2)[:, None, None]  # (P, 1, 1, T)
        scores = torch.where(some, scores, -torch.inf)
        highest = scores.amax(3, keepdim=True)
        weights = (scores - torch.where(highest.isfinite(), highest, 0.0)).exp()
        seen = readable.to(values.dtype)
        total = torch.einsum("phgt,ptd->pghd", weights, seen)
        kept = drop_out(weights, self.dropout) if self.training else weights
        read = torch.einsum("phgt,ptd->pghd", kept, values) / total.clamp(min=torch.finfo(values.dtype).tiny)
        ever = readable.any(1)[:, None, None].expand_as(read)
        return torch.cat([torch.where(ever, read, 0.0), ever.to(read.dtype)], dim=3)

    def embed(
        self,
        values: Tensor,
        measured: Tensor | None = None,
        lengths: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Tokens:
        """Values (P, T, D) at times (P, T) to one token a grid point."""
        values, readable, _ = read_cells(values, measured, lengths)
        values = torch.where(readable, soft_clip(values, self.clip), 0.0)
        clock = self.scaled(times, values)
        grid = torch.linspace(0.0, 1.0, self.grid, device=values.device, dtype=values.dtype)
        tokens = self.mix(
            None if self.attended is None else self.attended(self.attend(values, readable, clock, grid).flatten(2)),
            None if self.filled is None else self.filled(torch.cat(fill_forward(values, readable, clock, grid), dim=2)),
        )
        return Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def mix(self, attended: Tensor | None, filled: Tensor | None) -> Tensor:
        """The two parts (P, G, width), gated; or the one that there is."""
        if attended is None or filled is None or self.gates is None:
            only = filled if attended is None else attended
            assert only is not None
            return only
        both = torch.cat([attended, filled], dim=2)
        gate = self.gates(both.amax(1, keepdim=True) if self.gate == "sample" else both).sigmoid()
        return gate * attended + (1 - gate) * filled

    def begin(
        self,
        values: Tensor,
        measured: Tensor | None = None,
        lengths: Tensor | None = None,
        times: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens; see `Encoder.begin`."""
        return self.embed(values, measured, lengths, times)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The tokens as they are."""
        return tokens

    def forward(
        self,
        values: Tensor,
        measured: Tensor | None = None,
        lengths: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Encoded:
        """Tokens, all valid, and their mean."""
        return self.finish(*self.begin(values, measured, lengths, times))
