"""Completions: a score that is smallest at the right law, noise of absent modalities, draws about a prediction."""

import math

import pytest
import torch

from amodal.kinds import task_kind
from amodal.tokens.completions import NOISE, Completer, energy_score, shift_to

ONE = torch.ones(1, dtype=torch.bool)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("deviation", [0.0, 0.5, 1.0, 2.0])
def test_the_score_is_the_energy_distance(deviation):
    """Of normal numbers in closed form: E|X - Y| = sqrt(2 / pi) · deviation of X - Y; least at the right deviation."""
    n = 200_000
    draws = deviation * torch.randn(2, n, 1, 1, generator=generator())
    score = energy_score(draws, torch.randn(n, 1, 1, generator=generator(1)), ONE.expand(n, 1)).mean()
    expected = math.sqrt(2 / math.pi) * (math.sqrt(1 + deviation**2) - deviation / math.sqrt(2))
    assert score.item() == pytest.approx(expected, abs=0.01)
    right = math.sqrt(2 / math.pi) * (math.sqrt(2) - math.sqrt(0.5))
    assert expected >= right - 1e-9


def test_the_score_is_joint_over_modalities_and_reads_only_what_counts():
    """Completions of which each modality is right by itself, but not how they go together, score worse."""
    n = 50_000
    h, a, b = torch.randn(3, n, 1, 1, generator=generator())
    target, both = torch.cat([h, h], 1), torch.ones(n, 2, dtype=torch.bool)
    together = energy_score(torch.stack([torch.cat([z, z], 1) for z in (a, b)]), target, both).mean()
    apart = torch.randn(2, n, 2, 1, generator=generator(1))
    assert together < energy_score(apart, target, both).mean() - 0.01
    some = torch.tensor([[True, False], [False, False]])
    draws, target = torch.randn(2, 2, 2, 3), torch.randn(2, 2, 3)
    score = energy_score(draws, target, some)
    target[~some], draws[:, ~some] = torch.nan, torch.inf
    assert torch.equal(energy_score(draws, target, some), score)
    assert score[1] == 0
    assert score[0] == pytest.approx(energy_score(draws[:, :1, :1], target[:1, :1], ONE[None])[0].item())


def test_completions_are_of_what_is_absent_and_read_what_is_there():
    completer, observed = Completer(3, 8), torch.tensor([[False, False, True], [True, False, True]])
    own, predicted = torch.randn(2, 2, 3, 8, generator=generator())
    draws = torch.randn(4, 1, 3, NOISE, generator=generator(1))
    completed = completer(own, predicted, observed, draws)
    assert completed.shape == (4, 2, 3, 8)
    assert not completed[:, observed].any()
    hidden = torch.where(observed[..., None], own, torch.nan), torch.where(observed[..., None], torch.nan, predicted)
    assert torch.equal(completer(*hidden, observed, draws), completed)
    changed = draws.clone()
    changed[:, :, 2] = 9.0  # present in both rows
    assert torch.equal(completer(own, predicted, observed, changed), completed)
    changed[:, :, 0] = 9.0
    moved = (completer(own, predicted, observed, changed) - completed).abs().sum((0, 3)) > 0
    assert moved.tolist() == [[True, True, False], [False, False, False]]  # b may follow a, where both are absent
    torch.testing.assert_close(completer(own[1:], predicted[1:], observed[1:], draws), completed[:, 1:])


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_draws_are_shifted_to_the_prediction(kind):
    n = {"binary": 2, "regression": 1}.get(kind, 4)
    outputs, wanted = 2 * torch.randn(64, 5, n, generator=generator()), torch.randn(5, n, generator=generator(1))
    task = task_kind(kind)
    prediction = task.predictions(wanted)
    shift = shift_to(outputs, prediction, task)
    torch.testing.assert_close(task.predictions(outputs + shift).mean(0), prediction, atol=1e-4, rtol=1e-3)
    same = wanted.expand(64, -1, -1)
    torch.testing.assert_close(task.predictions(same + shift_to(same, prediction, task))[0], prediction)
