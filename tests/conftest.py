"""Fixtures shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from amodal.data import COHORTS
from amodal.encoders import ENCODERS
from amodal.fusion import FUSIONS
from amodal.kinds import MODALITY_KINDS, TASK_KINDS
from amodal.methods import METHODS
from amodal.metrics.registry import METRICS
from amodal.missingness.mechanisms import MECHANISMS

torch.set_num_threads(1)


REGISTRIES = (COHORTS, ENCODERS, FUSIONS, MECHANISMS, METHODS, METRICS, MODALITY_KINDS, TASK_KINDS)


@pytest.fixture
def registries() -> Iterator[None]:
    """Puts the registries back as they were, for tests that run code which registers something."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, content in zip(REGISTRIES, before):
        registry.clear()
        registry.update(content)


@pytest.fixture(autouse=True)
def _registries_are_left_alone() -> Iterator[None]:
    """Fails a test that leaves something in a registry: it would reach whatever test comes next.

    It is set up before a test's own fixtures, so that it looks after they have put back what they changed.
    """
    before = [dict(registry) for registry in REGISTRIES]
    yield
    assert [dict(registry) for registry in REGISTRIES] == before, "the test changed a registry"


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
