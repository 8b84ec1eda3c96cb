"""Distances between predictors and their noise floor."""

import numpy as np
import pytest
import torch

from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError
from amodal.predictive_impact import distance_table, total_variation


def predictions(seed: int, cases: int = 200, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), cases)


def test_total_variation_is_the_largest_difference_over_events():
    p, q = predictions(0), predictions(1)
    events = np.array([[c >> k & 1 for k in range(3)] for c in range(8)])
    np.testing.assert_allclose(total_variation(p, q), abs((p - q) @ events.T).max(1), atol=1e-12)
    assert isinstance(total_variation(torch.from_numpy(p), torch.from_numpy(q)), torch.Tensor)
    np.testing.assert_allclose(total_variation(p, p), 0.0)


def test_whole_triangle_with_noise_floor():
    names = ["missing", "complete", "unimodal", "multimodal"]
    given = {name: predictions(seed) for seed, name in enumerate(names)}
    again = {"unimodal": [predictions(7), predictions(8)], "multimodal": [predictions(9)]}
    table = distance_table(given, repeats=again).set_index(["first", "second"])
    assert len(table) == 6
    row = table.loc[("missing", "unimodal")]
    distances = abs(given["missing"] - given["unimodal"]).sum(1) / 2
    assert row["distance"] == pytest.approx(distances.mean())
    assert row["standard_error"] == pytest.approx(distances.std(ddof=1) / np.sqrt(200))
    runs = [given["unimodal"], *again["unimodal"]]
    floor = max(abs(runs[i] - runs[j]).sum(1).mean() / 2 for i, j in ((0, 1), (0, 2), (1, 2)))
    assert row["noise_floor"] == pytest.approx(floor)
    assert np.isnan(table.loc[("missing", "complete"), "noise_floor"])
    both = abs(given["multimodal"] - again["multimodal"][0]).sum(1).mean() / 2
    assert table.loc[("unimodal", "multimodal"), "noise_floor"] == pytest.approx(max(floor, both))


def test_distances_obey_the_triangle_inequality():
    table = distance_table({str(seed): predictions(seed) for seed in range(3)})["distance"]
    assert table[1] <= table[0] + table[2]


def test_chosen_pairs_and_tensors():
    given = {"a": torch.from_numpy(predictions(0)), "b": predictions(1), "c": predictions(2)}
    table = distance_table(given, pairs=[("c", "a")])
    assert table[["first", "second"]].to_numpy().tolist() == [["c", "a"]]


def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match="at least two predictors"):
        distance_table({"a": predictions(0)})
    with pytest.raises(UnknownNameError, match="unknown predictor 'oracel'.*Did you mean 'oracle'"):
        distance_table({"model": predictions(0), "oracle": predictions(1)}, repeats={"oracel": [predictions(2)]})
    with pytest.raises(ShapeError, match=r"expected \(200, 3\), got \(100, 3\)"):
        total_variation(predictions(0), predictions(1, cases=100))
    with pytest.raises(DataError, match="second predictions must be probabilities"):
        total_variation(predictions(0), 2 * predictions(1))
