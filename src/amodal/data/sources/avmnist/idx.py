"""MNIST's files: the idx format, plain or compressed, every byte accounted for."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amodal.errors import DataError

__all__ = ["Digits", "read_idx", "read_mnist"]

_MAGIC_UINT8 = 0x08  # the third byte of an idx file of unsigned bytes; the fourth is the number of axes
_PARTS = ("train", "t10k")


class Digits(NamedTuple):
    """Images and labels of one of MNIST's two parts.

    Attributes:
        images: uint8, of shape (N, 28, 28).
        labels: int64, of shape (N,), 0 … 9.
    """

    images: np.ndarray
    labels: np.ndarray


def read_idx(path: Path) -> np.ndarray:
    """Reads an idx file of unsigned bytes.

    Args:
        path: The file; one that ends in .gz is decompressed.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        DataError: If it is not there, no idx file of unsigned bytes, or has fewer or more bytes than it states.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else error
        raise DataError(f"{path} cannot be read: {reason}", hint="It may be truncated; fetch it again.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _MAGIC_UINT8 or not content[3]:
        raise DataError(f"{path} is no idx file of unsigned bytes", expected="it to begin with 00 00 08",
                        got=content[:3].hex(" ") or "an empty file")  # fmt: skip
    start = 4 + 4 * content[3]
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4")) if len(content) >= start else ()
    if not shape or len(content) - start != int(np.prod(shape)):
        short = not shape or len(content) - start < int(np.prod(shape))
        raise DataError(
            f"{path} is {'truncated' if short else 'too long'}",
            expected=f"{start + int(np.prod(shape))} bytes" if shape else "a header",
            got=f"{len(content)} bytes",
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_mnist(folder: Path) -> tuple[Digits, Digits]:
    """Reads MNIST's four files.

    Args:
        folder: Where they are, under upstream's names (`train-images-idx3-ubyte` and so on), .gz or not.

    Returns:
        The training part and the test part, in the files' order.

    Raises:
        DataError: If a file is missing, truncated, or does not fit its partner; the message names it.

    Source:
        :cite:`lecun1998gradient`.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", expected="the folder of MNIST's four files")
    found = []
    for part in _PARTS:
        images, labels = (_find(folder, f"{part}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        digits = Digits(read_idx(images), read_idx(labels).astype(np.int64))
        if digits.images.ndim != 3 or digits.images.shape[1:] != (28, 28):
            raise DataError(f"{images} does not hold MNIST's images", expected="(N, 28, 28)", got=digits.images.shape)
        if digits.labels.shape != digits.images.shape[:1] or digits.labels.max(initial=0) > 9:
            raise DataError(f"{labels} does not fit {images.name}", expected=f"{len(digits.images)} labels from 0 to 9",
                            got=f"{digits.labels.shape}, up to {digits.labels.max(initial=0)}")  # fmt: skip
        found.append(digits)
    return found[0], found[1]


def _find(folder: Path, name: str) -> Path:
    for candidate in (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(f"a file of MNIST is missing: {folder / name}(.gz)")
