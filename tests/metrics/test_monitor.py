"""The collapse monitor: numbers by hand, and the words of its warnings."""

import math
import re

import numpy as np
import pytest
import torch

from amodal.metrics.monitor import representation_numbers, signs_of_collapse, spread_ratios, weight_numbers


def test_numbers_of_two_independent_equal_dimensions():
    grid = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert representation_numbers("pooled", grid) == pytest.approx({"pooled_rank": 2.0, "pooled_spread": 1.0})
    assert representation_numbers("pooled", grid[:1]) == {}


def test_several_modalities_are_centred_one_by_one():
    """Their offsets are neither spread nor rank, and one that has collapsed shows whatever the others do."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(400, 2, 3, generator=draw) + 100 * torch.tensor([[0.0], [1.0]])
    counted = torch.rand(400, 2, generator=draw) < 0.7
    numbers = representation_numbers("pooled", features, counted)
    assert numbers["pooled_rank"] == pytest.approx(3, abs=0.02)
    assert numbers["pooled_spread"] == pytest.approx(1, abs=0.1)
    features[:, 1] = 7.0
    assert representation_numbers("pooled", features, counted)["pooled_spread"] == 0
    features[~counted] = math.nan  # what does not count is not read
    assert math.isfinite(representation_numbers("pooled", features, counted)["pooled_rank"])
    assert representation_numbers("predicted", features, counted & False) == {}


def test_weights_of_a_softmax_by_hand():
    weights = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    expected = np.mean([1 / (0.75**2 + 0.25**2), 2.0])
    assert weight_numbers([weights])["effective_sample_size"] == pytest.approx(expected)
    assert weight_numbers([weights, torch.ones(1, 1)])["neighbours"] == 1.5
    assert weight_numbers([torch.zeros(0, 3)]) == {}


def test_spreads_of_predictions_by_modality():
    draw = torch.Generator().manual_seed(0)
    true, counted = torch.randn(50, 3, 4, generator=draw), torch.rand(50, 3, generator=draw) < 0.5
    counted[:, 2] = False
    predicted = torch.stack([0.3 * true[:, 0] + 7.0, torch.ones_like(true[:, 1]), true[:, 2]], dim=1)
    predicted[~counted] = math.nan  # what does not count is not read
    ratios = spread_ratios(predicted, true, counted, ["a", "b_rank", "c"])
    assert ratios == pytest.approx({"spread_ratio_a": 0.3, "spread_ratio_b_rank": 0.0})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"spread_ratio_labs": 0.05}, {"spread_ratio_labs": 0.0}], "predictions of labs are nearly constant: .* 0 of"),
        ([{"predicted_spread": 1.0}, {"predicted_spread": 0.009}], "predicted representations .* point: .* 0.009"),
        ([{"context_diversity": 2.0}, {"context_diversity": 0.01}], "contexts have collapsed to a point"),
        ([{"pooled_rank": 1.01}], "pooled representations have collapsed to a line"),
        ([{"effective_sample_size": 1.1, "neighbours": 20.0}], "1.1 of 20 neighbours count; use a wider bandwidth"),
        ([{"effective_sample_size": 19.0, "neighbours": 20.0}], "nearly uniform: 19 of 20 .* narrower bandwidth"),
    ],
)
def test_signs(rows, words):
    (sign,) = signs_of_collapse(rows)
    assert re.search(words, sign)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"predicted_spread": 0.0}],  # nothing to compare with
        [{"predicted_spread": 1.0}, {"predicted_spread": 0.02}],
        [{"pooled_rank": 1.2}],
        [{"spread_ratio_a": 0.01}],  # before the first epoch has shown a direction
        [{"spread_ratio_a_rank": 0.01}, {"spread_ratio_a_rank": 0.4}],
        [{"train_rank": 0.04, "train_spread": 1.0}, {"train_rank": 0.04, "train_spread": 0.001}],  # terms of a loss
        [{"pooled_rank": math.nan}],
        [{"effective_sample_size": 1.0, "neighbours": 2.0}],  # there are hardly any
        [{"effective_sample_size": 7.0, "neighbours": 7.0}],
        [{"effective_sample_size": 10.0, "neighbours": 20.0}],
        [{"valid_loss": 0.0, "seconds": 0.0}],
    ],
)
def test_no_sign(rows):
    assert signs_of_collapse(rows) == []


def test_ten_epochs_that_are_no_better_than_the_prior_are_a_sign():
    rows = [{"valid_loss": loss, "valid_prior": 2.3} for loss in (2.5, *[2.3] * 9)]
    (sign,) = signs_of_collapse(rows)
    assert sign.startswith("nothing has been learnt: the lowest validation loss is 2.3")
    assert signs_of_collapse(rows[:9]) == []
    assert signs_of_collapse([*rows[:5], {"valid_loss": 2.2, "valid_prior": 2.3}, *rows[5:]]) == []
    assert signs_of_collapse([{"valid_loss": 2.3}] * 12) == []


def test_a_law_that_is_none_of_its_vectors_is_a_sign():
    good, bad = {"law_over_normal": -0.2}, {"law_over_normal": 0.4}
    assert signs_of_collapse([good, bad]) == []
    (sign,) = signs_of_collapse([bad, bad])
    assert "law of completions fits its vectors worse than a normal distribution, by 0.4 nats" in sign
