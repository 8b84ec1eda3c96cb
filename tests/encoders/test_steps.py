"""The encoder of steps: the time's code by hand, and times of a row's own length."""

import numpy as np
import torch

from amodal.encoders.steps import SeriesSteps, time_code
from amodal.schema import Modality


def test_the_code_of_a_time():
    """Six bands up to 10: thirteen numbers, as NumPy has them."""
    time = torch.linspace(-1, 1, 7, dtype=torch.float64)
    angles = np.pi * time.numpy()[:, None] * np.linspace(1.0, 5.0, 6)
    expected = np.concatenate([np.sin(angles), np.cos(angles), time.numpy()[:, None]], axis=1)
    np.testing.assert_allclose(time_code(time), expected, atol=1e-12)


def test_the_clock_is_the_rows_own():
    torch.manual_seed(0)
    encoder = SeriesSteps(Modality("ehr", "series", (6, 2)), width=4)
    values = torch.randn(2, 6, 2)
    both = encoder(values, None, torch.tensor([3, 6])).tokens
    torch.testing.assert_close(both[0, :3], encoder(values[:1, :3], None, torch.tensor([3])).tokens[0])
    assert not both[0, 3:].any()
    torch.testing.assert_close(
        encoder(values[:1, :1]).tokens[0, 0], encoder(values[:1], None, torch.tensor([1])).tokens[0, 0]
    )
