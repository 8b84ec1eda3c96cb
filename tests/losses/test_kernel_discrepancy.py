import math

import pytest
import torch

from amodal.errors import ShapeError
from amodal.losses.kernel_discrepancy import maximum_mean_discrepancy


def test_transcription():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 3, generator=draw), torch.randn(6, 3, generator=draw)

    def kernel(x, y):  # as the code of the paper writes it: the mean over coordinates, divided by their number again
        return math.exp(-sum((x[i] - y[i]).item() ** 2 for i in range(3)) / 3 / 3)

    def average(x, y):
        return sum(kernel(p, q) for p in x for q in y) / len(x) / len(y)

    expected = average(a, a) + average(b, b) - 2 * average(a, b)
    assert maximum_mean_discrepancy(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_it_tells_distributions_apart():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(500, 2, generator=draw), torch.randn(500, 2, generator=draw)
    assert maximum_mean_discrepancy(a, a).item() == pytest.approx(0, abs=1e-6)
    assert 0 < maximum_mean_discrepancy(a, b) < 0.01 < maximum_mean_discrepancy(a, b + 1)


@pytest.mark.parametrize("other", [torch.zeros(3, 1), torch.zeros(0, 2), torch.zeros(2)])
def test_samples_that_do_not_fit(other):
    with pytest.raises(ShapeError, match="samples must be"):
        maximum_mean_discrepancy(torch.zeros(4, 2), other)
