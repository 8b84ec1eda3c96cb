"""Raw files to cohorts: samples keyed by id, with presence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from amodal.data.cohort import Cohort, check_trainable
from amodal.data.loader import make_loader
from amodal.data.scale import Scaling
from amodal.data.sources.cube import context_cube_cohort, cube_cohort
from amodal.data.sources.digits import digit_quadrants
from amodal.data.sources.interaction import interaction_cohort
from amodal.data.sources.ring import ring_cohort
from amodal.data.sources.synthetic import gaussian_cohort
from amodal.data.sources.xor import xor_cohort
from amodal.data.split import folds, split_groups
from amodal.errors import DataError, UnknownNameError
from amodal.options import resolve_options

__all__ = [
    "COHORTS",
    "Cohort",
    "Scaling",
    "check_trainable",
    "folds",
    "load_cohort",
    "make_loader",
    "split_groups",
]

COHORTS: dict[str, Callable[..., Cohort]] = {
    "context_cube": context_cube_cohort,
    "cube": cube_cohort,
    "digits": digit_quadrants,
    "interaction": interaction_cohort,
    "ring": ring_cohort,
    "synthetic": gaussian_cohort,
    "xor": xor_cohort,
}
"""Cohorts that need no file, by name."""


def load_cohort(name_or_folder: str | Path, **options: Any) -> Cohort:
    """Loads a cohort by name, or opens a folder.

    Args:
        name_or_folder: A name in `COHORTS`, or a folder written by `Cohort.save` or `amodal data prepare`.
        options: Of the function in `COHORTS`, or of `Cohort.open`.

    Raises:
        UnknownNameError: If it is neither, or an option is not known.
        ConfigurationError: If an option has a value that cannot be used.
        DataError: If a folder is meant that is not there or cannot be read.

    Example:
        >>> load_cohort("digits")
        <Cohort 'digits': 1797 samples, top_left, top_right, bottom_left, bottom_right>
    """
    name = str(name_or_folder)
    known = COHORTS.get(name) if isinstance(name_or_folder, str) else None
    load = known or Cohort.open
    if known is None and not Path(name).exists():
        if isinstance(name_or_folder, Path) or Path(name).name != name:
            raise DataError(f"there is no cohort folder {name}")
        raise UnknownNameError("cohort (and there is no folder of this name)", name, COHORTS)
    checked = resolve_options(load, options, owner=f"cohort {name!r}", outside=("folder",))
    return load(**checked) if known else load(name_or_folder, **checked)
