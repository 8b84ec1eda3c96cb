"""The record: what it refuses, what it blanks, and that hidden data are physically gone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.batch import Batch
from amodal.errors import DataError, SchemaError, ShapeError

NAN, INF = float("nan"), float("inf")


def batch_of(**changes):
    parts = {
        "values": {"labs": torch.arange(6.0).view(3, 2) + 1, "vitals": torch.ones(3, 4, 2)},
        "observed": {"labs": torch.tensor([True, False, True]), "vitals": torch.tensor([True, True, False])},
        "lengths": {"vitals": torch.tensor([4, 2, 3])},
        "target": torch.tensor([0, 1, 0]),
        "ids": ["p", "q", "r"],
    }
    return Batch(**(parts | changes))


def test_absent_unmeasured_and_padding_are_blanked_each_by_its_own_name():
    measured = torch.ones(3, 4, 2, dtype=torch.bool)
    measured[0, 1, 0] = False
    batch = batch_of(measured={"vitals": measured})
    assert batch.values["labs"].tolist() == [[1, 2], [0, 0], [5, 6]]
    expected = torch.ones(3, 4, 2)
    expected[0, 1, 0] = 0  # not measured
    expected[1, 2:] = 0  # padding
    expected[2] = 0  # absent
    assert torch.equal(batch.values["vitals"], expected)
    assert torch.equal(batch.measured["vitals"], expected == 1)
    assert batch.lengths["vitals"].tolist() == [4, 2, 0]
    assert batch.lengths["vitals"].dtype == torch.int64
    assert batch.presence.tolist() == [[True, True], [False, True], [True, False]]


@pytest.mark.parametrize("poison", [NAN, INF, -INF, 1e30, -0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_whatever_was_hidden_is_bitwise_zero(poison, dtype):
    value = torch.ones(2, 3, dtype=dtype)
    value[0] = poison
    batch = Batch({"m": value}, {"m": torch.tensor([False, True])})
    bits = {torch.float32: torch.int32, torch.float64: torch.int64, torch.float16: torch.int16}[dtype]
    assert batch.values["m"].dtype == dtype
    assert not batch.values["m"][0].view(bits).any()
    assert torch.equal(batch.values["m"][1], value[1])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_is_kept_is_bitwise_what_came(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    value = torch.randn(shape, generator=generator)
    seen = torch.rand(shape[0], generator=generator) < 0.6
    measured = torch.rand(shape, generator=generator) < 0.6
    lengths = torch.randint(0, shape[1] + 1, shape[:1], generator=generator)
    keep = torch.zeros(shape, dtype=torch.bool)
    for row in range(shape[0]):
        if seen[row]:
            keep[row, : lengths[row]] = measured[row, : lengths[row]]
    hidden = torch.where(keep, value, torch.full((), NAN))
    batch = Batch({"m": hidden}, {"m": seen}, {"m": measured}, {"m": lengths})
    assert torch.equal(batch.values["m"], torch.where(keep, value, torch.zeros(())))
    assert torch.equal(batch.measured["m"], keep)


def test_the_input_is_not_changed():
    value = torch.tensor([[NAN], [1.0]])
    Batch({"m": value}, {"m": torch.tensor([False, True])})
    assert torch.isnan(value[0, 0])


def test_no_gradient_comes_through_what_is_hidden():
    value = torch.tensor([[2.0, NAN], [INF, 3.0]], requires_grad=True)
    measured = torch.tensor([[True, False], [True, True]])
    batch = Batch({"m": value}, {"m": torch.tensor([True, False])}, {"m": measured})
    batch.values["m"].square().sum().backward()
    assert value.grad.tolist() == [[4.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_present_values_must_be_finite_and_the_rows_are_named(poison):
    with pytest.raises(DataError, match=r"modality 'labs' has NaN or infinite values in present rows: r \(expected"):
        batch_of(values={"labs": torch.tensor([[1.0, 2], [NAN, 2], [1, poison]]), "vitals": torch.ones(3, 4, 2)})


def test_opposite_infinities_do_not_cancel():
    with pytest.raises(DataError, match="present rows: 0"):
        Batch({"m": torch.tensor([[INF, -INF]])}, {"m": torch.tensor([True])})


def test_values_whose_sum_overflows_are_finite():
    batch = Batch({"m": torch.full((1, 4), 3e38)}, {"m": torch.tensor([True])})
    assert (batch.values["m"] == 3e38).all()


def test_rows_are_numbered_without_ids():
    with pytest.raises(DataError, match="present rows: 1 "):
        Batch({"m": torch.tensor([[1.0], [NAN]])}, {"m": torch.tensor([True, True])})


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"values": {}}, SchemaError, "at least one modality"),
        ({"observed": {"labs": torch.ones(3, dtype=torch.bool)}}, SchemaError, r"`observed` lacks .*\['vitals'\]"),
        ({"measured": {"x": torch.ones(3)}}, SchemaError, r"`measured` names modalities .*\['x'\]"),
        ({"lengths": {"x": torch.ones(3)}}, SchemaError, r"`lengths` names modalities .*\['x'\]"),
        (
            {"values": {"labs": torch.ones(3, 2), "vitals": torch.ones(2, 4, 2)}},
            ShapeError,
            "modality 'vitals' has another number of rows .expected 3",
        ),
        ({"values": {"labs": torch.tensor(1.0), "vitals": torch.ones(3, 4, 2)}}, ShapeError, "'labs' must be a tensor"),
        ({"values": {"labs": [[1.0, 2.0]] * 3, "vitals": torch.ones(3, 4, 2)}}, ShapeError, "'labs' must be a tensor"),
        (
            {"observed": {"labs": torch.ones(3), "vitals": torch.ones(3, dtype=torch.bool)}},
            ShapeError,
            r"observed\['labs'\] must be bool",
        ),
        (
            {"observed": {"labs": torch.ones(2, dtype=torch.bool), "vitals": torch.ones(3, dtype=torch.bool)}},
            ShapeError,
            r"observed\['labs'\] must be bool of shape",
        ),
        (
            {"measured": {"vitals": torch.ones(3, 4, 1, dtype=torch.bool)}},
            ShapeError,
            r"measured\['vitals'\] must be bool of the values' shape",
        ),
        ({"lengths": {"vitals": torch.tensor([4, 5, 1])}}, ShapeError, "out of range .expected 0 … 4, got 1 … 5"),
        ({"lengths": {"vitals": torch.tensor([4, -1, 1])}}, ShapeError, "out of range"),
        ({"lengths": {"vitals": torch.ones(3)}}, ShapeError, r"lengths\['vitals'\] must be integers"),
        ({"target": torch.zeros(2)}, ShapeError, "target has another number of rows"),
        ({"ids": ["p"]}, ShapeError, "ids have another number of rows"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, kind, words):
    with pytest.raises(kind, match=words):
        batch_of(**changes)


def test_present_gathers_the_rows_that_have_it():
    rows, values, measured, lengths = batch_of().present("vitals")
    assert rows.tolist() == [0, 1]
    assert values.shape == (2, 4, 2)
    assert measured is None
    assert lengths.tolist() == [4, 2]


@pytest.mark.parametrize("rows", [torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_take_selects_every_part(rows):
    batch = batch_of().take(rows)
    order = rows.tolist() if rows.dtype != torch.bool else [0, 2]
    assert batch.ids == [["p", "q", "r"][row] for row in order]
    assert torch.equal(batch.target, torch.tensor([0, 1, 0])[order])
    assert torch.equal(batch.values["labs"], batch_of().values["labs"][order])
    assert torch.equal(batch.presence, batch_of().presence[order])
    assert torch.equal(batch.lengths["vitals"], batch_of().lengths["vitals"][order])


def test_restrict_removes_and_blanks_and_never_adds():
    batch = batch_of().restrict({"labs": torch.tensor([False, True, True])})
    assert batch.presence.tolist() == [[False, True], [False, True], [True, False]]
    assert batch.values["labs"].tolist() == [[0, 0], [0, 0], [5, 6]]
    assert batch_of().restrict({"labs": torch.ones(3, dtype=torch.bool)}).presence.equal(batch_of().presence)
    with pytest.raises(SchemaError, match=r"cannot restrict .*\['x'\]"):
        batch_of().restrict({"x": torch.ones(3, dtype=torch.bool)})


def test_an_empty_batch_is_legal():
    batch = Batch({"m": torch.ones(0, 3)}, {"m": torch.ones(0, dtype=torch.bool)}, lengths={"m": torch.ones(0).long()})
    assert len(batch) == 0
    assert batch.present("m").values.shape == (0, 3)


def test_to_moves_every_tensor():
    batch = batch_of(measured={"vitals": torch.ones(3, 4, 2, dtype=torch.bool)}).to("meta")
    for part in (batch.values, batch.observed, batch.measured, batch.lengths):
        assert {tensor.device.type for tensor in part.values()} == {"meta"}
    assert (batch.device.type, batch.target.device.type, batch.ids) == ("meta", "meta", ["p", "q", "r"])


@pytest.mark.parametrize(
    ("target", "labelled"),
    [
        (torch.tensor([1, -1, 0]), [True, False, True]),
        (torch.tensor([0.5, torch.nan, 1.0]), [True, False, True]),
        (torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [0.0, 1.0]]), [True, False, True]),
    ],
    ids=["classes", "values", "labels"],
)
def test_a_label_may_be_unknown(target: torch.Tensor, labelled: list[bool]):
    x, seen = {"x": torch.zeros(3, 1)}, {"x": torch.ones(3, dtype=torch.bool)}
    batch = Batch(x, seen, target=target)
    assert batch.labelled.tolist() == labelled
    fewer = Batch(x, seen, target=target, labelled=torch.tensor([False, True, True]))
    assert fewer.labelled.tolist() == [False, False, True], "what is unknown stays so"
    again = Batch(x, seen, target=fewer.target)
    assert again.labelled.tolist() == [False, False, True], "and what is taken away is gone"
    assert fewer.take(torch.tensor([2, 0])).labelled.tolist() == [True, False]
    assert fewer.restrict({"x": torch.zeros(3, dtype=torch.bool)}).labelled.tolist() == [False, False, True]
    assert Batch(x, seen).labelled.tolist() == [False] * 3
    with pytest.raises(ShapeError, match=r"labelled must be bool of shape"):
        Batch(x, seen, target=target, labelled=torch.ones(3))


def test_rows_are_found_once_and_travel_with_the_batch():
    batch = batch_of()
    rows = {name: seen.nonzero()[:, 0] for name, seen in batch.observed.items()}
    assert all(torch.equal(batch.rows[name], found) for name, found in rows.items())
    moved = batch.prepared().to("cpu")
    assert moved.ids is None
    assert moved.rows is not batch.rows
    assert all(torch.equal(moved.rows[name], found) for name, found in rows.items())
    name = batch.modalities[0]
    fewer = batch.restrict({name: torch.zeros(len(batch), dtype=torch.bool)})
    assert len(fewer.rows[name]) == 0  # not those of before
    assert list(batch.only([name]).values) == list(batch.only([name]).rows) == [name]


def test_a_restricted_batch_is_what_building_it_anew_gives():
    batch = batch_of()
    seen = {name: torch.arange(len(batch)) % 2 == 0 for name in batch.modalities}
    ours = batch.restrict(seen)
    presence = {name: batch.observed[name] & seen[name] for name in batch.modalities}
    anew = Batch(batch.values, presence, batch.measured, batch.lengths, batch.target, batch.ids, times=batch.times)
    for part in ("values", "observed", "measured", "lengths", "times"):
        assert getattr(ours, part).keys() == getattr(anew, part).keys()
        assert all(torch.equal(value, getattr(anew, part)[key]) for key, value in getattr(ours, part).items()), part


def test_filling_takes_modalities_of_another_batch():
    batch = batch_of()
    name = batch.modalities[0]
    without = batch.restrict({name: torch.zeros(len(batch), dtype=torch.bool)})
    whole = without.filled(batch.only([name]), [name])
    assert list(whole.values) == list(batch.values)
    for part in ("values", "observed", "measured", "lengths"):
        assert all(torch.equal(value, getattr(batch, part)[key]) for key, value in getattr(whole, part).items()), part
