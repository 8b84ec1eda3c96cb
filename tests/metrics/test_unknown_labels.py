"""Metrics of several labels of which some are unknown: scikit-learn on the known ones as the oracle."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from amodal.errors import ShapeError
from amodal.metrics import METRICS, bootstrap, resample_counts

N, K = 200, 3


@pytest.fixture
def scored():
    """Probabilities, and labels of which about a third is unknown; two cases have none that is known."""
    generator = np.random.default_rng(0)
    target = generator.integers(0, 2, (N, K)).astype(np.float64)
    probabilities = np.clip(0.2 + 0.5 * target + generator.normal(0, 0.2, (N, K)), 0.01, 0.99)
    target[generator.random((N, K)) < 0.3] = np.nan
    target[:2] = np.nan
    return probabilities, target


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("auroc", lambda y, p: roc_auc_score(y, p)),
        ("auprc", lambda y, p: average_precision_score(y, p)),
        ("balanced_accuracy", lambda y, p: balanced_accuracy_score(y, p > 0.5)),
    ],
)
def test_macro_means_are_over_the_known_cases_of_each_label(scored, name, oracle):
    p, y = scored
    known = ~np.isnan(y)
    expected = np.mean([oracle(y[known[:, k], k], p[known[:, k], k]) for k in range(K)])
    assert METRICS[name](p, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("accuracy", lambda y, p: float(((p > 0.5) == y).mean())),
        ("brier", brier_score_loss),
        ("nll", lambda y, p: log_loss(y, p, labels=[0, 1])),
    ],
)
def test_scores_of_a_case_are_over_its_known_labels(scored, name, oracle):
    p, y = scored
    rows = [(y[i, known], p[i, known]) for i in range(N) if (known := ~np.isnan(y[i])).any()]
    assert METRICS[name](p, y) == pytest.approx(np.mean([oracle(*row) for row in rows]), abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "auroc", "auprc", "nll", "brier"])
def test_a_weighted_value_is_that_of_the_cases_repeated(scored, name):
    p, y = scored
    counts = resample_counts(N, 20, np.random.default_rng(1))
    values = METRICS[name](p, y, weight=counts)
    for drawn, value in zip(counts, values):
        rows = np.repeat(np.arange(N), drawn)
        assert value == pytest.approx(METRICS[name](p[rows], y[rows]), abs=1e-12)


@pytest.mark.parametrize("name", [name for name, m in METRICS.items() if "many_labels" in m.forms])
def test_a_label_that_is_never_known_counts_nowhere(scored, name):
    p, y = scored
    metric, never = METRICS[name], np.column_stack([y, np.full(N, np.nan)])
    wider = np.column_stack([p, np.full(N, 0.9)])
    assert metric(wider, never) == pytest.approx(metric(p, y), abs=1e-12)
    found = bootstrap(metric, wider, never, generator=np.random.default_rng(0), resamples=50)
    assert found.low <= found.estimate <= found.high
    assert found.note == ("3 of 4 labels" if metric.over_labels else None)


@pytest.mark.parametrize("name", [name for name, m in METRICS.items() if "many_labels" in m.forms])
def test_without_a_known_label_every_metric_is_undefined(name):
    assert np.isnan(METRICS[name](np.full((5, 2), 0.5), np.full((5, 2), np.nan)))


def test_weights_of_another_length_are_refused(scored):
    with pytest.raises(ShapeError, match="weights do not fit"):
        METRICS["auroc"](*scored, weight=np.ones(N - 1))
