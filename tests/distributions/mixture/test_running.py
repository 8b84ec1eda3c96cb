"""Running expectation maximisation: against scikit-learn on fixed points, and on points that move."""

import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from amodal.distributions.mixture.gaussian_mixture import GaussianMixture
from amodal.distributions.mixture.running import RunningFit


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=3000, shift=0.0):
    """Two modalities of three coordinates, each from three clusters."""
    which = torch.randint(0, 3, (2, n), generator=draw(1))
    centres = torch.tensor([[-4.0, 0.0, 3.0], [0.0, 4.0, -3.0], [4.0, -4.0, 0.0]])
    return centres[which] + 0.7 * torch.randn(2, n, 3, generator=draw(2)) + shift


def shares(mixture, z):
    return torch.softmax(mixture.component_log_density(z) + mixture.log_weights.unsqueeze(1), -1).unsqueeze(-1)


def started(z):
    mixture = GaussianMixture(3, 3, batch_shape=(2,), learnable=False).start_at(z, generator=draw())
    assert not list(mixture.parameters())
    return mixture, RunningFit(mixture)


def test_with_nothing_remembered_it_is_scikit_learns_fit():
    z = points()
    mixture, running = started(z)
    everyone = torch.ones(2, 3000, dtype=torch.bool)
    for _ in range(60):
        running.update(mixture, z, everyone, shares(mixture, z), memory=0.0)
    for m in range(2):
        reference = Reference(3, covariance_type="diag", n_init=3, random_state=0).fit(z[m].numpy())
        own = float(mixture.log_density(z)[m].mean())
        assert own == pytest.approx(reference.score(z[m].numpy()), abs=2e-3)


def test_it_follows_points_that_move_and_leaves_what_is_absent():
    z = points()
    mixture, running = started(z)
    seen = torch.ones(2, 3000, dtype=torch.bool)
    for _ in range(30):
        running.update(mixture, z, seen, shares(mixture, z), memory=0.0)
    before = mixture.means.clone()
    seen[1] = False
    for step in range(60):  # two units in 60 batches of 50
        rows = torch.randint(0, 3000, (50,), generator=draw(step))
        moved = z[:, rows] + 2.0 * min(1.0, step / 40)
        running.update(mixture, moved, seen[:, rows], shares(mixture, moved), memory=200.0)
    torch.testing.assert_close(mixture.means[0], before[0] + 2.0, atol=0.3, rtol=0)
    torch.testing.assert_close(mixture.means[1], before[1])


def test_a_component_without_rows_and_one_row_stay_finite():
    z = points(n=4)
    mixture, running = started(z)
    one = torch.tensor([[True, False, False, False], [False, False, False, False]])
    for memory in (0.0, 200.0):
        running.update(mixture, z, one, shares(mixture, z), memory=memory)
    assert all(bool(torch.isfinite(part).all()) for part in (mixture.means, mixture.scales, mixture.weights))
