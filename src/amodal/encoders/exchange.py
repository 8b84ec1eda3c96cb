"""Exchange between encoders: all run stage by stage, and a function changes their maps in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders.encoder import Encoded, Encoder, PerModality, encode_present, present_inputs, scatter
from amodal.errors import ConfigurationError

__all__ = ["Exchange", "StageMap", "channels_at", "encode_exchanging", "exchange_points"]


@dataclass(frozen=True)
class StageMap:
    """One modality's features between two stages of its encoder, for all rows of a batch; zero where absent.

    Attributes:
        values: Of shape (B, L, C) or (B, C, …): places and channels.
        valid: Places that are no padding, bool (B, L); None: all of them.
        observed: Rows that have the modality, bool (B,).
        channel_axis: Axis of the channels: 1 or 2.
    """

    values: Tensor
    valid: Tensor | None
    observed: Tensor
    channel_axis: int

    def mean(self) -> Tensor:
        """Mean over the valid places: (B, C), zero where absent."""
        if self.channel_axis == 1:
            return self.values.flatten(2).mean(2)
        if self.valid is None:
            return self.values.mean(1)
        kept = torch.where(self.valid[..., None], self.values, 0.0)
        return kept.sum(1) / self.valid.sum(1, keepdim=True).clamp(min=1)

    def over_places(self, channels: Tensor) -> Tensor:
        """A vector a row (B, C) in a shape that broadcasts over the places of the map."""
        if self.channel_axis == 2:
            return channels[:, None]
        return channels.reshape(*channels.shape, *(1,) * (self.values.ndim - 2))

    def with_values(self, values: Tensor) -> StageMap:
        """The same map with other values."""
        return replace(self, values=values)


Exchange = Callable[[int, Mapping[str, StageMap]], Mapping[str, StageMap]]
"""The number of the exchange and every modality's map, to the maps that the next stages receive."""


def exchange_points(encoders: PerModality, exchanges: int = 1) -> dict[str, tuple[int, ...]]:
    """Stages after which encoders of unequal depth exchange features, one for each exchange.

    The last exchange of an encoder is after its last stage if its pooled vector is a mean over places (there, changing
    the map is changing the vector), else after the last but one, or after the only one; the others are after the stages
    before it.

    Args:
        encoders: The encoders.
        exchanges: Number of exchanges K.

    Returns:
        For each modality K stages, counted from 0.

    Raises:
        ConfigurationError: If an encoder has too few stages.
    """
    last = {}
    for name, encoder in encoders.items():
        assert isinstance(encoder, Encoder)
        n = len(encoder.stage_widths)
        last[name] = n - 1 if type(encoder).pool is Encoder.pool or n == 1 else n - 2
    most = 1 + min(last.values())
    if not 1 <= exchanges <= most:
        fewest = min(last, key=lambda name: last[name])
        raise ConfigurationError(
            "the number of exchanges does not fit the encoders",
            expected=f"1 … {most}, by the encoder of {fewest!r}",
            got=exchanges,
            hint="Choose encoders with more stages, or fewer exchanges.",
        )
    return {name: tuple(point - exchanges + 1 + k for k in range(exchanges)) for name, point in last.items()}


def channels_at(encoders: PerModality, points: Mapping[str, tuple[int, ...]], k: int) -> dict[str, int]:
    """Number of channels of every modality's map at exchange k."""
    return {name: _encoder(encoders, name).stage_widths[points[name][k]] for name in encoders}


def encode_exchanging(
    encoders: PerModality, batch: Batch, exchange: Exchange, points: Mapping[str, tuple[int, ...]]
) -> dict[str, Encoded]:
    """Runs all encoders on the rows that have their modality, with exchanges in between.

    Each encoder runs on its own present rows up to its next exchange point; the maps of all rows are put side by side,
    the exchange changes them, and each encoder goes on with the rows it has. What an exchange writes into rows without
    the modality is dropped.

    Args:
        encoders: An encoder for each modality.
        batch: B rows.
        exchange: Called for each exchange with its number and all maps; see `Exchange`.
        points: Stages after which each encoder takes part, as `exchange_points` gives them; as many for each.

    Returns:
        Tokens, validity and pooled vectors of all rows, as `encode_all` gives them.
    """
    runs = {name: _Run(_encoder(encoders, name), batch, name) for name in encoders}
    for k in range(len(next(iter(points.values())))):
        maps = {name: run.advance(points[name][k]) for name, run in runs.items()}
        maps = exchange(k, maps)
        for name, run in runs.items():
            run.receive(maps[name].values)
    return {name: run.finish() for name, run in runs.items()}


def _encoder(encoders: PerModality, name: str) -> Encoder:
    encoder = encoders[name]
    assert isinstance(encoder, Encoder)
    return encoder


class _Run:
    """One encoder on its way through its stages, on the P rows that have its modality."""

    def __init__(self, encoder: Encoder, batch: Batch, name: str):
        self.encoder, self.batch, self.name = encoder, batch, name
        self.rows, inputs = present_inputs(encoder, batch, name)
        self.done = -1  # the last stage that has run
        self.map: Tensor = batch.values[name][:0]
        self.valid: Tensor | None = None
        if len(self.rows):
            self.map, self.valid = encoder.begin(*inputs)

    def advance(self, stage: int) -> StageMap:
        """Runs up to a stage, and gives its map for all rows of the batch."""
        size, observed = len(self.batch), self.batch.observed[self.name]
        if not len(self.rows):
            return StageMap(self._nothing(stage), None, observed, self.encoder.channel_axis)
        while self.done < stage:
            self.done += 1
            self.map = self.encoder.run_stage(self.done, self.map, self.valid)
        valid = None if self.valid is None else scatter(self.valid, self.rows, size)
        return StageMap(scatter(self.map, self.rows, size), valid, observed, self.encoder.channel_axis)

    def _nothing(self, stage: int) -> Tensor:
        """One empty place for each row of a batch in which no row has the modality."""
        channels = self.encoder.stage_widths[stage]
        shape = (channels, 1, 1) if self.encoder.channel_axis == 1 else (1, channels)
        like = next(self.encoder.parameters(), torch.zeros((), device=self.batch.device))
        return torch.zeros(len(self.batch), *shape, dtype=like.dtype, device=self.batch.device)

    def receive(self, values: Tensor) -> None:
        """Takes the map of all rows (B, …) that an exchange has left."""
        self.map = values[self.rows]

    def finish(self) -> Encoded:
        """Runs the remaining stages, and gives tokens and pooled vectors for all rows."""
        if not len(self.rows):
            return encode_present(self.encoder, self.batch, self.name)
        for stage in range(self.done + 1, len(self.encoder.stage_widths)):
            self.map = self.encoder.run_stage(stage, self.map, self.valid)
        encoded = self.encoder.finish(self.map, self.valid)
        return Encoded(*(scatter(part, self.rows, len(self.batch)) for part in encoded))
