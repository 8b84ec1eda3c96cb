"""Work stored in parts as it comes, beside the file that it is for: the same call after an interruption keeps them."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.errors import RunError
from amodal.files import replace_file, write_json

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

__all__ = ["open_parts", "table_in_parts", "weights_digest"]


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all that a module's state holds."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_parts(out: Path, identity: Mapping[str, Any]) -> Path:
    """The folder of a file's parts: of an interrupted call with the same identity, or a new one.

    Args:
        out: The file (or folder) that the parts are for; they lie in `out` + ".parts".
        identity: Everything that decides the parts, as plain JSON values.

    Raises:
        RunError: If the folder holds something else.
    """
    folder = out.with_name(out.name + ".parts")
    record, wanted = folder / "parts.json", json.loads(json.dumps(dict(identity)))
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == wanted:
        return folder
    if folder.exists() and not record.is_file() and any(folder.iterdir()):
        raise RunError(
            f"{folder} holds something else than parts of results", hint="Remove it, or choose another file."
        )
    shutil.rmtree(folder, ignore_errors=True)  # parts of another model or other cases
    folder.mkdir(parents=True)
    write_json(record, wanted)
    return folder


def table_in_parts(
    out: Path,
    identity: Mapping[str, Any],
    n: int,
    part_rows: int,
    make: Callable[[np.ndarray], pd.DataFrame],
    *,
    tell: Callable[[int, int], object] | None = None,
) -> None:
    """Writes a table of n rows into a CSV or Parquet file, some rows at a time, in memory that does not grow with n.

    Args:
        out: The file, .csv or .parquet.
        identity: As of `open_parts`.
        n: Number of rows.
        part_rows: Rows a part.
        make: From positions of rows to their part of the table.
        tell: Called with the rows done and n after each part.
    """
    parts = open_parts(out, {**identity, "rows": n, "part_rows": part_rows})
    with _each_warning_once():
        for number, start in enumerate(range(0, n, part_rows)):
            rows, file = np.arange(start, min(start + part_rows, n)), parts / f"{number:06d}.parquet"
            if not file.is_file():
                frame = make(rows)
                replace_file(file, lambda path, frame=frame: frame.to_parquet(path, index=False))
            if tell is not None:
                tell(int(rows[-1]) + 1, n)
    replace_file(out, lambda path: _join(sorted(parts.glob("*.parquet")), path, out.suffix))
    shutil.rmtree(parts)


def _join(parts: list[Path], path: Path, suffix: str) -> None:
    import pandas as pd
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    if suffix == ".csv":
        for number, part in enumerate(parts):
            pd.read_parquet(part).to_csv(path, mode="a", header=number == 0, index=False)
        return
    schema = arrow.unify_schemas([parquet.read_schema(part) for part in parts], promote_options="permissive")
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part).cast(schema))


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Holds back what parts warn of, and tells the first few different warnings at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    different = {str(warning.message): warning for warning in caught}
    for text, warning in list(different.items())[:3]:
        warnings.warn(text, warning.category, stacklevel=4)
    if len(different) > 3:
        warnings.warn(f"{len(different) - 3} more warnings of this kind for other rows", stacklevel=4)
