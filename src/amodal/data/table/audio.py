"""Sound files to log-mel spectrograms: WAV, and with soundfile FLAC and OGG."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.table.files import FileRule, read_files
from amodal.data.table.section import Section
from amodal.data.table.several import ONE, Several
from amodal.data.table.source import Piece, Place, Reader, Rows, Source, set_piece
from amodal.errors import ConfigurationError, DataError, SchemaError
from amodal.kinds.sets import ImageSet
from amodal.schema import Modality

__all__ = ["Audio", "decode_sound", "log_mel", "mel_bands"]

_FLOOR = 1e-10
_LONGEST = 3600.0


@dataclass(frozen=True)
class Audio(Source):
    r"""Sound as an image of its spectrogram: mel bands upwards, time to the right, in decibels.

    The channels' mean is resampled to `rate`, cut or filled with silence to `seconds`, and its power in windows of
    `window` seconds (Hann, half overlapping) summed over triangular bands that are equally wide in
    :math:`2595 \log_{10}(1 + f / 700)`.

    Attributes:
        column: The manifest's column with the names of files.
        folder: Folder they lie in.
        ending: What the names in the column lack, such as ".wav".
        rate: Samples a second.
        seconds: Length.
        bands: Number of mel bands.
        window: Length of a window in seconds.
        several: How the names of several recordings in one cell are parted; these become a set.
        missing_file: "error" or "absent".
        unreadable_file: "error" or "absent".
        description: One line for people.
    """

    kind: ClassVar[str] = "audio"

    column: str = ""
    folder: str = ""
    ending: str = ""
    rate: int = 16000
    seconds: float = 5.0
    bands: int = 64
    window: float = 0.064
    several: Several = ONE
    missing_file: str = "error"
    unreadable_file: str = "error"
    description: str = ""

    @classmethod
    def read(cls, name: str, section: Section) -> Audio:
        """Reads it from a schema; see `Source.read`."""
        source = cls(
            name,
            section.text("column"),
            section.text("folder", ""),
            section.text("ending", ""),
            section.integer("rate", 16000, least=1000, most=192_000),
            section.number("seconds", 5.0),
            section.integer("bands", 64, least=4, most=512),
            section.number("window", 0.064),
            Several.read(section),
            section.choice("missing_file", ("error", "absent"), "error"),
            section.choice("unreadable_file", ("error", "absent"), "error"),
            section.text("description", ""),
        )
        section.done()
        if not 0 < source.window <= source.seconds <= _LONGEST or source.length < 2 * source.bands:
            raise SchemaError(
                f"{section.where}: seconds, window, rate and bands do not fit",
                expected="window <= seconds <= 3600, and a window of at least twice as many samples as bands",
                got=f"seconds {source.seconds:g}, window {source.window:g} ({source.length} samples), "
                f"bands {source.bands}",
            )
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        keys = ("column", "folder", "ending", "rate", "seconds", "bands", "window", "missing_file", "unreadable_file")
        record = {key: getattr(self, key) for key in (*keys, "description") if getattr(self, key) != ""}
        return {"kind": self.kind, **record, **self.several.to_json()}

    @property
    def length(self) -> int:
        """Samples of a window, even."""
        return 2 * round(self.window * self.rate / 2)

    @property
    def frames(self) -> int:
        """Windows of a spectrogram."""
        return 1 + max(0, round(self.seconds * self.rate) - self.length) // (self.length // 2)

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return (self.column,)

    def modality(self) -> Modality:
        """Name, kind and shape."""
        shape = (1, self.bands, self.frames)
        if self.several:
            return Modality(self.name, ImageSet.name, (self.several.most, *shape), description=self.description)
        return Modality(self.name, "image", shape, description=self.description)

    def set_rule(self) -> Several:
        """How several of its entries stand in one cell."""
        return self.several

    def surveyed(self, place: Place) -> Audio:
        """Itself with the number of recordings of the fullest cell."""
        return replace(self, several=self.several.surveyed(place.manifest, self.column, place.missing))

    def taken_for(self) -> str:
        """One line on what the sounds are taken for."""
        sets = f"sets of up to {self.several.most} " if self.several else ""
        return (
            f"{sets}spectrograms of the first {self.seconds:g} s at {self.rate} Hz: {self.bands} mel bands up, "
            f"{self.frames} windows to the right, decibels"
        )

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _AudioReader(self, place)


class _AudioReader(Reader):
    def __init__(self, source: Audio, place: Place):
        self.source, self.place = source, place

    def read(self, rows: Rows) -> Piece:
        source = self.source
        rule = FileRule(
            source.column, source.folder, source.missing_file, source.unreadable_file,
            ending=source.ending, several=source.several,
        )  # fmt: skip
        found, observed = read_files(self.place, rows, rule, source.name, lambda path: decode_sound(path, source))
        shape = (1, source.bands, source.frames)
        if source.several:
            return set_piece([[sound[None] for sound in own] for own in found], shape, np.float32)
        values = np.zeros((len(rows.ids), *shape), np.float32)
        for i in np.flatnonzero(observed):
            values[i, 0] = found[i][0]
        return Piece(values, observed)


def decode_sound(path: Path, source: Audio) -> np.ndarray:
    """The log-mel spectrogram of a sound file, float32 (bands, frames).

    Raises:
        DataError: If it cannot be decoded.
        ConfigurationError: If it is no WAV file, and soundfile is not installed.
    """
    wave, rate = _wave(path, source.seconds)
    return log_mel(wave, rate, source)


def log_mel(wave: np.ndarray, rate: int, source: Audio) -> np.ndarray:
    """The log-mel spectrogram of a sound.

    Args:
        wave: Samples in [-1, 1], of shape (n,).
        rate: Samples a second.
        source: How to make it.

    Returns:
        Decibels relative to full scale, float32 (bands, frames).
    """
    from math import gcd

    from scipy.signal import resample_poly

    if rate != source.rate:
        shared = gcd(rate, source.rate)
        wave = resample_poly(wave, source.rate // shared, rate // shared)
    n = round(source.seconds * source.rate)
    wave = np.pad(wave[:n], (0, max(0, n - len(wave))))
    hop = source.length // 2
    windows = np.lib.stride_tricks.sliding_window_view(wave, source.length)[::hop][: source.frames]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(source.length) / source.length)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2 / (hann.sum() / 2) ** 2  # (frames, F); a full sine is 1
    mel = power @ mel_bands(source).T
    return (10 * np.log10(np.maximum(mel, _FLOOR))).T.astype(np.float32)


def mel_bands(source: Audio) -> np.ndarray:
    """Triangular bands, equally wide in mel, each with a peak of 1; float64 (bands, F)."""
    top = 2595 * np.log10(1 + source.rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, source.bands + 2) / 2595) - 1)  # (bands + 2,) Hz
    frequencies = np.fft.rfftfreq(source.length, 1 / source.rate)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def _wave(path: Path, seconds: float) -> tuple[np.ndarray, int]:
    """The first seconds of a file, one channel, in [-1, 1], and its rate."""
    if path.suffix.lower() == ".wav":
        return _from_wav(path, seconds)
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigurationError(
            f"{path.name} needs the package soundfile", hint="pip install 'amodal[audio]', or save it as WAV."
        ) from error
    try:
        with soundfile.SoundFile(path) as file:
            return _mono(file.read(int(seconds * file.samplerate), dtype="float64")), file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise DataError(f"the sound cannot be decoded: {error}") from error


def _from_wav(path: Path, seconds: float) -> tuple[np.ndarray, int]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # chunks that wavfile does not know are of no interest
            rate, samples = wavfile.read(path, mmap=True)
    except (ValueError, OSError, EOFError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"the sound cannot be decoded: {error}", hint="Is it a WAV file, and complete?") from error
    except Exception as error:  # struct.error and others of damaged headers
        raise DataError(f"the sound cannot be decoded: {error}") from error
    if rate < 1 or not len(samples):
        raise DataError("the sound is empty")
    part = np.array(samples[: int(seconds * rate)])
    if part.dtype == np.uint8:
        return _mono((part.astype(np.float64) - 128) / 128), int(rate)
    full = 1.0 if part.dtype.kind == "f" else float(np.iinfo(part.dtype).max) + 1
    return _mono(part.astype(np.float64) / full), int(rate)


def _mono(wave: np.ndarray) -> np.ndarray:
    wave = wave.mean(axis=1) if wave.ndim == 2 else wave
    if not np.isfinite(wave).all():
        raise DataError("the sound holds NaN or infinite values")
    return wave
