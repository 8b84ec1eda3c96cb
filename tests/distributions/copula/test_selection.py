"""Choice of a family and intervals of parameters: found families, false alarms, coverage inside the domain."""

import numpy as np
import pytest
import pyvinecopulib as pv
import torch

from amodal.distributions.copula import (
    Clayton,
    Frank,
    GaussianCopula,
    Gumbel,
    Independence,
    Joe,
    Rotated,
    StudentTCopula,
    parameter_intervals,
    select_family,
)
from amodal.errors import ConfigurationError, DataError

R3 = [[1.0, 0.6, 0.2], [0.6, 1.0, -0.3], [0.2, -0.3, 1.0]]


def draws(copula, n=1000, seed=0):
    return copula.sample(n, generator=torch.Generator().manual_seed(seed)).double()


def noise(n, dim=2, seed=0):
    return torch.rand(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- families


@pytest.mark.parametrize(
    "truth",
    [
        Clayton(2.0),
        Rotated(Clayton(2.0), 180),
        Rotated(Gumbel(2.0), 90),
        Frank(-5.0),
        GaussianCopula(0.6),
    ],
)
def test_the_family_is_found(truth):
    u = draws(truth, 1500)
    result = select_family(u)
    assert type(result.copula) is type(truth)
    if isinstance(truth, Rotated):
        assert type(result.copula.base) is type(truth.base)
        assert result.copula.degrees == truth.degrees
    table = result.table
    assert list(table.columns) == ["family", "rotation", "parameters", "log_likelihood", "aic", "bic", "tau", "chosen"]
    assert table["chosen"].tolist() == [True] + [False] * (len(table) - 1)
    assert table["aic"].is_monotonic_increasing
    assert table["aic"].iloc[0] == pytest.approx(result.copula.aic(u))
    np.testing.assert_allclose(table["aic"], 2 * table["parameters"] - 2 * table["log_likelihood"])
    np.testing.assert_allclose(table["bic"], np.log(1500) * table["parameters"] - 2 * table["log_likelihood"])
    assert set(np.sign(table["tau"])) <= {0.0, np.sign(result.independence.tau[0, 1].item())}


def test_independent_data_are_called_independent_as_often_as_the_level_says():
    """Without the test of independence, the criterion alone prefers some family in nearly half of the sets."""
    results = [select_family(noise(150, seed=seed), ["independence", "clayton", "frank", "joe"]) for seed in range(25)]
    false = sum(not isinstance(result.copula, Independence) for result in results)
    by_criterion = sum(result.table["family"].iloc[0] != "independence" for result in results)
    assert false <= 5  # 1.25 expected; more with probability 0.002
    assert by_criterion >= 6


def test_weak_but_certain_dependence_is_not_called_independent():
    result = select_family(draws(Gumbel(1.15), 2000))
    assert result.independence.p_value < 1e-6
    assert not isinstance(result.copula, Independence)


def test_only_what_is_asked_for_is_compared():
    result = select_family(noise(500, seed=3), ["clayton", "t"], rotations=False)
    assert isinstance(result.copula, (Clayton, StudentTCopula))  # independence is not one of them
    assert set(result.table["family"]) <= {"clayton", "t"}
    strict = select_family(draws(StudentTCopula(R3, df=3.0), 600), ["student_t", "gaussian"], criterion="bic")
    assert isinstance(strict.copula, StudentTCopula)
    negative = select_family(draws(GaussianCopula(-0.6)), ["clayton", "gaussian"], rotations=False)
    assert negative.table["family"].tolist() == ["gaussian"]  # Clayton cannot
    with pytest.raises(DataError, match="depend negatively, which Clayton cannot"):
        select_family(draws(GaussianCopula(-0.6)), ["clayton", "independence"], rotations=False)
    with pytest.raises(ConfigurationError, match="a family to choose from"):
        select_family(noise(50), [])
    for level in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigurationError, match="level is not a probability"):
            select_family(noise(50), level=level)
        with pytest.raises(ConfigurationError, match="level is not a probability"):
            parameter_intervals(Gumbel(2.0), noise(50), level=level)
    with pytest.raises(ConfigurationError, match="expected 'aic' or 'bic', got 'caic'"):
        select_family(noise(50), criterion="caic")


@pytest.mark.parametrize(
    ("family", "other"),
    [(Gumbel, pv.BicopFamily.gumbel), (Frank, pv.BicopFamily.frank), (Clayton, pv.BicopFamily.clayton)],
)
def test_criteria_agree_with_pyvinecopulib(family, other):
    u = draws(family.from_kendall_tau(0.4), 400)
    reference = pv.Bicop(other)
    reference.fit(u.numpy())
    copula = family.fit(u)
    assert copula.aic(u) == pytest.approx(reference.aic(u.numpy()), abs=1e-3)
    assert copula.bic(u) == pytest.approx(reference.bic(u.numpy()), abs=1e-3)


def test_parameters_are_counted():
    counts = [(Independence(3), 0), (Gumbel(2.0, 3), 1), (GaussianCopula(R3), 3), (StudentTCopula(R3), 4)]
    for copula, expected in [*counts, (Rotated(Joe(2.0), 90), 1), (GaussianCopula(R3).margin([0, 2]), 1)]:
        assert copula.parameter_count == expected


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("truth", "least"),
    [(Gumbel(1.8), 1.0), (Gumbel(1.05), 1.0), (Clayton(0.1), 0.0), (Joe(1.05), 1.0), (Frank(0.3), -np.inf)],
)
def test_intervals_stay_inside_the_domain_and_cover_as_often_as_they_say(truth, least):
    covered, sets = 0, 40
    for seed in range(sets):
        u = draws(truth, 200, seed)
        lower, upper = parameter_intervals(type(truth).fit(u), u, level=0.9)["theta"].tolist()
        assert least <= lower < upper
        covered += lower <= truth.theta.item() <= upper
    assert covered >= 30  # 36 expected; this is 3.2 standard errors away


def test_the_interval_is_where_the_likelihood_ratio_has_its_critical_value():
    u = draws(Gumbel(1.8), 300)
    fitted = Gumbel.fit(u)
    for end in parameter_intervals(fitted, u)["theta"]:
        ratio = 2 * (fitted.log_density(u).sum() - Gumbel(end).log_density(u).sum())
        assert ratio.item() == pytest.approx(3.8414588, rel=1e-4)
    turned = parameter_intervals(Rotated(fitted, 180), 1 - u)["theta"]
    torch.testing.assert_close(turned, parameter_intervals(fitted, u)["theta"])


def test_intervals_of_correlations():
    near = draws(GaussianCopula(0.995), 60)
    lower, upper = parameter_intervals(GaussianCopula.fit(near), near)["correlation"][0].tolist()
    assert -1 < lower < 0.995 < upper < 1
    covered = 0
    for seed in range(40):
        u = draws(GaussianCopula(R3), 200, seed)
        ends = parameter_intervals(GaussianCopula.fit(u), u, level=0.9)["correlation"]
        covered += ((ends[:, 0] < torch.tensor([0.6, 0.2, -0.3])) & (ends[:, 1] > torch.tensor([0.6, 0.2, -0.3]))).sum()
    assert 96 <= covered <= 120  # 108 expected of 120


def test_copulas_without_one_parameter_have_no_interval():
    u = noise(50, 3)
    for copula in (Independence(3), Gumbel(torch.tensor([1.5, 2.0]), 3), GaussianCopula(R3).margin([0, 1])):
        with pytest.raises(ConfigurationError, match="no parameters of its own to give an interval for"):
            parameter_intervals(copula, u[:, : copula.dim])
