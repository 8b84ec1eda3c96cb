"""Versions of Python and of the packages that a run depends on, for its record."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["versions"]

_PACKAGES = ("amodal", "torch", "numpy", "scipy", "scikit-learn", "pandas", "transformers")


def versions() -> dict[str, str]:
    """Versions of Python, of amodal and of the packages whose numerics a run depends on, as far as installed."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
