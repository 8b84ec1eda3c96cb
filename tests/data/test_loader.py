"""The loader: every row once, the same order again, and the same batches from workers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from amodal.data import Cohort, Scaling
from amodal.data.loader import CohortDataset, RowBatches, make_loader
from amodal.errors import ConfigurationError

from .cohorts import N, assert_same_batch, mixed_cohort


def rows_of(*arguments, epoch=0, **options):
    sampler = RowBatches(*arguments, **options)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(rows.dtype == np.int64 for rows in batches)
    return batches


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.integers(0, 5))
def test_every_row_comes_once(n, size, shuffle, epoch):
    batches = rows_of(n, size, shuffle=shuffle, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert all(len(rows) == size for rows in batches[:-1])


def test_orders_repeat_by_seed_and_epoch_only():
    def order(**options):
        return np.concatenate(rows_of(50, 8, shuffle=True, **options)).tolist()

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert len({tuple(order(seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}) == 9
    sampler = RowBatches(50, 8, shuffle=True, seed=1)
    for epoch in (0, 1, 2):  # whatever came before
        sampler.set_epoch(epoch)
        last = np.concatenate(list(sampler)).tolist()
    assert last == order(seed=1, epoch=2)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        ((0, 4), {}, ConfigurationError, "n is out of range .expected 1 or more, got 0"),
        ((5, 0), {}, ConfigurationError, "batch_size is out of range"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, options, kind, words):
    with pytest.raises(kind, match=words):
        RowBatches(*arguments, **options)


def test_a_loader_yields_the_cohorts_batches():
    cohort = mixed_cohort()
    loader = make_loader(cohort, 16, shuffle=True, seed=5, epoch=2)
    order = rows_of(N, 16, shuffle=True, seed=5, epoch=2)
    assert len(loader) == 3
    for rows, batch in zip(order, loader, strict=True):
        assert_same_batch(batch, cohort.batch(rows))


def test_batches_are_scaled():
    cohort = mixed_cohort("regression")
    scaling = Scaling.fit(cohort.split("train"))
    for batch in make_loader(cohort.split("test"), 3, scaling=scaling):
        rows = np.array([cohort.ids.tolist().index(name) for name in batch.ids])
        assert_same_batch(batch, scaling.apply(cohort.batch(rows)))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches_also_from_disk(tmp_path, context):
    mixed_cohort().save(tmp_path / "c")
    cohort = Cohort.open(tmp_path / "c").split("train")
    scaling = Scaling.fit(cohort)
    expected = list(make_loader(cohort, 5, scaling=scaling, shuffle=True, seed=1))
    loader = make_loader(cohort, 5, scaling=scaling, shuffle=True, seed=1, workers=2)
    loader.multiprocessing_context = context
    for _ in range(2):  # a second pass with the same workers
        for one, other in zip(expected, loader, strict=True):
            assert_same_batch(one, other)
    del loader


def test_the_same_batches_as_sample_by_sample():
    """What a plain loader collates of single samples is what the cohort cuts at once."""
    cohort = mixed_cohort()
    single = [CohortDataset(cohort)[np.array([row])] for row in range(N)]

    def collate(samples):
        return {name: torch.cat([sample.values[name] for sample in samples]) for name in ("labs", "vitals", "x-ray")}

    plain = DataLoader(single, batch_size=16, collate_fn=collate)
    for one, other in zip(plain, make_loader(cohort, 16), strict=True):
        for name, values in one.items():
            assert torch.equal(values, other.values[name])


def test_batches_have_their_share_of_rows_with_a_label():
    labelled = np.arange(200) % 20 == 0  # 10 of 200
    batches = RowBatches(200, 16, shuffle=True, seed=0, labelled=labelled, labelled_share=0.25)
    rows = list(batches)
    assert len(rows) == len(batches) == 16  # 190 without, 63 with
    counts = np.array([labelled[part].sum() for part in rows[:-1]])
    assert counts.min() >= 3
    assert counts.max() <= 5
    drawn = np.concatenate(rows)
    assert sorted(drawn[~labelled[drawn]]) == np.flatnonzero(~labelled).tolist(), "every row without a label once"
    assert np.ptp(np.bincount(drawn, minlength=200)[labelled]) <= 1
    batches.set_epoch(1)
    assert not np.array_equal(np.concatenate(list(batches)), drawn)


def test_few_labels_make_short_epochs_in_which_the_other_rows_come_in_turn():
    """30 of 3,000: learnt by heart before all others have come once; so the weights are judged every 25 batches."""
    labelled = np.arange(3000) < 30
    batches = RowBatches(3000, 16, shuffle=True, seed=0, labelled=labelled, labelled_share=0.25)
    assert len(batches) == 25
    others = []
    for epoch in range(11):
        batches.set_epoch(epoch)
        rows = list(batches)
        assert [int(labelled[some].sum()) for some in rows] == [4] * 25
        seen = np.concatenate(rows)
        assert set(np.bincount(seen, minlength=30)[:30]) == {3, 4}
        others.append(seen[~labelled[seen]])
    assert len(np.unique(np.concatenate(others[:9]))) == 9 * 300  # none again before all have come
    assert len(np.unique(np.concatenate(others))) == 2970
    assert not np.array_equal(others[0], others[1])


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_many_labels_come_once_each(share: float):
    labelled = np.arange(90) % 3 > 0
    rows = np.concatenate(list(RowBatches(90, 9, shuffle=True, seed=0, labelled=labelled, labelled_share=share)))
    assert sorted(rows) == list(range(90))
    assert {int(labelled[part].sum()) for part in rows.reshape(10, 9)} == {6}


def test_a_share_of_labels_that_cannot_be():
    with pytest.raises(ConfigurationError, match="labelled_share is out of range"):
        RowBatches(5, 2, labelled_share=1.0)
