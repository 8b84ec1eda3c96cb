"""The reductions have the denominators they say, and nothing hidden gets through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.errors import ShapeError
from amodal.losses.masked import connected_zero, mean_over_observed, mean_over_rows, mean_over_terms, select

NAN, INF = float("nan"), float("inf")
rows = st.lists(st.tuples(st.floats(-10, 10, width=32), st.booleans()), min_size=1, max_size=12)


@given(rows)
@settings(max_examples=50, deadline=None)
def test_denominators(pairs):
    value = torch.tensor([v for v, _ in pairs], dtype=torch.float64)
    observed = torch.tensor([o for _, o in pairs])
    kept = [v for v, o in pairs if o]
    assert mean_over_rows(value, observed).item() == pytest.approx(sum(kept) / len(pairs), abs=1e-9)
    assert mean_over_observed(value, observed).item() == pytest.approx(sum(kept) / max(len(kept), 1), abs=1e-9)


@given(rows)
@settings(max_examples=50, deadline=None)
def test_single_row_batches_add_up_to_the_likelihood_reduction(pairs):
    value = torch.tensor([v for v, _ in pairs], dtype=torch.float64)
    observed = torch.tensor([o for _, o in pairs])
    singles = [mean_over_rows(value[i : i + 1], observed[i : i + 1]) for i in range(len(pairs))]
    torch.testing.assert_close(torch.stack(singles).mean(), mean_over_rows(value, observed))


def test_the_two_reductions_differ_by_the_rate_of_presence():
    value, observed = torch.full((10,), 6.0), torch.arange(10) < 4
    assert mean_over_observed(value, observed).item() == 6
    assert mean_over_rows(value, observed).item() == pytest.approx(6 * 0.4)


@pytest.mark.parametrize("reduce", [mean_over_rows, mean_over_observed])
@pytest.mark.parametrize("hidden", [NAN, INF, -INF, 1e38])
def test_absent_rows_reach_neither_value_nor_gradient(reduce, hidden):
    value = torch.tensor([1.0, hidden, 3.0], requires_grad=True)
    observed = torch.tensor([True, False, True])
    loss = reduce(value, observed)
    loss.backward()
    assert loss.item() == pytest.approx(4 / (3 if reduce is mean_over_rows else 2))
    assert value.grad is not None
    assert value.grad[1] == 0
    assert (value.grad[[0, 2]] > 0).all()


@pytest.mark.parametrize("reduce", [mean_over_rows, mean_over_observed])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_nobody_observed_is_a_connected_zero(reduce, batch):
    value = torch.full((batch,), NAN, requires_grad=True)
    loss = reduce(value, torch.zeros(batch, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(value.grad, torch.zeros(batch))


def test_select_blanks_before_and_after_so_that_no_gradient_is_nan():
    x = torch.tensor([[4.0, 9.0], [0.0, NAN]], requires_grad=True)
    observed = torch.tensor([True, False])
    loss = select((1 / select(x, observed, fill=1.0).sqrt()).sum(1), observed)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([1 / 2 + 1 / 3, 0.0]))
    torch.testing.assert_close(x.grad, torch.tensor([[-0.5 * 4**-1.5, -0.5 * 9**-1.5], [0.0, 0.0]]))


def test_select_keeps_type_and_passes_through_without_presence():
    whole = torch.tensor([1, 2, 3])
    assert select(whole, None) is whole
    assert select(whole, torch.tensor([True, False, True])).tolist() == [1, 0, 3]
    assert select(whole.double()[:, None, None], torch.tensor([True, False, True]), -1).dtype == torch.float64


def test_mean_over_terms_averages_rows_then_modalities_that_count():
    values = {"a": torch.tensor([1.0, 3.0, NAN]), "b": torch.tensor([10.0, NAN, NAN]), "c": torch.full((3,), NAN)}
    counted = {
        "a": torch.tensor([True, True, False]),
        "b": torch.tensor([True, False, False]),
        "c": torch.tensor([False, False, False]),
    }
    assert mean_over_terms(values, counted).item() == (2 + 10) / 2


def test_mean_over_terms_without_a_counted_row_is_a_connected_zero():
    value = torch.tensor([NAN, 2.0], requires_grad=True)
    loss = mean_over_terms({"a": value}, {"a": torch.tensor([False, False])})
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(value.grad, torch.zeros(2))


def test_connected_zero_whatever_the_tensor_holds():
    x = torch.tensor([[NAN, INF]], requires_grad=True)
    y = torch.zeros(0, 3, requires_grad=True)
    zero = connected_zero(x, y)
    zero.backward()
    assert zero.shape == ()
    assert zero.item() == 0
    assert torch.equal(x.grad, torch.zeros(1, 2))
    assert y.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_over_rows(torch.zeros(2, 3)), r"one value for each row \(expected shape \(B,\), got \(2, 3\)\)"),
        (lambda: mean_over_observed(torch.zeros(())), r"expected shape \(B,\), got \(\)"),
        (lambda: select(torch.zeros(3), torch.ones(3)), r"expected bool of shape \(3,\), got torch.float32 of shape"),
        (lambda: select(torch.zeros(3), torch.ones(2, dtype=torch.bool)), r"got torch.bool of shape \(2,\)"),
        (lambda: mean_over_terms({}, {}), r"no modality to average over"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ShapeError, match=words):
        call()
