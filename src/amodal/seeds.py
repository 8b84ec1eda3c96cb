"""Seeds: one seed from several integers, and torch's global generators left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["forked_rng", "mix_seed"]


def mix_seed(seed: int, epoch: int, step: int) -> int:
    """One 63-bit seed from three integers."""
    return int(np.random.SeedSequence([abs(int(seed)), epoch, step]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Leaves torch's global generators as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else ()):
        yield
