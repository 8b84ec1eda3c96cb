"""Recordings of spoken digits (FSDD) and of surroundings (ESC-50): wav files, one by one or in archives, at 8 kHz."""

from __future__ import annotations

import hashlib
import io
import re
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amodal.data.members import Member, is_archive, read_members
from amodal.errors import DataError

__all__ = ["RATE", "SPEAKERS", "TAKES", "Recording", "read_noises", "read_spoken_digits", "read_wav"]

RATE = 8000
"""Samples a second of everything that is read."""

SPEAKERS = ("jackson", "nicolas", "theo", "yweweler")
"""The speakers that FSDD had when AV-MNIST was made; two were added in 2020."""

TAKES = 50
"""Recordings of each digit by each speaker."""

CATEGORIES = 50
"""Kinds of surroundings in ESC-50."""

_SPOKEN = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
_SURROUNDING = re.compile(r"\d-\d+-[A-Z]-(\d+)\.wav")
_SHOWN = 5


class Recording(NamedTuple):
    """One recording.

    Attributes:
        name: Name of its file.
        samples: float32, between -1 and 1, of shape (n,), at 8 kHz.
    """

    name: str
    samples: np.ndarray


def read_wav(content: bytes, name: str) -> np.ndarray:
    """Reads a wav file of 16-bit samples as mono, and resamples it to 8 kHz if it has another rate.

    Args:
        content: The file's bytes.
        name: Its name, for messages.

    Returns:
        float32, between -1 and 1, of shape (n,).

    Raises:
        DataError: If it is no such file, or holds fewer samples than it states; the message names it.
    """
    try:
        with wave.open(io.BytesIO(content)) as opened:
            channels, width, rate, stated = opened.getparams()[:4]
            frames = opened.readframes(stated)
    except (wave.Error, EOFError) as error:
        raise DataError(f"the recording {name} cannot be read: {error or 'it ends early'}",
                        hint="It may be truncated; fetch it again.") from error  # fmt: skip
    if width != 2:
        raise DataError(f"the recording {name} is of another kind", expected="16-bit samples", got=f"{8 * width}-bit")
    if len(frames) != 2 * channels * stated or not stated:
        raise DataError(f"the recording {name} is truncated", expected=f"{stated or 'some'} samples",
                        got=len(frames) // (2 * channels))  # fmt: skip
    samples = np.frombuffer(frames, "<i2").reshape(-1, channels).mean(1) / 32768.0
    if rate != RATE:
        from scipy.signal import resample_poly

        common = np.gcd(rate, RATE)
        samples = resample_poly(samples, RATE // common, rate // common)
    return samples.astype(np.float32)


def read_spoken_digits(source: Path, *, speakers: Sequence[str] = SPEAKERS) -> dict[tuple[int, int], list[Recording]]:
    """Reads FSDD.

    Args:
        source: Its folder, at any depth above the recordings, or an archive of it, or a folder with that archive.
        speakers: Whose recordings to take.

    Returns:
        For each digit and take, the recordings of all speakers, in the order of their names.

    Raises:
        DataError: If recordings of these speakers are missing (each has 50 of every digit), or one cannot be read.

    Source:
        :cite:`jackson2018fsdd`.
    """
    found: dict[tuple[int, str, int], Recording] = {}
    for member in _members(source, _SPOKEN):
        digit, speaker, take = re.fullmatch(_SPOKEN, member.path.name).groups()  # type: ignore[union-attr]
        if speaker in speakers and int(take) < TAKES:
            key = int(digit), speaker, int(take)
            found[key] = Recording(member.path.name, read_wav(member.content, str(member.path)))
    order = [(digit, speaker, take) for digit in range(10) for take in range(TAKES) for speaker in sorted(speakers)]
    missing = [f"{digit}_{speaker}_{take}.wav" for digit, speaker, take in order if (digit, speaker, take) not in found]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise DataError(
            f"{source} lacks {len(missing)} recordings of spoken digits: {shown}",
            expected=f"{TAKES} of each digit by {', '.join(sorted(speakers))}",
        )
    return {
        (digit, take): [found[digit, speaker, take] for speaker in sorted(speakers)]
        for digit in range(10)
        for take in range(TAKES)
    }


def read_noises(source: Path, *, seed: int = 0) -> list[Recording]:
    """Reads one recording of each category of ESC-50.

    The choice depends on the seed and the files' names only, not on how they are packed.

    Args:
        source: Its folder, at any depth above the recordings, an archive, or a folder with archives.
        seed: Seed of the choice.

    Returns:
        50 recordings, in the categories' order.

    Raises:
        DataError: If a category has no recording, or a chosen one cannot be read.

    Source:
        :cite:`piczak2015esc`.
    """
    chosen: dict[int, tuple[str, Member]] = {}
    for member in _members(source, _SURROUNDING):
        category = int(re.fullmatch(_SURROUNDING, member.path.name)[1])  # type: ignore[index]
        rank = hashlib.sha256(f"{seed} {member.path.name}".encode()).hexdigest()
        if category not in chosen or rank < chosen[category][0]:
            chosen[category] = rank, member
    missing = [str(category) for category in range(CATEGORIES) if category not in chosen]
    if missing:
        raise DataError(
            f"{source} has no recording of {len(missing)} categories of ESC-50: {', '.join(missing[:_SHOWN])}"
            + (", …" if len(missing) > _SHOWN else ""),
            expected="files named like 1-100032-A-0.wav, or archives of them",
        )
    members = [chosen[category][1] for category in range(CATEGORIES)]
    return [Recording(member.path.name, read_wav(member.content, str(member.path))) for member in members]


def _members(source: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    """The files of a folder or an archive, and those of the archives that lie in the folder."""
    yield from read_members(source, wanted)
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.is_file() and is_archive(path):
                yield from read_members(path, wanted)
