"""Arrays from untrusted pickle files: anything but plain containers and numeric arrays is refused.

A pickle is a program, and `pickle.load` runs it. MultiBench hands MIMIC-III out in this form only. The reader here goes
through the program first, without running it, and refuses steps that arrays do not need and programs that are too long.
Then it lets the program name what rebuilds a numpy array, and gives it stand-ins that only note shape, type and bytes.
Any other name is refused before it is even imported. The program cannot change a stand-in, and keys of dictionaries
must be texts: hashing a tuple that holds itself many times over would never end, one nested a million deep would crash.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.limits import MOST_OPCODES, check_most
from amodal.errors import DataError

__all__ = ["read_arrays"]

_STEPS = """
PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_OPCODES = frozenset(_STEPS.split())
_CODE = re.compile(r"[<>|=]?([biuf][1248]|f16|[SU]\d{1,6})")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the numeric arrays of a pickled dictionary.

    Args:
        path: The file.

    Returns:
        The arrays by name; entries of other kinds are left out.

    Raises:
        DataError: If the file is missing, truncated or no dictionary, is too long a program, or wants anything that is
            not an array.
    """
    try:
        with open(path, "rb") as file:
            _check_program(file)
            file.seek(0)
            found = _ArrayUnpickler(file, path.stat().st_size).load()
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}") from error
    except DataError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, OSError,
            MemoryError, OverflowError, UnicodeDecodeError, RecursionError) as error:  # fmt: skip
        raise DataError(f"{path} cannot be read: {error}", hint="It may be truncated.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no dictionary", got=type(found).__name__)
    arrays = {str(name): value.value for name, value in found.items() if isinstance(value, _Array)}
    return {name: value for name, value in arrays.items() if value is not None and value.dtype.kind in "biuf"}


def _check_program(file: Any) -> None:
    """Goes through the steps of a pickle without running them.

    Raises:
        DataError: If there is a step that no array needs, or there are too many.
        ValueError: If it is no pickle, or is truncated.
    """
    for count, (opcode, _, _) in enumerate(pickletools.genops(file)):
        check_most("it is a program of", count, MOST_OPCODES, "steps")
        if opcode.name not in _OPCODES:
            raise DataError(
                f"it uses the step {opcode.name}, which no array needs: it is not read",
                hint="Have whoever made the file save its arrays with numpy.savez.",
            )


class _Call:
    """A stand-in for a function, which a pickle can call and cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise DataError("the file wants to change a function: it is not read")


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _ArrayUnpickler(_PythonUnpickler):
    """Knows arrays and plain containers only: Python's own reader in Python, whose steps can be replaced."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: Any, size: int):
        super().__init__(file, encoding="latin1")
        self.left = 4 * size + 2**20  # bytes that texts may be turned into, so that one text is not copied for ever

    def find_class(self, module: str, name: str) -> Any:
        """Stand-ins for the few callables that numeric arrays are rebuilt with; everything else is refused."""
        allowed = {
            ("numpy", "ndarray"): _ARRAY,
            ("numpy", "dtype"): _Call(_Dtype),
            ("collections", "OrderedDict"): _Call(_ordered),
            ("_codecs", "encode"): _Call(self._latin1),
            ("__builtin__", "bytes"): _Call(_no_bytes),
        }
        for package in ("numpy.core", "numpy._core"):
            allowed[f"{package}.multiarray", "_reconstruct"] = _Call(_empty_array)
            allowed[f"{package}.numeric", "_frombuffer"] = _Call(_array_of_buffer)
        if (module, name) not in allowed:
            raise DataError(
                f"the file wants to call {module}.{name}, which no array needs: it is not read",
                hint="Have whoever made the file save its arrays with numpy.savez.",
            )
        return allowed[module, name]

    def load_setitem(self) -> None:
        """One entry of a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_text_key(key)] = value

    def load_setitems(self) -> None:
        """Several entries of a dictionary."""
        items = self.pop_mark()
        self.stack[-1].update(_entries(items[::2], items[1::2]))

    def load_dict(self) -> None:
        """A dictionary with its entries."""
        items = self.pop_mark()
        self.append(_entries(items[::2], items[1::2]))

    def load_build(self) -> None:
        """The state of an array or of its type; nothing else has one."""
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Array | _Dtype):
            raise DataError("the file wants to change something that is no array: it is not read")
        target.__setstate__(state)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.BUILD[0]] = load_build

    def _latin1(self, text: str, encoding: str) -> bytes:
        """The bytes of Python 2, encoded as Latin-1."""
        if encoding != "latin1":
            raise DataError(f"the file holds bytes in the encoding {encoding!r}: it is not read")
        self.left -= len(text)
        if self.left < 0:
            raise DataError("the file unpacks to many times its size: it is not read")
        return text.encode("latin1")

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
    if kind is not _ARRAY:
        raise DataError("the file holds another kind of array: it is not read")
    return _Array()


_ARRAY = _Call(_empty_array)


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _ordered(pairs: Any = ()) -> dict[str, Any]:
    pairs = list(pairs)
    return _entries([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _entries(keys: list[Any], values: list[Any]) -> dict[str, Any]:
    return {_text_key(key): value for key, value in zip(keys, values)}


def _text_key(key: Any) -> str:
    if type(key) not in (str, int):
        raise DataError("the file holds a dictionary whose keys are no texts: it is not read", got=type(key).__name__)
    return key


def _no_bytes() -> bytes:
    """The empty bytes of Python 2."""
    return b""
