"""Limits on what is read: sizes of files, of what archives unpack to, of images and of one request.

Every reader and the web service take their limits from here, so that a small file cannot fill a machine's memory.
"""

from __future__ import annotations

import zipfile
from typing import IO

from amodal.errors import DataError

__all__ = [
    "LARGEST_ARRAY",
    "LARGEST_BANK",
    "LARGEST_FILE",
    "LARGEST_MEMBER",
    "LARGEST_SHEET",
    "MOST_FILES_IN_A_CELL",
    "MOST_FILES_IN_A_SERIES",
    "MOST_MEMBERS",
    "MOST_OPCODES",
    "MOST_PIXELS",
    "MOST_ROWS_OF_A_CASE",
    "REQUEST_MEGABYTES",
    "REQUEST_PIXELS",
    "REQUEST_SECONDS",
    "Unpacked",
    "check_member",
    "check_most",
    "read_at_most",
]

_MB = 2**20

MOST_PIXELS = 100_000_000
"""Pixels (voxels) of one image, before it is brought to its size; `most_pixels` of a schema goes before it."""

LARGEST_FILE = 512 * _MB
"""Bytes of one file that a table names."""

LARGEST_ARRAY = 512 * _MB
"""Bytes of one decoded array."""

LARGEST_BANK = 2**42
"""Bytes of an array with a row for each case, which is unpacked to disk and never held in memory."""

LARGEST_SHEET = 2 * 2**30
"""Bytes that an Excel workbook unpacks to."""

LARGEST_MEMBER = 256 * _MB
"""Bytes of one file of an archive, unpacked."""

MOST_MEMBERS = 1_000_000
"""Files of one archive that are read."""

MOST_FILES_IN_A_CELL = 64
"""Files that one cell may name."""

MOST_ROWS_OF_A_CASE = 1_000
"""Rows of a second table that one case may have as a set."""

MOST_FILES_IN_A_SERIES = 4_096
"""Slices of one volume."""

MOST_OPCODES = 1_000_000
"""Steps of the program in a pickle file."""

REQUEST_PIXELS = 25_000_000
"""Pixels of one image in a request to the service."""

REQUEST_MEGABYTES = 32
"""Megabytes of one request's body."""

REQUEST_SECONDS = 30.0
"""Seconds in which a request's body must have arrived."""

_LARGEST_RATIO = 1000
_SMALL = 64 * _MB
_ARCHIVE_RATIO = 100
_SMALL_ARCHIVE = 512 * _MB


def check_most(what: str, got: int, most: int, unit: str, *, hint: str | None = None) -> None:
    """Refuses more than a limit.

    Args:
        what: What has so many, as a sentence goes on: "the image has".
        got: How many.
        most: The limit.
        unit: Of what.
        hint: What to do about it.

    Raises:
        DataError: If there are more.

    Example:
        >>> check_most("the image has", 3_600, 1_000, "pixels")
        Traceback (most recent call last):
        amodal.errors.DataError: the image has 3,600 pixels (expected 1,000 pixels or fewer)
    """
    if got > most:
        raise DataError(f"{what} {got:,} {unit}", expected=f"{most:,} {unit} or fewer", hint=hint)


def read_at_most(stream: IO[bytes], most: int, name: str) -> bytes:
    """The bytes of a stream, which must not be more than `most`.

    Raises:
        DataError: If there are more.
    """
    content = stream.read(most + 1)
    if len(content) > most:
        raise DataError(f"{name} is larger than {most / 1e6:,.0f} MB", hint="It is refused as a decompression bomb.")
    return content


class Unpacked:
    """Bytes unpacked from an archive so far, within limits.

    Args:
        name: The archive, for messages.
        packed: Its size in bytes.
    """

    def __init__(self, name: str, packed: int):
        self.name, self.packed, self.total, self.count = name, max(1, packed), 0, 0

    def add(self, member: str, size: int) -> None:
        """Counts one member, before it is unpacked.

        Raises:
            DataError: If it, or all of them together, would unpack to more than is sensible.
        """
        self.total, self.count = self.total + size, self.count + 1
        check_most(f"{self.name} has", self.count, MOST_MEMBERS, "files")
        bomb = "It is refused as a decompression bomb; unpack it yourself if it is none."
        if size > LARGEST_MEMBER:
            raise DataError(
                f"{member} of {self.name} unpacks to {size / 1e6:,.0f} MB",
                expected=f"{LARGEST_MEMBER / 1e6:,.0f} MB or less",
                hint=bomb,
            )
        if self.total > max(_SMALL_ARCHIVE, _ARCHIVE_RATIO * self.packed):
            raise DataError(
                f"{self.name} unpacks to {self.total / 1e6:,.0f} MB, {self.total / self.packed:,.0f} times its size",
                expected=f"{_SMALL_ARCHIVE / 1e6:,.0f} MB or less, or no more than {_ARCHIVE_RATIO} times its size",
                hint=bomb,
            )


def check_member(name: str, member: zipfile.ZipInfo, largest: int) -> None:
    """Refuses a member of a zip archive that would unpack to more than is sensible.

    Raises:
        DataError: If it is larger than `largest`, or many times its packed size.
    """
    ratio = member.file_size / max(1, member.compress_size)
    if member.file_size > largest or (ratio > _LARGEST_RATIO and member.file_size > _SMALL):
        raise DataError(
            f"{name} unpacks to {member.file_size / 1e6:,.0f} MB, {ratio:,.0f} times its size",
            expected=f"{largest / 1e6:,.0f} MB or less, and no more than {_LARGEST_RATIO} times",
            hint="It is refused as a decompression bomb.",
        )
