"""Statistics in chunks equal numpy's and pandas' over everything at once."""

import numpy as np
import pandas as pd
import pytest

from amodal.data import Cohort
from amodal.data.moments import moments, quartiles, summaries, usable
from amodal.schema import Task

from .cohorts import N, mixed_cohort


def known_cells(cohort, name):
    """All measured cells of present rows as a frame of features, padding left out; by a loop."""
    batch = cohort.batch(np.arange(len(cohort)))
    values = batch.values[name].double().numpy()
    values[~batch.measured[name].numpy() if name in batch.measured else np.zeros(values.shape, bool)] = np.nan
    rows = []
    for row in np.flatnonzero(cohort.observed[:, cohort.schema.names.index(name)]):
        kept = values[row, : batch.lengths[name][row]] if name in batch.lengths else values[row]
        kept = np.moveaxis(kept, 0, -1) if kept.ndim == 3 else kept
        rows.append(kept.reshape(-1, kept.shape[-1]))
    return pd.DataFrame(np.concatenate(rows))


@pytest.mark.parametrize("chunk", [1, 130, 2**24])
@pytest.mark.parametrize("name", ["labs", "vitals", "waves", "x-ray"])
def test_moments_and_quartiles(monkeypatch, name, chunk):
    monkeypatch.setattr("amodal.data.store.CHUNK_BYTES", chunk)
    cohort = mixed_cohort().take(np.random.default_rng(0).permutation(N)[:30])
    cells, modality = known_cells(cohort, name), cohort.schema[name]
    mean, spread = moments(cohort.cuts(name), modality)
    np.testing.assert_allclose(mean, cells.mean(), rtol=1e-9)
    np.testing.assert_allclose(spread, cells.std(ddof=0), rtol=1e-9)
    centre, scale = quartiles(cohort.cuts(name), modality)
    np.testing.assert_allclose(centre, cells.median(), rtol=1e-6)
    np.testing.assert_allclose(scale, (cells.quantile(0.75) - cells.quantile(0.25)) / 1.3489795, rtol=1e-6)


def test_padding_does_not_count_whatever_it_holds():
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4, 1)
    values[0, 2:], values[1, 1:] = np.inf, np.nan
    lengths = np.array([2, 1, 4])
    cohort = Cohort.from_arrays({"s": values}, task=Task("regression"), lengths={"s": lengths})
    known = [0, 1, 4, 8, 9, 10, 11]
    mean, spread = moments(cohort.cuts("s"), cohort.schema["s"])
    assert (mean[0], spread[0]) == (pytest.approx(np.mean(known)), pytest.approx(np.std(known)))
    assert quartiles(cohort.cuts("s"), cohort.schema["s"])[0][0] == 8


def test_a_large_offset_costs_no_digits():
    values = (1e6 + np.random.default_rng(0).integers(0, 3, (10_000, 1))).astype(np.float32)
    cohort = Cohort.from_arrays({"t": values}, task=Task("regression"))
    _, spread = moments(cohort.cuts("t"), cohort.schema["t"])
    assert spread[0] == pytest.approx(values.astype(np.float64).std(), rel=1e-10)


def test_summaries_are_means_of_standardised_cells():
    cohort = mixed_cohort()
    batch, modality = cohort.batch(np.arange(N)), cohort.schema["vitals"]
    mean, scale = np.array([10.0, 9.0]), np.array([2.0, 4.0])
    summary = summaries(cohort.cuts("vitals"), modality, N, mean, scale)
    for row in range(N):
        cells = ((batch.values["vitals"][row].double().numpy() - mean) / scale)[batch.measured["vitals"][row].numpy()]
        if len(cells):
            assert summary[row] == pytest.approx(cells.mean())
        else:
            assert np.isnan(summary[row])


def test_scales_of_constant_features_are_one():
    mean = np.array([1e6, 0.0, 5.0, 0.0])
    np.testing.assert_array_equal(usable(np.array([1e-3, 0.0, 0.1, 1e-9]), mean), [1, 1, 0.1, 1e-9])
