"""Tiny upstream files: MNIST, FSDD and ESC-50 as they are laid out, with made content."""

import gzip
import io
import struct
import tarfile
import wave
from pathlib import Path

import numpy as np

from amodal.data.sources.avmnist.recordings import SPEAKERS


def wav_bytes(samples: np.ndarray, *, rate: int = 8000, channels: int = 1) -> bytes:
    """A wav file of int16 samples, (n,) or (n, channels)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())
    return buffer.getvalue()


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, n_train: int = 120, n_test: int = 40, *, seed: int = 0) -> Path:
    """Images of rank five and more; labels in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for part, n in (("train", n_train), ("t10k", n_test)):
        labels = draw.permutation(np.arange(n) % 10)
        images = draw.integers(0, 256, size=(n, 28, 28))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images), 1))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def spoken_files(speakers=SPEAKERS, *, length: int = 1200) -> dict[str, bytes]:
    """A tone a digit; takes and speakers differ by a little."""
    time = np.arange(length) / 8000
    files = {}
    for digit in range(10):
        for i, speaker in enumerate(speakers):
            for take in range(50):
                tone = 6000 * np.sin(2 * np.pi * (300 + 300 * digit + 10 * i + take) * time)
                files[f"{digit}_{speaker}_{take}.wav"] = wav_bytes(tone)
    return files


def noise_files(*, folds=(1, 2, 3, 4, 5), length: int = 1200) -> dict[str, bytes]:
    """8 recordings of each of 50 categories in each fold."""
    draw = np.random.default_rng(1)
    return {
        f"{fold}-{1000 + 50 * copy + category}-A-{category}.wav": wav_bytes(draw.normal(0, 800, length))
        for category in range(50)
        for fold in folds
        for copy in range(8)
    }


def write_tar(path: Path, files: dict[str, bytes], folder: str = "recordings") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_sources(folder: Path) -> dict[str, Path]:
    """All three, and where they are."""
    write_mnist(folder / "mnist")
    write_tar(folder / "fsdd" / "recordings.tar", spoken_files())
    write_tar(folder / "esc50" / "esc50-fold1.tar", noise_files(), "audio")
    return {name: folder / name for name in ("mnist", "fsdd", "esc50")}
