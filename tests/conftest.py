"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def _shared(name: str, what: str) -> Path:
    folder = Path(__file__).resolve().parents[1].parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"{what} are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real upstream data beside the repository; tests that need it skip where it is absent."""
    return _shared("data", "the upstream data")


@pytest.fixture(scope="session")
def field_cases() -> Path:
    """The folder of small inputs that people had trouble with, beside the repository; tests skip where it is absent."""
    return _shared("field_cases", "the cases from the field")
