"""The bank remembers the last rows, in order, without gradients, and is saved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.errors import ConfigurationError, ShapeError
from amodal.losses.characteristic_function.feature_bank import FeatureBank


@given(st.integers(1, 7), st.lists(st.integers(0, 10), max_size=6))
@settings(max_examples=60, deadline=None)
def test_it_holds_the_last_rows_in_order(capacity, sizes):
    bank = FeatureBank(capacity, 2, 1)
    seen: list[float] = []
    for size in sizes:
        values = [float(len(seen) + i) for i in range(size)]
        seen += values
        column = torch.tensor(values).view(-1, 1)
        bank.push(column.expand(-1, 2), -column)
    features, contexts = bank.rows()
    assert features[:, 1].tolist() == seen[-capacity:]
    assert contexts[:, 0].tolist() == [-x for x in seen[-capacity:]]
    assert len(bank) == min(len(seen), capacity)


def test_what_it_gives_is_a_copy_without_a_gradient():
    bank = FeatureBank(2, 1, 1)
    bank.push(torch.ones(1, 1, requires_grad=True), torch.ones(1, 1))
    features, _ = bank.rows()
    assert not features.requires_grad
    features += 5
    assert bank.rows()[0].item() == 1


def test_it_is_saved_and_restored():
    bank, other = FeatureBank(3, 1, 2), FeatureBank(3, 1, 2)
    bank.push(torch.arange(4.0)[:, None], torch.zeros(4, 2))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.rows()[0], torch.tensor([[1.0], [2.0], [3.0]]))


def test_bad_sizes():
    with pytest.raises(ConfigurationError, match=r"positive sizes \(expected >= 1, got \(0, 1, 1\)\)"):
        FeatureBank(0, 1, 1)
    bank = FeatureBank(3, 2, 1)
    with pytest.raises(ShapeError, match=r"features do not fit the bank \(expected \(4, 2\), got \(4, 3\)\)"):
        bank.push(torch.zeros(4, 3), torch.zeros(4, 1))
    with pytest.raises(ShapeError, match=r"contexts do not fit the bank \(expected \(4, 1\), got \(3, 1\)\)"):
        bank.push(torch.zeros(4, 2), torch.zeros(3, 1))
