"""Stand-in tokens of absent modalities under several patterns of presence, with one attention for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.attention import TransformerTrunk, drop_out
from amodal.batch import rows_where

__all__ = ["AbsentTokens", "TokenLayout", "attended_under_patterns"]


class AbsentTokens(NamedTuple):
    """Tokens that stand for absent modalities, one modality after another.

    Attributes:
        rows: For each modality the places (n_m,) of those that lack it among Q rows under patterns.
        counts: Number of stand-in tokens U_m of each modality.
        values: Their tokens (…, R, D), R the sum of n_m · U_m: row by row of the first modality, then of the second.
    """

    rows: tuple[Tensor, ...]
    counts: tuple[int, ...]
    values: Tensor

    def split(self) -> list[Tensor]:
        """Tokens (…, n_m, U_m, D) of each modality."""
        sizes = [len(rows) * count for rows, count in zip(self.rows, self.counts)]
        parts = zip(self.values.split(sizes, dim=-2), self.counts)
        return [part.unflatten(-2, (-1, count)) for part, count in parts]

    def of_rows(self, m: int, rows: Tensor) -> Tensor:
        """Tokens (k, U_m, D) of the m-th modality of some rows, by their places (k,); any where a row has it."""
        tokens, rows = self.split()[m], rows.contiguous()
        if len(self.rows[m]) == 0:
            return tokens.new_zeros(len(rows), *tokens.shape[-2:])
        return tokens.index_select(-3, torch.searchsorted(self.rows[m], rows).clamp_max(len(self.rows[m]) - 1))

    @classmethod
    def of_sequences(cls, tokens: Mapping[str, Tensor], observed: Tensor, counts: tuple[int, ...]) -> AbsentTokens:
        """The tokens (B, L_m, D) of each modality that stand where a row lacks it, presence (B, M)."""
        rows = tuple(rows_where(*(~present for present in observed.unbind(1))))
        parts = [z[at, :count].flatten(0, 1) for z, at, count in zip(tokens.values(), rows, counts)]
        return cls(rows, counts, torch.cat(parts))


class TokenLayout(NamedTuple):
    """All tokens of some rows in one sequence, with their places added, and the stand-ins that may take their place.

    Attributes:
        own: Tokens (B, L, D), modality after modality.
        valid: Which of them are real, bool, of shape (B, L).
        lengths: Number of tokens L_m of each modality.
        stand_ins: Stand-in tokens (U_m, D) of each modality, U_m at most L_m.
    """

    own: Tensor
    valid: Tensor
    lengths: Sequence[int]
    stand_ins: Sequence[Tensor]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of stand-in tokens U_m of each modality."""
        return tuple(len(part) for part in self.stand_ins)

    def stand_in_sequence(self) -> tuple[Tensor, Tensor, Tensor]:
        """Stand-ins in the places of the own tokens (L, D), which places have one, and whose they are, (L,) each."""
        device, pairs = self.own.device, list(zip(self.stand_ins, self.lengths))
        stand = torch.cat([functional.pad(tokens, (0, 0, 0, length - len(tokens))) for tokens, length in pairs])
        stands = torch.cat([torch.arange(length, device=device) < len(tokens) for tokens, length in pairs])
        owner = [torch.full((length,), m, device=device) for m, length in enumerate(self.lengths)]
        return stand, stands, torch.cat(owner)


def attended_under_patterns(
    trunk: TransformerTrunk, layout: TokenLayout, observed: Tensor, source: Tensor
) -> AbsentTokens:
    """Stand-in tokens after the trunk's last attention, for every row and pattern that lacks their modality.

    Each pattern is the row with the stand-ins of what it lacks in the place of the row's own tokens. With one layer
    stand-ins are the same queries, keys and values for all rows, and a row's own keys, values and scores are the same
    under all patterns: they are computed once, and a pattern chooses among them.

    Args:
        trunk: The transformer.
        layout: The tokens of B rows.
        observed: Presence under patterns, bool, of shape (Q, M), a part of what the rows have.
        source: Which of the B rows each is of, of shape (Q,).

    Returns:
        Tokens before the last feed-forward part, as `TransformerTrunk.attended` gives them.
    """
    rows = tuple(rows_where(*(~part for part in observed.unbind(1))))
    if trunk.only_layer is None:
        return _one_by_one(trunk, layout, observed, source, rows)
    return _at_once(trunk, trunk.only_layer, layout, observed, source, rows)


def _at_once(
    trunk: TransformerTrunk,
    layer: nn.TransformerEncoderLayer,
    layout: TokenLayout,
    observed: Tensor,
    source: Tensor,
    rows: tuple[Tensor, ...],
) -> AbsentTokens:
    attention, drop = layer.self_attn, layer.self_attn.dropout * trunk.training
    whole = not layout.valid.is_cuda and bool(layout.valid.all())
    heads, d, lowest = attention.num_heads, attention.embed_dim, torch.finfo(layout.own.dtype).min / 2
    stand, stands, owner = layout.stand_in_sequence()  # (L, D), (L,), (L,)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    own = layout.own if whole else torch.where(layout.valid[..., None], layout.own, 0.0)
    mixed = functional.linear(layer.norm1(own), weight[d:], bias[d:]).unflatten(2, (2, heads, -1))
    key, value = mixed.permute(2, 0, 3, 1, 4).contiguous()  # (B, H, L, E) each
    mixed = functional.linear(layer.norm1(stand), weight, bias).unflatten(1, (3, heads, -1))
    query, stand_key, stand_value = mixed.permute(1, 2, 0, 3)  # (H, L, E) each
    query = query * query.shape[-1] ** -0.5
    scores = query @ key.mT  # (B, H, L, L), of stand-ins with own tokens
    scores = scores if whole else scores.masked_fill(~layout.valid[:, None, None], lowest)
    stand_scores = (query @ stand_key.mT).masked_fill(~stands, lowest)  # (H, L, L), with one another
    parts, n = {}, len(rows)
    counts, starts = layout.counts, [sum(layout.lengths[:m]) for m in range(len(rows))]
    for count in sorted(set(counts)):  # modalities of as many stand-ins at once
        group = [m for m in range(n) if counts[m] == count]
        sizes = [len(rows[m]) for m in group]
        places = torch.cat([rows[m] for m in group])  # (N,)
        member = torch.cat([rows[m].new_full((size,), g) for g, (m, size) in enumerate(zip(group, sizes))])
        of_rows = torch.stack([scores[:, :, starts[m] : starts[m] + count] for m in group], dim=1)  # (B, G, H, U, L)
        of_stands = torch.stack([stand_scores[:, starts[m] : starts[m] + count] for m in group])  # (G, H, U, L)
        seen, row = observed[places][:, None, None, owner], source[places]  # (N, 1, 1, L), (N,)
        chosen = of_rows.flatten(0, 1).index_select(0, row * len(group) + member)
        shares = torch.where(seen, chosen, of_stands.index_select(0, member)).softmax(3)
        shares = drop_out(shares, drop)  # (N, H, U, L)
        of_own = shares * seen.to(shares.dtype)
        mixed = of_own @ value.index_select(0, row)  # (N, H, U, E)
        mixed = mixed + torch.einsum("nhul,hle->nhue", shares - of_own, stand_value)
        parts |= dict(zip(group, mixed.transpose(1, 2).flatten(2).split(sizes)))  # (n_m, U_m, D) each
    repeated = [tokens.expand(len(places), -1, -1).flatten(0, 1) for tokens, places in zip(layout.stand_ins, rows)]
    mixed = torch.cat([parts[m].flatten(0, 1) for m in range(n)])
    return AbsentTokens(rows, counts, trunk.add_attended(torch.cat(repeated), mixed))


def _one_by_one(
    trunk: TransformerTrunk, layout: TokenLayout, observed: Tensor, source: Tensor, rows: tuple[Tensor, ...]
) -> AbsentTokens:
    """The same for a trunk of any depth: every pattern's sequence goes through it."""
    device, (stand, stands, owner) = layout.own.device, layout.stand_in_sequence()
    has, own, own_valid = observed[:, owner], layout.own[source], layout.valid[source]  # (Q, L) …
    valid, read = torch.where(has, own_valid, stands), ~has & stands
    values = trunk.attended(torch.where(has[..., None], own, stand.to(own.dtype)), valid, read)  # (R, D), row by row
    rank, start, order = read.flatten().cumsum(0) - 1, 0, []
    for places, count, length in zip(rows, layout.counts, layout.lengths):
        at = places[:, None] * read.shape[1] + start + torch.arange(count, device=device)
        order.append(rank[at.flatten()])
        start += length
    return AbsentTokens(rows, layout.counts, values[torch.cat(order)])
