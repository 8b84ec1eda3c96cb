"""Summaries by stratum, against sums done by hand and statsmodels' distribution function."""

import numpy as np
import pandas as pd
import pytest
import torch
from statsmodels.distributions.empirical_distribution import ECDF

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.predictive_impact import (
    PlausibleLabels,
    ecdf,
    ecdf_table,
    plausible_labels_by_stratum,
    variability_by_stratum,
)


def test_distribution_function_equals_statsmodels():
    values = np.random.default_rng(0).integers(0, 20, 200) / 20
    points, heights = ecdf(torch.from_numpy(values))
    np.testing.assert_allclose(heights, ECDF(values)(points))
    assert heights[-1] == 1.0
    assert (np.diff(points) > 0).all()


def test_table_of_distribution_functions():
    rng = np.random.default_rng(0)
    missing, complete = rng.random(300), rng.random(200) / 2
    table = ecdf_table({"missing": missing, "complete": complete})
    assert table.index[0] == 0.0
    assert table.index[-1] == missing.max()
    np.testing.assert_allclose(table["complete"], ECDF(complete)(table.index))
    assert (table["complete"] >= table["missing"] - 0.02).all()
    with pytest.raises(ConfigurationError, match="nothing to tabulate"):
        ecdf_table({})


def test_values_by_age_group():
    rng = np.random.default_rng(0)
    age, value = rng.integers(18, 90, 100), rng.random(100)
    strata = pd.cut(age, [0, 40, 65, 120], labels=["young", "middle", "old"])
    table = variability_by_stratum(value, strata)
    assert list(table.index) == ["young", "middle", "old"]
    old = value[age > 65]
    row = table.loc["old"]
    assert row["cases"] == len(old)
    assert row["mean"] == pytest.approx(old.mean())
    assert row["standard_error"] == pytest.approx(old.std(ddof=1) / np.sqrt(len(old)))
    assert row["median"] == pytest.approx(np.median(old))
    assert row["upper_quartile"] == pytest.approx(np.quantile(old, 0.75))
    assert row["lower_quartile"] == pytest.approx(np.quantile(old, 0.25))


def test_label_shares_by_stratum():
    mass = np.array([[1.0, 0.0], [0.2, 0.8], [0.6, 0.4]])
    fraction = np.array([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]])
    plausible = PlausibleLabels([(0,), (1, 0), (0, 1)], torch.from_numpy(mass), torch.from_numpy(fraction))
    strata = np.array(["healthy", "ill", "ill"])
    table = plausible_labels_by_stratum(plausible, strata, classes=["lives", "dies"])
    assert table["cases"].tolist() == [1, 2]
    np.testing.assert_allclose(table.loc["ill", ["lives", "dies"]].to_numpy(float), [0.625, 0.375])
    by_mass = plausible_labels_by_stratum(plausible, strata, share="mass")
    np.testing.assert_allclose(by_mass.loc["ill", [0, 1]].to_numpy(float), [0.4, 0.6])
    with pytest.raises(ShapeError, match="one name for each class.*expected 2, got 3"):
        plausible_labels_by_stratum(plausible, strata, classes=["a", "b", "c"])
    with pytest.raises(ConfigurationError, match="'fraction' or 'mass', got 'share'"):
        plausible_labels_by_stratum(plausible, strata, share="share")


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match="expected 2 strata, got 3"):
        variability_by_stratum([0.1, 0.2], ["a", "b", "c"])
    with pytest.raises(DataError, match="cases without a stratum.*1 of 2"):
        variability_by_stratum([0.1, 0.2], ["a", None])
    with pytest.raises(DataError, match="1 of 2 NaN"):
        ecdf([0.1, np.nan])
    with pytest.raises(DataError, match="no cases"):
        ecdf([])
    with pytest.raises(ShapeError, match=r"shape \(N,\), got \(1, 2\)"):
        ecdf([[0.1, 0.2]])
