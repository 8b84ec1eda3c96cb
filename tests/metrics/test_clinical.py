"""Rates at thresholds, net benefit and calibration against scikit-learn, statsmodels and closed form."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import confusion_matrix

from amodal.errors import ConfigurationError
from amodal.metrics import resample_counts
from amodal.metrics.clinical import calibration_fit, errors_at_thresholds, net_benefit

RNG = np.random.default_rng(0)
N = 300
LOGIT = RNG.normal(-0.5, 1.5, N)
RISK = 1 / (1 + np.exp(-LOGIT))
TARGET = (RNG.random(N) < 1 / (1 + np.exp(-(0.4 + 0.7 * LOGIT)))).astype(int)
AT = np.array([0.1, 0.25, 0.5, 0.9])
COUNTS = resample_counts(N, 5, np.random.default_rng(1))


def held(row: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(N), row)


def test_rates_equal_scikit_learn_in_every_resample():
    found = errors_at_thresholds(RISK, TARGET, AT, weight=COUNTS)
    for r, row in enumerate(COUNTS):
        y, p = TARGET[held(row)], RISK[held(row)]
        for t, threshold in enumerate(AT):
            tn, fp, fn, tp = confusion_matrix(y, p >= threshold).ravel()
            expected = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn), (tp + fp) / len(y))
            np.testing.assert_allclose([part[r, t] for part in found], expected, rtol=1e-12)


def test_net_benefit_by_its_definition():
    found = net_benefit(RISK, TARGET, AT, weight=COUNTS)
    for r, row in enumerate(COUNTS):
        y, p = TARGET[held(row)], RISK[held(row)]
        for t, threshold in enumerate(AT):
            tp, fp = ((p >= threshold) & (y == 1)).mean(), ((p >= threshold) & (y == 0)).mean()
            assert found[r, t] == pytest.approx(tp - fp * threshold / (1 - threshold), abs=1e-12)
    prevalence = TARGET.mean()
    everyone = net_benefit(np.ones(N), TARGET, AT)
    np.testing.assert_allclose(everyone, prevalence - (1 - prevalence) * AT / (1 - AT))
    assert net_benefit(np.zeros(N), TARGET, [0.2]).tolist() == [0.0]
    perfect = net_benefit(TARGET.astype(float), TARGET, AT)
    np.testing.assert_allclose(perfect, prevalence)


def test_calibration_equals_statsmodels_in_every_resample():
    found = calibration_fit(RISK, TARGET, weight=COUNTS)
    for r, row in enumerate(COUNTS):
        y, x = TARGET[held(row)], LOGIT[held(row)]
        slope = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial()).fit().params[1]
        intercept = sm.GLM(y, np.ones(len(y)), family=sm.families.Binomial(), offset=x).fit().params[0]
        assert found.slope[r] == pytest.approx(slope, rel=1e-6)
        assert found.intercept[r] == pytest.approx(intercept, abs=1e-6)
        assert found.observed_over_expected[r] == pytest.approx(y.sum() / RISK[held(row)].sum(), rel=1e-12)


def test_what_is_undefined_is_nan():
    fit = calibration_fit([0.2, 0.4], [0, 0])
    assert np.isnan([fit.slope, fit.intercept]).all()
    assert fit.observed_over_expected == 0
    assert np.isnan(calibration_fit([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]).slope), "separated: no largest likelihood"
    rates = errors_at_thresholds([0.2, 0.4], [0, 0], [0.5])
    assert np.isnan([rates.sensitivity[0], rates.positive_predictive_value[0]]).all()
    with pytest.raises(ConfigurationError, match="a threshold is out of range"):
        net_benefit([0.2], [0], [1.0])
