"""Encoder: the base class of all encoders, and the function that runs one on the rows that have its modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.errors import UnknownNameError
from amodal.options import OptionsChecked
from amodal.processes import with_shared_rows
from amodal.schema import Modality, Schema

__all__ = [
    "Encoded",
    "Encoder",
    "PerModality",
    "Tokens",
    "check_encoders",
    "encode_all",
    "encode_pooled",
    "encode_present",
    "encode_tokens",
    "present_inputs",
    "scatter",
    "token_counts",
    "width_of",
]


class Tokens(NamedTuple):
    """A padded set of token vectors.

    Attributes:
        values: Of shape (B, L, D).
        valid: Which tokens are real, bool, of shape (B, L); the others are padding.
    """

    values: Tensor
    valid: Tensor


class Encoded(NamedTuple):
    """One modality of a whole batch after its encoder; zero where it is absent.

    Attributes:
        tokens: Of shape (B, L, D).
        valid: bool, of shape (B, L); False for padding and for all tokens of absent rows.
        pooled: Of shape (B, D).
    """

    tokens: Tensor
    valid: Tensor
    pooled: Tensor


class Encoder(OptionsChecked, nn.Module, ABC):
    """One modality to tokens and a pooled vector: embed, trunk, pool.

    An encoder only ever receives rows that have its modality (see `encode_present`), P rows in what follows; P = 1 must
    work, also in training. Embedding and trunk are apart because latent prediction hides tokens between them.

    The same work is also divided into *stages*, for methods that exchange features between encoders while these run
    (`amodal.encoders.exchange`): `begin`, then `run_stage` for each of `stage_widths`, then `finish`. By default the
    embedding begins, the trunk is the only stage, and pooling finishes; deeper encoders override them.

    Args:
        modality: What is encoded.
        width: Width D of tokens and of the pooled vector.

    Attributes:
        kinds: Kinds of modality this encoder takes.
        references: Keys of the bibliography.
        channel_axis: Axis of the channels in the maps between stages: 2 for places in a row (P, L, C), 1 for images
            (P, C, H, W).
        takes_times: Whether `embed`, `begin` and `forward` take the times of a series with its own clock as a last
            argument, (P, T) or None.
        can_hide: Whether tokens can be hidden one by one: no visible token then depends on what a hidden one reads,
            neither as `embed` makes it nor, where that mixes tokens, as `embed_without` does. Otherwise all tokens of
            a row count as one, hidden as a whole.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    references: ClassVar[tuple[str, ...]] = ()
    channel_axis: ClassVar[Literal[1, 2]] = 2
    takes_times: ClassVar[bool] = False
    can_hide: bool = False

    def __init__(self, modality: Modality, *, width: int):
        super().__init__()
        self.modality = modality
        self.width = width

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """Number of tokens L of a full-length sample (stand-ins of an absent modality use it)."""

    @property
    def embed_width(self) -> int:
        """Width of the tokens between `embed` and `trunk`: D, but for networks with an inner width of their own."""
        return self.width

    @abstractmethod
    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, …) with their measured cells and lengths to token vectors (P, L, D), positions included."""

    @abstractmethod
    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens (P, L, D) and their validity (P, L) to contextual tokens (P, L, D)."""

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Contextual tokens (P, L, D) to one vector (P, D): the mean of the valid tokens unless overridden."""
        kept = torch.where(valid[..., None], tokens, 0.0)
        return kept.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)

    # Hiding ----------------------------------------------------------------------------------------------------------

    def hideable(self, valid: Tensor) -> Tensor:
        """Which of the valid tokens (P, L) may be hidden one by one: all of them, unless one stands for others."""
        return valid

    def embed_without(
        self, hide: Tensor, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor | None:
        """Tokens (P, L, D) of which the visible ones read nothing that hidden ones read, wherever those were.

        Args:
            hide: Which tokens are hidden, bool, of shape (P, L).
            values: As in `embed`, and so are the others.
            measured: Measured cells.
            lengths: Lengths.

        Returns:
            None if the tokens of `embed` are such tokens, because each reads its own input alone.
        """
        return None

    # Stages ----------------------------------------------------------------------------------------------------------

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Number of channels after each stage."""
        return (self.width,)

    def begin(
        self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Values (P, …) to the map that enters the first stage, and which of its places are valid (None: all)."""
        return self.embed(values, measured, lengths)

    def run_stage(self, index: int, stage_map: Tensor, valid: Tensor | None) -> Tensor:
        """The map of the stage before to that of stage `index`."""
        return self.trunk(stage_map, _all_valid(stage_map) if valid is None else valid)

    def finish(self, stage_map: Tensor, valid: Tensor | None) -> Encoded:
        """The last stage's map to tokens and the pooled vector."""
        valid = _all_valid(stage_map) if valid is None else valid
        return Encoded(stage_map, valid, self.pool(stage_map, valid))

    def forward(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Encoded:
        """Begin, all stages, finish, on rows that have the modality."""
        stage_map, valid = self.begin(values, measured, lengths)
        for index in range(len(self.stage_widths)):
            stage_map = self.run_stage(index, stage_map, valid)
        return self.finish(stage_map, valid)


def _all_valid(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


class PerModality(nn.Module):
    """Modules keyed by modality name, for any legal name.

    Args:
        modules: A module for each modality, in order.

    Example:
        >>> heads = PerModality({"keys": nn.Linear(2, 3), "x-ray": nn.Linear(4, 3)})
        >>> list(heads), heads["x-ray"].in_features
        (['keys', 'x-ray'], 4)
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        super().__init__()
        self._keys = {name: f"modality_{name}" for name in modules}  # no name may shadow an attribute of nn.Module
        for name, module in modules.items():
            self.add_module(self._keys[name], module)

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._keys:
            raise UnknownNameError("modality", name, self._keys)
        return getattr(self, self._keys[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules, in order."""
        return ((name, self[name]) for name in self._keys)


def present_inputs(encoder: Encoder, batch: Batch, name: str) -> tuple[Tensor, tuple[Any, ...]]:
    """Positions of the P rows that have a modality, and what its encoder is given of them."""
    rows, *inputs = batch.present(name)
    return rows, (*inputs, batch.times_of(name)) if encoder.takes_times else tuple(inputs)


def encode_present(encoder: Encoder, batch: Batch, name: str) -> Encoded:
    """Runs an encoder on the rows that have a modality, and only on them: gather, encode, scatter.

    Cost falls with absence, and the encoder's batch statistics never see a placeholder.

    Args:
        encoder: The modality's encoder.
        batch: B rows.
        name: The modality.

    Returns:
        Tokens, validity and pooled vectors of all B rows, zero (and not valid) where the modality is absent.
    """
    rows, inputs = present_inputs(encoder, batch, name)
    if len(rows) == 0:
        weight = next(encoder.parameters(), torch.zeros((), device=batch.device))
        tokens = torch.zeros(len(batch), encoder.n_tokens, encoder.width, dtype=weight.dtype, device=batch.device)
        return Encoded(tokens, torch.zeros(tokens.shape[:2], dtype=torch.bool, device=batch.device), tokens[:, 0])
    encoded = Encoded(*with_shared_rows(encoder, encoder, *inputs))
    if len(rows) == len(batch):
        return encoded
    return Encoded(*(scatter(part, rows, len(batch)) for part in encoded))


def encode_all(encoders: PerModality, batch: Batch) -> dict[str, Encoded]:
    """`encode_present` for every modality that has an encoder, in order."""
    return {name: encode_present(encoder, batch, name) for name, encoder in encoders.items()}  # type: ignore[arg-type]


def encode_tokens(encoders: PerModality, batch: Batch) -> dict[str, Tokens]:
    """All tokens of every modality: those of its encoder and, in front, its vector if that is more than their mean.

    Args:
        encoders: An encoder for each modality.
        batch: B rows.

    Returns:
        For each modality at most as many as `token_counts` says; not valid where it is absent.
    """
    found = {}
    for name, encoded in encode_all(encoders, batch).items():
        found[name] = Tokens(encoded.tokens, encoded.valid)
        if _has_vector(encoders[name]):
            seen = batch.observed[name][:, None]
            tokens = torch.cat([encoded.pooled[:, None], encoded.tokens], dim=1)
            found[name] = Tokens(tokens, torch.cat([seen, encoded.valid], dim=1))
    return found


def token_counts(encoders: PerModality) -> dict[str, int]:
    """Largest number of tokens of each modality that `encode_tokens` gives."""
    return {n: e.n_tokens + _has_vector(e) for n, e in encoders.items() if isinstance(e, Encoder)}


def _has_vector(encoder: nn.Module) -> bool:
    """Whether an encoder's vector is more than the mean of its tokens."""
    return isinstance(encoder, Encoder) and type(encoder).pool is not Encoder.pool


def encode_pooled(encoders: PerModality, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pooled vectors and presence of the modalities that have an encoder, both in the encoders' order.

    Args:
        encoders: An encoder for each of M modalities, all of one width.
        batch: B rows.

    Returns:
        Features of shape (B, M, D), zero where absent, and presence, bool, of shape (B, M).
    """
    features = torch.stack([encoded.pooled for encoded in encode_all(encoders, batch).values()], dim=1)
    return features, torch.stack([batch.observed[name] for name in encoders], dim=1)


def width_of(encoders: PerModality) -> int:
    """The one width of the pooled vectors of some encoders."""
    widths = {encoder.width for _, encoder in encoders.items() if isinstance(encoder, Encoder)}
    assert len(widths) == 1, f"encoders of different widths: {sorted(widths)}"
    return widths.pop()


def scatter(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """Puts P rows back at their places among `size` rows of zeros; differentiable.

    Args:
        values: Of shape (P, …).
        rows: Distinct positions, int64, of shape (P,).
        size: Number of rows B.

    Returns:
        Of shape (B, …).
    """
    empty = torch.zeros(size, *values.shape[1:], dtype=values.dtype, device=values.device)
    return empty.index_copy(0, rows, values)


def check_encoders(schema: Schema, encoders: Mapping[str, Encoder]) -> None:
    """Raises UnknownNameError or SchemaError unless there is exactly one encoder for each modality."""
    schema.check_names(list(encoders))
    for name in schema.names:
        if name not in encoders:
            raise UnknownNameError("encoder for modality", name, encoders)
