"""Arrays out of a pickle file that nobody has to trust: anything but plain containers and numeric arrays is refused.

A pickle is a program, and `pickle.load` runs it. MultiBench hands MIMIC-III out in this form only. The reader here lets
such a program name what rebuilds a numpy array, and gives it stand-ins that only note shape, type and bytes. Any other
name is refused before it is even imported.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import DataError

__all__ = ["read_arrays"]

_CODE = re.compile(r"[<>|=]?([biuf][1248]|f16|[SU]\d{1,6})")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the numeric arrays of a pickled dictionary.

    Args:
        path: The file.

    Returns:
        The arrays by name; entries of other kinds are left out.

    Raises:
        DataError: If the file is missing, truncated or no dictionary, or wants anything that is not an array.
    """
    try:
        with open(path, "rb") as file:
            found = _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, OSError,
            MemoryError, OverflowError, UnicodeDecodeError) as error:  # fmt: skip
        raise DataError(f"{path} cannot be read: {error}", hint="It may be truncated.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no dictionary", got=type(found).__name__)
    arrays = {str(name): value.value for name, value in found.items() if isinstance(value, _Array)}
    return {name: value for name, value in arrays.items() if value is not None and value.dtype.kind in "biuf"}


class _ArrayUnpickler(pickle.Unpickler):
    """Knows arrays and plain containers only."""

    def find_class(self, module: str, name: str) -> Any:
        """Stand-ins for the few callables that numeric arrays are rebuilt with; everything else is refused."""
        allowed = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _latin1,
            ("__builtin__", "bytes"): _no_bytes,
        }
        for package in ("numpy.core", "numpy._core"):
            allowed[f"{package}.multiarray", "_reconstruct"] = _empty_array
            allowed[f"{package}.numeric", "_frombuffer"] = _array_of_buffer
        if (module, name) not in allowed:
            raise DataError(
                f"the file wants to call {module}.{name}, which no array needs: it is not read",
                hint="Have whoever made the file save its arrays with numpy.savez.",
            )
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refused: an array lies in the file itself."""
        raise DataError("the file refers to objects outside itself: it is not read")


class _Dtype:
    """A type of numbers or of text of fixed length, by its code and byte order; numpy's own would believe any state."""

    def __init__(self, code: str, *options: Any):
        if not _CODE.fullmatch(code):
            raise DataError(f"the file holds an array of type {code!r}, not of numbers: it is not read")
        self.code, self.order = code.lstrip("<>|="), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    @property
    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """An array's state, kept until it is complete."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise DataError("the file holds an array of objects: it is not read")
        self.value = np.frombuffer(content, dtype.numpy).reshape(shape, order="F" if is_fortran else "C")


def _empty_array(kind: type, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise DataError("the file holds another kind of array: it is not read")
    return _Array()


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _latin1(text: str, encoding: str) -> bytes:
    """How bytes are written for Python 2."""
    if encoding != "latin1":
        raise DataError(f"the file holds bytes in the encoding {encoding!r}: it is not read")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How no bytes are written for Python 2."""
    return b""
