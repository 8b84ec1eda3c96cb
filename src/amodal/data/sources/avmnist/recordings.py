"""Recordings of spoken digits (FSDD) and of surroundings (ESC-50): wav files, one by one or in archives, at 8 kHz."""

from __future__ import annotations

import hashlib
import io
import re
import wave
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amodal.data.members import Member, is_archive, read_members
from amodal.errors import ConfigurationError, DataError

__all__ = ["FOLDS", "RATE", "SPEAKERS", "TAKES", "Recording", "read_noises", "read_spoken_digits", "read_wav"]

RATE = 8000
"""Samples a second of everything that is read."""

SPEAKERS = ("jackson", "nicolas", "theo", "yweweler")
"""The speakers that FSDD had when AV-MNIST was made; two were added in 2020."""

TAKES = 50
"""Recordings of each digit by each speaker."""

CATEGORIES = 50
"""Kinds of surroundings in ESC-50."""

FOLDS = (1, 2, 3, 4, 5)
"""Parts of ESC-50; a recording's name begins with its fold."""

PER_FOLD = 8
"""Recordings of each category in each fold."""

_SPOKEN = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
_SURROUNDING = re.compile(r"(\d)-\d+-[A-Z]-(\d+)\.wav")
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


def read_noises(source: Path, *, folds: Sequence[int] = FOLDS, seed: int = 0) -> list[Recording]:
    """Reads one recording of each category of ESC-50.

    The choice depends on the folds, the seed and the files' names only, not on how they are packed. From an incomplete
    copy it would be another one, so that is an error, unless the folds that lack recordings are not asked for.

    Args:
        source: Its folder, at any depth above the recordings, an archive, or a folder with archives.
        folds: Which of the five folds to choose from.
        seed: Seed of the choice.

    Returns:
        50 recordings, in the categories' order.

    Raises:
        DataError: If recordings of these folds are missing (each has 8 of every category), or a chosen one cannot be
            read.
        ConfigurationError: If there are no folds, or others than 1 to 5.

    Source:
        :cite:`piczak2015esc`.
    """
    if not folds or not set(folds) <= set(FOLDS):
        raise ConfigurationError("there are no such folds of ESC-50", expected="some of 1 to 5", got=list(folds))
    names: set[str] = set()
    chosen: dict[int, tuple[str, Member]] = {}
    for member in _members(source, _SURROUNDING):
        fold, category = _fold_and_category(member.path.name)
        if fold not in folds or category >= CATEGORIES:
            continue
        names.add(member.path.name)
        rank = hashlib.sha256(f"{seed} {member.path.name}".encode()).hexdigest()
        if category not in chosen or rank < chosen[category][0]:
            chosen[category] = rank, member
    _check_complete(source, names, sorted(set(folds)))
    members = [chosen[category][1] for category in range(CATEGORIES)]
    return [Recording(member.path.name, read_wav(member.content, str(member.path))) for member in members]


def _fold_and_category(name: str) -> tuple[int, int]:
    fold, category = re.fullmatch(_SURROUNDING, name).groups()  # type: ignore[union-attr]
    return int(fold), int(category)


def _check_complete(source: Path, names: set[str], folds: list[int]) -> None:
    """Each of the folds must have 8 recordings of every category."""
    if not names:
        raise DataError(f"{source} has no recordings of folds {folds} of ESC-50",
                        expected="files named like 1-100032-A-0.wav, or archives of them")  # fmt: skip
    counts = Counter(_fold_and_category(name) for name in names)
    lacking = []
    for fold in folds:
        short = {c: PER_FOLD - counts[fold, c] for c in range(CATEGORIES) if counts[fold, c] < PER_FOLD}
        if len(short) == CATEGORIES and sum(short.values()) == PER_FOLD * CATEGORIES:
            lacking.append(f"all of fold {fold}")
        else:
            lacking += [f"{number} of category {category} in fold {fold}" for category, number in short.items()]
    if lacking:
        whole = len(folds) * PER_FOLD * CATEGORIES
        number = sum(max(0, PER_FOLD - counts[fold, c]) for fold in folds for c in range(CATEGORIES))
        complete = [fold for fold in folds if all(counts[fold, c] >= PER_FOLD for c in range(CATEGORIES))]
        raise DataError(
            f"{source} lacks {number} recordings of ESC-50: {', '.join(lacking[:_SHOWN])}"
            + (", …" if len(lacking) > _SHOWN else ""),
            expected=f"{whole:,}: {PER_FOLD} of each of {CATEGORIES} categories in each of folds {folds}",
            got=f"{whole - number:,}",
            hint="Fetch what is missing" + (f", or choose from complete folds only: {complete}." if complete else "."),
        )


def _members(source: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    """The files of a folder or an archive, and those of the archives that lie in the folder."""
    yield from read_members(source, wanted)
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.is_file() and is_archive(path):
                yield from read_members(path, wanted)
