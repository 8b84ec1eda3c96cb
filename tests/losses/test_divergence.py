"""Jensen-Shannon divergence against SciPy, and under every pattern of presence."""

import itertools
import math

import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon

from amodal.errors import ShapeError
from amodal.losses.divergence import jensen_shannon


def laws(b, m, d, seed=0):
    return torch.randn(b, m, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


def test_two_laws_are_scipys():
    logs = laws(20, 2, 5)
    found = jensen_shannon(logs, torch.ones(20, 2, dtype=torch.bool))
    expected = [jensenshannon(*row.exp().numpy()) ** 2 for row in logs]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_any_number_under_every_pattern():
    """The mean relative entropy to the mean law, by SciPy, of what is observed; NaN elsewhere does not matter."""
    for pattern in itertools.product([True, False], repeat=3):
        seen = torch.tensor([pattern])
        logs = laws(1, 3, 4)
        present = logs[0][seen[0]].exp().numpy()
        expected = sum(stats.entropy(p, present.mean(0)) for p in present) / len(present) if len(present) > 1 else 0.0
        hidden = torch.where(seen[..., None], logs, math.nan)
        assert jensen_shannon(hidden, seen).item() == pytest.approx(expected, abs=1e-12)


def test_bounds_symmetry_and_gradient():
    logs = torch.nn.functional.logsigmoid(4 * torch.randn(200, 2, 6, generator=torch.Generator().manual_seed(1)))
    both = torch.ones(200, 2, dtype=torch.bool)
    found = jensen_shannon(logs, both)
    assert found.min() >= -1e-6
    assert found.max() <= 6 * math.log(2)
    torch.testing.assert_close(jensen_shannon(logs.flip(1), both), found)
    torch.testing.assert_close(jensen_shannon(logs[:, :1].expand(-1, 2, -1), both), torch.zeros(200))
    raw = torch.full((1, 2, 2), -120.0, requires_grad=True)  # log σ by logsigmoid stays finite
    seen = torch.tensor([[True, False]])
    jensen_shannon(torch.nn.functional.logsigmoid(raw), seen).sum().backward()
    assert not raw.grad.any()


def test_shapes():
    with pytest.raises(ShapeError, match="presence does not fit the probabilities"):
        jensen_shannon(torch.zeros(2, 3, 4), torch.ones(2, 2, dtype=torch.bool))
