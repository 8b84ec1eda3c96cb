"""Writing files so that nothing is lost: to a temporary name first, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amodal.errors import RunError

__all__ = ["atomic_folder", "clear_leftovers", "plain_json", "replace_file", "scratch_path", "write_json"]


def scratch_path(path: Path) -> Path:
    """A temporary name beside a path and with its ending, with the machine and process that use it."""
    return path.with_name(f".tmp.{_machine()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.{path.name}")


def clear_leftovers(path: Path) -> None:
    """Removes what processes of this machine that were killed have left beside a path, under `scratch_path`'s names."""
    named = re.compile(rf"\.tmp\.{re.escape(_machine())}\.(\d+)\.[0-9a-f]{{8}}\.{re.escape(path.name)}")
    if not path.parent.is_dir():
        return
    for other in path.parent.iterdir():
        match = named.fullmatch(other.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(other, ignore_errors=True)
            other.unlink(missing_ok=True)


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()) or "localhost"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name at the end; nothing is left behind on failure.

    Raises:
        RunError: If the place cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # a link stays one, and what it names is replaced
    temporary = scratch_path(folder)
    try:
        temporary.mkdir(parents=True)
        clear_leftovers(folder)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield temporary
        if folder.exists():
            old = scratch_path(folder)
            os.replace(folder, old)
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(path: Path, write: Callable[[Path], object], *, only_new: bool = False) -> None:
    """Calls `write(temporary)` and renames the result to `path`.

    Args:
        path: Where.
        write: Writes the file.
        only_new: Whether a file that is there already is an error; of several processes one then succeeds.

    Raises:
        RunError: If the place cannot be written.
    """
    temporary = scratch_path(path)
    try:
        clear_leftovers(path)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a name is not given to content that a power cut could still take
        _link(temporary, path) if only_new else os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust", "pyarrow"):
            raise
        raise RunError(f"cannot write {path}: {error}") from error  # they report a full disk in their own kinds
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Gives a file a further name, which must be free."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise RunError(
            f"another process has just written {path}", hint="Wait for it, or choose another place."
        ) from None
    except OSError:  # a file system without links
        os.replace(temporary, path)


def plain_json(value: Any, *, allow_nan: bool = True) -> Any:
    """A value as JSON has it: dictionaries, lists and Python's own numbers, NumPy's among them.

    Raises:
        TypeError, ValueError: If a part is no such thing.
    """
    return json.loads(json.dumps(value, default=_number, allow_nan=allow_nan))


def _number(value: object) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # NumPy's
        return value.item()  # type: ignore[union-attr]
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def write_json(path: Path, record: Any, *, only_new: bool = False) -> None:
    """Writes a value as indented JSON, to a temporary name and then renamed.

    Args:
        path: Where.
        record: Plain values.
        only_new: Whether a file that is there already, be it since a moment ago, is an error.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), only_new=only_new)
