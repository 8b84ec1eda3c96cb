"""The 76 columns of the benchmark."""

import numpy as np

from amodal.data.sources.mimic.variables import COLUMNS, VARIABLES, encode_bins


def test_the_columns_are_those_of_the_benchmark():
    widths = [len(v.categories) or 1 for v in VARIABLES]
    assert len(VARIABLES) == 17
    assert [len(v.categories) for v in VARIABLES if v.categories] == [2, 8, 12, 13, 12]
    assert len(COLUMNS) == sum(widths) + 17 == 76
    assert len(set(COLUMNS)) == 76
    assert list(COLUMNS[:3]) == ["Capillary refill rate: 0.0", "Capillary refill rate: 1.0", "Diastolic blood pressure"]
    assert COLUMNS[-1] == "pH measured"
    items = [item for v in VARIABLES for item in v.items]
    assert len(items) == len(set(items))
    assert all(v.normal in v.categories for v in VARIABLES if v.categories)


def test_nothing_measured_is_normal_everywhere():
    nothing = np.zeros(0, np.int64)
    found = encode_bins(nothing, nothing, nothing, np.zeros(0), (2, 24))
    assert found.shape == (2, 24, 76)
    assert not found[:, :, -17:].any()
    row = dict(zip(COLUMNS, found[1, 23].tolist(), strict=True))
    assert row["Heart rate"] == 86
    assert row["GCS eye opening: 4 Spontaneously"] == 1
    assert row["Capillary refill rate: 0.0"] == 1


def test_categories_are_one_hot_in_every_bin_and_values_are_carried_forward():
    rng = np.random.default_rng(0)
    cells = rng.permutation(3 * 24 * 17)[:300]
    row, rest = np.divmod(cells, 24 * 17)
    time_bin, variable = np.divmod(rest, 17)
    counts = np.array([len(v.categories) for v in VARIABLES])
    value = np.where(counts[variable] > 0, rng.integers(0, 2, 300), rng.normal(50, 5, 300))
    found = encode_bins(row, time_bin, variable, value, (3, 24))
    start = 0
    for place, v in enumerate(VARIABLES):
        width = len(v.categories) or 1
        part = found[..., start : start + width]
        if v.categories:
            assert (part.sum(-1) == 1).all()
        current = np.full(3, v.categories.index(v.normal) if v.categories else v.normal, float)
        for t in range(24):
            here = (variable == place) & (time_bin == t)
            current[row[here]] = value[here]
            shown = part[:, t].argmax(-1) if v.categories else part[:, t, 0]
            np.testing.assert_allclose(shown, current, rtol=1e-6)
            assert set(np.flatnonzero(found[:, t, 59 + place])) == set(row[here])
        start += width
