"""The copula figures: what they say is what the copulas and the histories hold."""

import re

import numpy as np
import pandas as pd
import pytest

from amodal.distributions.copula import Clayton, GaussianCopula, Gumbel, Independence
from amodal.errors import ShapeError
from amodal.metrics import METRICS, Interval
from amodal.report.copulas import copula_drawings, copulas_of_epochs, draw_copula_densities, draw_dependence, draw_sweep

HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "tau": [0.1, 0.2, 0.3], "latent_correlation": [0.0, 0.2, 0.4], "valid_loss": [1.0, 0.9, 0.8]}
)


def test_densities_of_families_side_by_side():
    copulas = {
        "gumbel": Gumbel.from_kendall_tau(0.5),
        "clayton": Clayton.from_kendall_tau(0.5),
        "gaussian": GaussianCopula.from_kendall_tau(0.5, 2),
        "independence": Independence(2),
        "another <name>": Gumbel(1.5),
    }
    svg = draw_copula_densities(copulas, key="families")
    for title in ("gumbel", "clayton", "gaussian", "independence"):
        assert f">{title}<" in svg
    assert "another &lt;name&gt;" in svg
    assert "gumbel (Kendall&#x27;s tau 0.50)" in svg
    assert "independence (Kendall&#x27;s tau 0.00)" in svg
    assert set(re.findall(r'id="(\w+)-', svg)) == {"families"}
    assert svg == draw_copula_densities(copulas, key="families")
    with pytest.raises(ShapeError, match="3"):
        draw_copula_densities({"three": Gumbel(2.0, 3)}, key="x")


def test_the_contours_are_those_of_a_bivariate_normal():
    """A Gaussian copula with normal margins: the level set is an ellipse of SciPy's density."""
    from matplotlib.figure import Figure
    from scipy.stats import multivariate_normal

    from amodal.report.copulas import _contours

    axes = Figure().subplots()
    _contours(axes, GaussianCopula([[1.0, 0.6], [0.6, 1.0]]))
    (drawn,) = [c for c in axes.collections if len(c.get_paths()) > 2]
    normal = multivariate_normal(cov=[[1.0, 0.6], [0.6, 1.0]])
    for level, path in zip((0.01, 0.03, 0.06), drawn.get_paths()):
        np.testing.assert_allclose(normal.pdf(path.vertices), level, rtol=0.05)


def test_dependence_over_epochs():
    svg = draw_dependence({"cm2": HISTORY, "fusion": HISTORY[["epoch", "valid_loss"]]}, key="d")
    assert "at the end: cm2 0.30." in svg
    assert "correlation of the vectors" in svg
    assert draw_dependence({"fusion": HISTORY[["epoch", "valid_loss"]]}, key="d") is None


def test_densities_over_epochs_have_the_histories_tau():
    found = copulas_of_epochs(HISTORY, "gumbel", [1, 3, 9])
    assert list(found) == ["epoch 1", "epoch 3"]
    assert [copula.kendall_tau().item() for copula in found.values()] == pytest.approx([0.1, 0.3])
    assert copulas_of_epochs(HISTORY.assign(tau=-0.2), "gumbel", [2]) == {}


def test_a_sweep_says_its_numbers():
    intervals = [Interval.from_values(v, np.array([v - 0.1, v, v + 0.1])) for v in (0.7, 0.75, 0.72)]
    svg = draw_sweep([1, 2, 3], intervals, METRICS["accuracy"], key="k", label="components")
    assert "accuracy by components: 1: 0.700, 2: 0.750, 3: 0.720." in svg


def test_a_run_with_a_copula_has_its_drawings(make_subject):
    runs = dict(zip(("cm2", "fusion"), make_subject().results.runs))
    histories = {"cm2": (HISTORY, 2), "fusion": (HISTORY[["epoch", "valid_loss"]], 1)}
    dependence, densities = copula_drawings(histories, runs)
    assert "at the end: cm2 0.30." in dependence.svg
    assert "epoch 1 (Kendall&#x27;s tau 0.10), epoch 2 (Kendall&#x27;s tau 0.20), epoch 3" in densities.svg
    assert copula_drawings({"fusion": histories["fusion"]}, runs) == []
