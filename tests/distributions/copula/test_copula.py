"""Every family against other libraries, exact derivatives, integrals and the axioms of a copula."""

import copy
import math

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
import pyvinecopulib as pv
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.distributions.copula import api as statsmodels_copula

from amodal.distributions.copula import (
    Clayton,
    Frank,
    GaussianCopula,
    Gumbel,
    Independence,
    Joe,
    Rotated,
    StudentTCopula,
    copula_family,
)
from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError

F64 = torch.float64
GRID = np.array([0.001, 0.02, 0.1, 0.3, 0.5, 0.75, 0.95, 0.999])
SQUARE = np.stack(np.meshgrid(GRID, GRID), -1).reshape(-1, 2)
R2 = [[1.0, 0.5], [0.5, 1.0]]
R3 = [[1.0, 0.5, 0.3], [0.5, 1.0, 0.4], [0.3, 0.4, 1.0]]

ARCHIMEDEAN = [
    (Clayton, 0.05),
    (Clayton, 2.0),
    (Clayton, 15.0),
    (Gumbel, 1.05),
    (Gumbel, 2.0),
    (Gumbel, 10.0),
    (Frank, -15.0),
    (Frank, -0.1),
    (Frank, 3.0),
    (Frank, 20.0),
    (Joe, 1.05),
    (Joe, 2.0),
    (Joe, 10.0),
]
ELLIPTICAL = [(-0.9, None), (0.3, None), (0.95, None), (-0.8, 2.0), (0.3, 4.0), (0.9, 7.5), (0.5, 30.0)]


def pair(rho):
    return [[1.0, rho], [rho, 1.0]]


def elliptical(rho, df):
    return GaussianCopula(pair(rho)) if df is None else StudentTCopula(pair(rho), df=df)


def some(dim, n=20, seed=0, low=0.02, high=0.98):
    return torch.rand(n, dim, dtype=F64, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def every(dim):
    """One copula of each family."""
    correlation = R2 if dim == 2 else R3
    return [
        Clayton(2.0, dim),
        Gumbel(1.7, dim),
        Frank(4.0, dim),
        Joe(2.0, dim),
        GaussianCopula(correlation),
        StudentTCopula(correlation, df=4.0),
        Independence(dim),
    ]


def named(copulas):
    return [pytest.param(c, id=type(c).__name__) for c in copulas]


# ---------------------------------------------------------------- values from outside

POINTS = [
    (0.3, 0.4),
    (0.1, 0.9),
    (0.3, 0.4, 0.5),
    (0.1, 0.9, 0.5),
    (0.99, 0.98, 0.97),
    (0.001, 0.002, 0.003),
    (0.3, 0.4, 0.5, 0.6),
    (0.2, 0.2, 0.8, 0.7, 0.5),
]
TABLE = {  # generator differentiation with 60 digits
    (Clayton, 2): (
        0.472134784,
        -3.19633368,
        0.776849698,
        -4.21818458,
        2.47997203,
        10.0692327,
        0.896654484,
        -1.57215073,
    ),
    (Gumbel, 2): (0.384688117, -2.62318353, 0.710185375, -2.70705096, 5.52876024, 6.5712815, 0.930545083, -1.1294608),
    (Frank, 5): (0.372005314, -2.38950286, 0.660278358, -2.61028178, 3.39259306, 3.20240032, 0.81431486, -1.45586568),
    (Joe, 2): (0.240154651, -1.50100244, 0.413941112, -1.40242421, 5.50394455, 1.38028744, 0.524121768, -0.508417221),
    (Clayton, 8): (
        0.609433215,
        -15.2752116,
        -0.0933345606,
        -24.6243623,
        4.23755494,
        2.707455595,
        -2.03341987,
        -17.3687446,
    ),
    (Gumbel, 5): (0.833280188, -11.2253116, 1.0628228, -13.7839809, 4.18085531, 9.32277222, 0.343733671, -10.0630991),
    (Frank, 20): (0.742468751, -13.0042679, 0.255397329, -17.3863455, 5.09362108, 5.87164541, -1.8028507, -16.3201409),
}


@pytest.mark.parametrize(("family", "theta"), TABLE)
def test_reference_table(family, theta):
    for point, expected in zip(POINTS, TABLE[family, theta], strict=True):
        u = torch.tensor([point], dtype=F64)
        value = family(theta, dim=len(point)).log_density(u)
        assert value.item() == pytest.approx(expected, rel=1e-8)
        # the path for incomplete rows is another one
        assert family(theta, len(point)).log_density(u, torch.ones_like(u, dtype=torch.bool)).item() == pytest.approx(
            value.item(), rel=1e-13
        )


@pytest.mark.parametrize(
    ("copula", "expected"),
    [
        (GaussianCopula, (0.17588116, -1.49853338, 0.25664483, -1.44309138, 3.11307419)),
        (StudentTCopula, (0.27397385, -1.04853427, 0.52649612, -1.36437938, 3.93512912)),
    ],
)
def test_reference_table_of_the_elliptical(copula, expected):
    for point, value in zip(POINTS[:5], expected, strict=True):
        u = torch.tensor([point], dtype=F64)
        assert copula(R2 if len(point) == 2 else R3).log_density(u).item() == pytest.approx(value, abs=2e-8)


@pytest.mark.parametrize(
    ("copula", "expected"),
    [
        (Frank(0.1, 3), 4.16986e-3),
        (Frank(1e-3, 3), 4.00163e-5),
        (Clayton(1e-3, 3), -5.27628e-5),
        (Gumbel(1 + 1e-6, 3), 8.42005e-7),
        (Joe(1 + 1e-6, 3), 6.96791e-7),
    ],
)
def test_values_next_to_independence(copula, expected):
    assert copula.log_density(torch.tensor([[0.3, 0.4, 0.5]], dtype=F64)).item() == pytest.approx(expected, rel=2e-6)


def _vinecopulib(copula, rotation=0):
    family = pv.BicopFamily
    if isinstance(copula, StudentTCopula):
        return pv.Bicop(family.student, 0, np.array([[copula.correlation[0, 1].item()], [copula.df]]))
    if isinstance(copula, GaussianCopula):
        return pv.Bicop(family.gaussian, 0, np.array([[copula.correlation[0, 1].item()]]))
    kind = {Clayton: family.clayton, Gumbel: family.gumbel, Frank: family.frank, Joe: family.joe}[type(copula)]
    return pv.Bicop(kind, rotation, np.array([[copula.theta.item()]]))


@pytest.mark.parametrize(
    ("copula", "rotation"),
    [(f(t), r) for f, t in ARCHIMEDEAN for r in ((0,) if f is Frank else (0, 90, 180, 270))]
    + [(elliptical(rho, df), 0) for rho, df in ELLIPTICAL],
)
def test_pairs_agree_with_pyvinecopulib(copula, rotation):
    other = _vinecopulib(copula, rotation)
    ours = Rotated(copula, rotation) if rotation else copula
    u = torch.from_numpy(SQUARE)
    np.testing.assert_allclose(ours.log_density(u).exp(), other.pdf(SQUARE), rtol=1e-8)
    # pyvinecopulib cancels digits in Frank's distribution function, and interpolates that of t in df
    atol = 1e-5 if isinstance(copula, Frank) else 5e-11
    np.testing.assert_allclose(ours.conditional_cdf(u, 1), other.hfunc1(SQUARE), atol=atol)
    np.testing.assert_allclose(ours.conditional_cdf(u, 0), other.hfunc2(SQUARE), atol=atol)
    if not (isinstance(copula, StudentTCopula) and copula.df != int(copula.df)):
        np.testing.assert_allclose(ours.log_cdf(u).exp(), other.cdf(SQUARE), atol=1e-6 if atol > 1e-6 else 1e-12)
    tau = ours.kendall_tau()
    tau = tau if tau.ndim == 0 else tau[0, 1]
    assert tau.item() == pytest.approx(float(other.tau), abs=1e-9)


@pytest.mark.parametrize(
    ("copula", "other"),
    [
        (Clayton(2.0), statsmodels_copula.ClaytonCopula(2.0)),
        (Gumbel(2.0), statsmodels_copula.GumbelCopula(2.0)),
        (Frank(5.0), statsmodels_copula.FrankCopula(5.0)),
        (Clayton(2.0, 3), statsmodels_copula.ClaytonCopula(2.0, k_dim=3)),
        (GaussianCopula(R3), statsmodels_copula.GaussianCopula(corr=np.array(R3), k_dim=3)),
        (StudentTCopula(R3, df=5.0), statsmodels_copula.StudentTCopula(corr=np.array(R3), df=5.0, k_dim=3)),
    ],
    ids=lambda c: type(c).__name__,
)
def test_densities_agree_with_statsmodels(copula, other):
    u = some(copula.dim, 60)
    np.testing.assert_allclose(copula.log_density(u).exp(), other.pdf(u.numpy()), rtol=1e-8)


@pytest.mark.parametrize("dim", [3, 4, 6, 9])
@pytest.mark.parametrize(
    ("family", "theta"), [(Clayton, 1.5), (Gumbel, 1.3), (Gumbel, 4.0), (Frank, 6.0), (Joe, 1.2), (Joe, 3.0)]
)
def test_density_of_any_dimension_is_the_derivative_of_the_generator(family, theta, dim):
    u = some(dim, 2, seed=dim)
    value = family(theta, dim).log_density(u)
    with mp.workdps(60):
        t = mp.mpf(theta)
        psi, phi = {
            Clayton: (lambda s: (1 + s) ** (-1 / t), lambda v: v**-t - 1),
            Gumbel: (lambda s: mp.exp(-(s ** (1 / t))), lambda v: (-mp.log(v)) ** t),
            Frank: (
                lambda s: -mp.log(1 - (1 - mp.exp(-t)) * mp.exp(-s)) / t,
                lambda v: -mp.log((1 - mp.exp(-t * v)) / (1 - mp.exp(-t))),
            ),
            Joe: (lambda s: 1 - (1 - mp.exp(-s)) ** (1 / t), lambda v: -mp.log(1 - (1 - v) ** t)),
        }[family]
        for row, ours in zip(u.tolist(), value.tolist(), strict=True):
            total = sum(phi(mp.mpf(v)) for v in row)
            derivative = mp.taylor(psi, total, dim)[dim] * mp.factorial(dim) * (-1) ** dim
            slopes = [-mp.diff(phi, mp.mpf(v)) for v in row]
            expected = mp.log(derivative) + sum(mp.log(s) for s in slopes)
            assert ours == pytest.approx(float(expected), rel=1e-8, abs=1e-10)


def test_the_three_dimensional_gumbel_density_as_printed_is_another_function():
    u = torch.tensor([0.3, 0.4, 0.5], dtype=F64)
    x, alpha = -u.log(), 2.0
    h = (x**alpha).sum()
    slopes = (x ** (alpha - 1) / u).prod()
    bracket = alpha**6 * h ** (3 * alpha - 3) - 3 * (alpha - 1) * alpha**5 * h ** (2 * alpha - 3)
    printed = torch.exp(-(h**alpha)) * slopes * (bracket + (alpha - 2) * (alpha - 1) * alpha**4 * h ** (alpha - 3))
    true = Gumbel(alpha, 3).log_density(u.unsqueeze(0)).exp().item()
    assert true == pytest.approx(2.0344, rel=1e-4)
    assert abs(printed.item() - true) > 1.0


# ---------------------------------------------------------------- what makes it a density and a copula


@pytest.mark.parametrize("copula", named([*every(2), Rotated(Clayton(2.0), 90), Frank(-4.0), Gumbel(6.0)]))
def test_density_integrates_to_one_over_each_margin(copula):
    nodes, weights = np.polynomial.legendre.leggauss(400)
    score = torch.from_numpy(nodes) * 8
    weight = torch.from_numpy(weights) * 8 * torch.exp(-0.5 * score**2) / math.sqrt(2 * math.pi)
    v = torch.tensor([0.05, 0.4, 0.9], dtype=F64)
    points = torch.cartesian_prod(v, torch.special.ndtr(score)).reshape(3, 400, 2).clamp(1e-15, 1 - 1e-15)
    np.testing.assert_allclose((copula.log_density(points).exp() * weight).sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize("copula", named(every(3)))
def test_integrating_out_a_margin_leaves_the_copula_of_the_others(copula):
    nodes, weights = np.polynomial.legendre.leggauss(400)
    score = torch.from_numpy(nodes) * 8
    weight = torch.from_numpy(weights) * 8 * torch.exp(-0.5 * score**2) / math.sqrt(2 * math.pi)
    for row in some(2, 3):
        points = torch.cat([row.expand(400, 2), torch.special.ndtr(score).unsqueeze(1)], 1)
        total = (copula.log_density(points).exp() * weight).sum()
        kept = torch.tensor([True, True, False])
        expected = copula.log_density(torch.cat([row, torch.tensor([torch.nan], dtype=F64)]), kept).exp()
        assert total.item() == pytest.approx(expected.item(), rel=2e-4)


@pytest.mark.parametrize(
    "copula",
    named([*every(2)[:-1], *every(3)[:4], Gumbel(1.3, 4), Frank(-3.0), Rotated(Joe(2.0), 270), Clayton(0.3, 4)]),
)
def test_density_is_the_mixed_derivative_of_the_distribution_function(copula):
    u = some(copula.dim, 6, low=0.1, high=0.9).requires_grad_()
    value = copula.log_cdf(u).exp()
    for margin in range(copula.dim):
        value = torch.autograd.grad(value.sum(), u, create_graph=True)[0][:, margin]
    np.testing.assert_allclose(value.detach(), copula.log_density(u).exp().detach(), rtol=1e-8)


@pytest.mark.parametrize("copula", named([*every(2), Rotated(Gumbel(2.0), 90), Rotated(Gumbel(2.0), 180)]))
def test_axioms_at_the_edges(copula):
    v = some(1, 10)
    ones, zeros = torch.ones_like(v), torch.zeros_like(v)
    np.testing.assert_allclose(copula.log_cdf(torch.cat([v, ones], 1)).exp(), v[:, 0], rtol=1e-12)
    np.testing.assert_allclose(copula.log_cdf(torch.cat([ones, v], 1)).exp(), v[:, 0], rtol=1e-12)
    assert bool((copula.log_cdf(torch.cat([v, zeros], 1)) == -torch.inf).all())
    assert copula.log_cdf(torch.ones(1, 2, dtype=F64)).item() == 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["clayton", "gumbel", "frank", "joe", "gaussian", "student_t"]),
    st.floats(0.01, 0.9),
    st.tuples(*[st.floats(1e-6, 1 - 1e-6)] * 4),
)
def test_copulas_are_increasing_on_rectangles_and_between_the_bounds(name, tau, corners):
    copula = copula_family(name).from_kendall_tau(tau)
    (a, b), (c, d) = sorted(corners[:2]), sorted(corners[2:])
    u = torch.tensor([[b, d], [a, d], [b, c], [a, c]], dtype=F64)
    value = copula.log_cdf(u).exp()
    assert (value[0] - value[1] - value[2] + value[3]).item() >= -1e-12
    assert bool((value <= u.min(1).values + 1e-12).all())
    assert bool((value >= (u.sum(1) - 1).clamp_min(0) - 1e-12).all())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([Clayton, Gumbel, Frank, Joe]),
    st.floats(0.0, 0.95),
    st.integers(2, 5),
    st.integers(0, 10_000),
)
def test_archimedean_copulas_do_not_depend_on_the_order_of_margins(family, tau, dim, seed):
    copula = family.from_kendall_tau(tau, dim) if tau > 0 else family.from_kendall_tau(1e-9, dim)
    u = some(dim, 3, seed=seed, low=1e-6, high=1 - 1e-6)
    order = torch.randperm(dim, generator=torch.Generator().manual_seed(seed))
    value = copula.log_density(u)
    assert bool(torch.isfinite(value).all())
    np.testing.assert_allclose(copula.log_density(u[:, order]), value, rtol=1e-7, atol=1e-9)


def test_the_distribution_function_is_no_substitute_for_the_density():
    """The released CM2 code maximises log C for Gumbel. It does not integrate to one, and any data raise theta."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(60))
    u, w = (nodes + 1) / 2, weights / 2
    square = torch.cartesian_prod(u, u)
    area = torch.cartesian_prod(w, w).prod(1)
    masses = []
    for theta in (1.0, 2.0, 5.0):
        copula = Gumbel(theta)
        assert (copula.log_density(square).exp() * area).sum().item() == pytest.approx(1.0, abs=0.01)
        masses.append((copula.log_cdf(square).exp() * area).sum().item())
    assert masses[0] == pytest.approx(0.25, abs=1e-6)  # not 1, and it grows with theta: (3 + Spearman's rho) / 12
    assert masses[0] < masses[1] < masses[2] < 1 / 3

    noise = torch.rand(2000, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    thetas = {}
    for score in ("log_cdf", "log_density"):
        copula = Gumbel.from_kendall_tau(0.1, learnable=True)
        optimiser = torch.optim.Adam(copula.parameters(), lr=0.05)
        for _ in range(150):
            optimiser.zero_grad()
            (-getattr(copula, score)(noise).mean()).backward()
            optimiser.step()
        thetas[score] = copula.kendall_tau().item()
    assert thetas["log_cdf"] > 0.7
    assert abs(thetas["log_density"]) < 0.02


# ---------------------------------------------------------------- what goes wrong, and what is said


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: Gumbel(0.9),
            r"theta of Gumbel with 2 margins is outside its domain \(expected theta >= 1, finite, got theta = 0.9",
        ),
        (lambda: Joe(float("nan")), "theta of Joe .* got theta = nan"),
        (lambda: Clayton(0.0), r"expected theta > 0.*Independence\(\)"),
        (lambda: Clayton(torch.tensor([1.0, -2.0])), "got theta = -2.0"),
        (lambda: Frank(-1.0, 3), "theta of Frank with 3 margins .* theta > 0"),
        (lambda: Gumbel(float("inf")), "got theta = inf"),
        (lambda: Gumbel(2.0, dim=1), "a copula joins at least two margins .*got dim = 1"),
        (lambda: GaussianCopula([[1.0]]), "at least two margins"),
        (lambda: GaussianCopula([[1.0, 1.0], [1.0, 1.0]]), "singular or not positive definite .*Remove margins"),
        (lambda: GaussianCopula([[2.0, 0.0], [0.0, 2.0]]), "not a correlation matrix .*ones on the diagonal"),
        (lambda: GaussianCopula([[1.0, 0.2], [0.3, 1.0]]), "not a correlation matrix"),
        (lambda: StudentTCopula(R2, df=0.0), "df of StudentTCopula is out of range"),
        (lambda: StudentTCopula(R2, df=1e6), "use GaussianCopula"),
        (lambda: Rotated(Clayton(2.0, 3), 90), "rotation is for two margins"),
        (lambda: Rotated(Clayton(2.0), 45), "90, 180 or 270 degrees, got 45"),
        (lambda: Gumbel.from_kendall_tau(-0.2), "no Gumbel copula of 2 margins has this Kendall's tau .*Rotated"),
        (lambda: GaussianCopula.from_kendall_tau(1.0), "Kendall's tau is out of range"),
        (lambda: Gumbel("two"), "theta is not a number .*got 'two'"),
        (lambda: Frank.from_kendall_tau(None), "tau is not a number .*got None"),
        (lambda: GaussianCopula([[1.0, "a"], ["a", 1.0]]), "correlation is not a number"),
        (lambda: StudentTCopula(R2, df="4"), "df of StudentTCopula is out of range .*got df = 4"),
    ],
)
def test_parameters_outside_their_domain(build, words):
    with pytest.raises(ConfigurationError, match=words):
        build()


@pytest.mark.parametrize("bad", [0.0, 1.0, math.nan, -0.1, 1.1])
def test_points_that_have_no_density(bad):
    u = some(2, 4)
    u[2, 1] = bad
    for copula in every(2):
        with pytest.raises(DataError, match=r"not inside \(0, 1\) .*got u\[2, 1\] = .*pseudo_observations"):
            copula.log_density(u)
    if not 0 <= bad <= 1:
        with pytest.raises(DataError, match="not a probability"):
            Gumbel(2.0).log_cdf(u)


def test_wrong_shapes_and_names():
    with pytest.raises(ShapeError, match=r"margins of this Gumbel \(expected shape \(…, 3\), got shape \(4, 2\)"):
        Gumbel(2.0, 3).log_density(some(2, 4))
    with pytest.raises(ShapeError, match="correlation must be a matrix"):
        GaussianCopula([0.5, 0.5])
    with pytest.raises(ShapeError, match="observed must be bool"):
        Gumbel(2.0).log_density(some(2, 4), torch.ones(4, 2))
    with pytest.raises(ShapeError, match="no such margin"):
        Gumbel(2.0).conditional_cdf(some(2, 4), 2)
    with pytest.raises(ShapeError, match=r"w does not fit u \(expected \(4,\), got \(3,\)"):
        Gumbel(2.0).conditional_quantile(torch.tensor([0.1, 0.2, 0.3]), some(2, 4), 0)
    with pytest.raises(DataError, match="w has a value that is not a probability"):
        Gumbel(2.0).conditional_quantile(torch.tensor(1.0), some(2, 1), 0)
    with pytest.raises(UnknownNameError, match="unknown copula family 'gumble'.*Did you mean 'gumbel'"):
        copula_family("gumble")
    with pytest.raises(ConfigurationError, match="which margins are observed"):
        Gumbel(2.0).sample_given(some(2, 4), None)


def test_points_may_be_tensors_arrays_frames_and_nested_numbers():
    u = some(3, 6)
    copula = Gumbel(2.0, 3)
    expected = copula.log_density(u)
    for given_as in (u.numpy(), pd.DataFrame(u.numpy()), u.tolist()):
        torch.testing.assert_close(copula.log_density(given_as), expected, rtol=0, atol=0)
    assert copula.log_density([[0.3, 0.4, 0.5]]).dtype == F64  # as for a theta given as a number
    assert copula.log_density(u.float()).dtype == torch.float32
    presence = pd.DataFrame(np.tile([True, False, True], (6, 1)))
    pair = copula.margin([0, 2]).log_density(u[:, [0, 2]])
    torch.testing.assert_close(copula.log_density(pd.DataFrame(u.numpy()), presence), pair)


def test_points_and_parameters_that_do_not_broadcast():
    words = r"do not broadcast .* of this Gumbel \(expected leading axes that fit \(3,\), got u of shape \(5, 2\)"
    with pytest.raises(ShapeError, match=words):
        Gumbel(torch.tensor([1.5, 2.0, 3.0])).log_density(some(2, 5))
    with pytest.raises(ShapeError, match=r"got u of shape \(5, 2\), observed of shape \(4, 2\)"):
        Gumbel(2.0).sample_given(some(2, 5), torch.ones(4, 2, dtype=torch.bool))


@pytest.mark.parametrize("n", [-1, 2.0, True, "3"])
def test_numbers_of_draws(n):
    with pytest.raises(ConfigurationError, match="n is not a number of draws .*0 or more"):
        Clayton(2.0).sample(n)


def test_sources_of_randomness():
    draws = (
        lambda: Frank(2.0).sample(3, generator=0),
        lambda: Joe(2.0).sample_given(some(2), [True, False], generator=1),
    )
    for draw in draws:
        with pytest.raises(ConfigurationError, match=r"expected a torch.Generator or None, got .*manual_seed"):
            draw()
    assert Clayton(2.0).sample(0).shape == (0, 2)


def test_names_and_numbers_that_people_write():
    assert copula_family("t") is copula_family("Student") is StudentTCopula
    assert copula_family("normal") is GaussianCopula
    u = some(2)
    torch.testing.assert_close(GaussianCopula(0.5).log_density(u), GaussianCopula(R2).log_density(u))
    torch.testing.assert_close(StudentTCopula(0.5, df=3.0).log_density(u), StudentTCopula(R2, df=3.0).log_density(u))
    rho = torch.tensor(0.5, dtype=F64, requires_grad=True)
    slope = torch.autograd.grad(GaussianCopula(rho).log_density(u).sum(), rho)[0]
    with torch.no_grad():
        numerical = (GaussianCopula(0.5 + 1e-6).log_density(u) - GaussianCopula(0.5 - 1e-6).log_density(u)).sum() / 2e-6
    assert slope.item() == pytest.approx(numerical.item(), rel=1e-6)
    with pytest.raises(ConfigurationError, match="singular or not positive definite"):
        GaussianCopula(1.5)


# ---------------------------------------------------------------- closed and fast inverses of conditional laws


@pytest.mark.parametrize("theta", [-700.0, -30.0, -2.0, -1e-9, 0.0, 1e-9, 0.7, 8.0, 300.0])
def test_the_closed_inverse_of_frank_to_forty_digits(theta):
    w, u = [0.001, 0.4, 0.999999], [0.002, 0.5, 0.97]
    points = torch.tensor([[x, 0.5] for x in u for _ in w], dtype=F64)
    found = Frank(theta).conditional_quantile(torch.tensor(w * 3, dtype=F64), points, 1)
    with mp.workdps(700):
        t = mp.mpf(theta)
        for (x, _), p, ours in zip(points.tolist(), w * 3, found.tolist(), strict=True):
            if abs(theta) < 1e-6:
                expected = mp.mpf(p)
            else:
                decay = mp.exp(-t * mp.mpf(x)) * (1 - mp.mpf(p))
                expected = mp.log(1 + mp.mpf(p) * (1 - mp.exp(-t)) / (decay + mp.mpf(p) * mp.exp(-t))) / t
            assert ours == pytest.approx(float(expected), rel=1e-9 if theta else 1e-12)


@pytest.mark.parametrize("theta", [1.0, 1.0 + 1e-9, 1.2, 5.0, 60.0])
@pytest.mark.parametrize("dim", [2, 4])
def test_gumbel_given_one_margin_is_inverted_from_end_to_end(theta, dim):
    """On the logit scale of w, between 1e-12 and 1 - 1e-12, in both precisions, with gradients."""
    logit = torch.linspace(-27.0, 27.0, 13, dtype=F64)
    w, x = torch.meshgrid(logit.sigmoid(), torch.tensor([1e-9, 0.1, 0.9, 1 - 1e-9], dtype=F64), indexing="ij")
    points = torch.full((52, dim), 0.5, dtype=F64)
    points[:, 0] = x.flatten()
    known = torch.arange(dim) == 0
    copula = Gumbel(theta, dim)
    points[:, 1] = copula.conditional_quantile(w.flatten(), points, 1, known)
    inside = (points[:, 1] > 0) & (points[:, 1] < 1 - 1e-10)  # at the end u itself has no more digits
    back = copula.conditional_cdf(points[inside], 1, known)
    torch.testing.assert_close(back, w.flatten()[inside], rtol=2e-6, atol=1e-12)
    theta_, u = torch.tensor(theta + 0.1, requires_grad=True, dtype=F64), torch.tensor([[0.3, 0.5]], dtype=F64)
    free = u.clone().requires_grad_()
    value = Gumbel(theta_).conditional_quantile(0.7, free, 1)
    slopes = torch.autograd.grad(value.sum(), [theta_, free])
    step = 1e-6
    up, down = (Gumbel(theta + 0.1 + s).conditional_quantile(0.7, u, 1) for s in (step, -step))
    assert slopes[0].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-4, abs=1e-9)
    shift = torch.tensor([[step, 0.0]], dtype=F64)
    up, down = (Gumbel(theta + 0.1).conditional_quantile(0.7, u + s * shift, 1) for s in (1, -1))
    assert slopes[1][0, 0].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("family", "theta"), [(Frank, -8.0), (Frank, -0.01), (Frank, 0.01), (Frank, 5.0), (Gumbel, 1.5)]
)
def test_gradients_of_the_fast_inverses_by_finite_differences(family, theta):
    w = torch.tensor([0.02, 0.5, 0.99], dtype=F64, requires_grad=True)
    u = torch.tensor([0.6, 0.1, 0.95], dtype=F64, requires_grad=True)
    parameter = torch.tensor(theta, dtype=F64, requires_grad=True)

    def inverse(w, u, theta):
        return family(theta).conditional_quantile(w, torch.stack([u, torch.full_like(u, 0.5)], -1), 1)

    assert torch.autograd.gradcheck(inverse, (w, u, parameter))


@pytest.mark.parametrize(
    "copula", [Frank(5.0), Frank(-5.0), Frank(0.0), Frank(1e4), Gumbel(1.0), Gumbel(2.0), Gumbel(1e4)]
)
def test_fast_inverses_in_single_precision_are_finite_and_precise_at_both_ends(copula):
    far = torch.tensor([1e-6, 0.5, 16.0, 70.0])
    log_u, log_1mu = torch.cat([-far, torch.log1p(-torch.exp(-far))]), torch.cat([torch.log(-torch.expm1(-far)), -far])
    log_u, log_1mu = log_u.clamp(max=-1e-38), log_1mu.clamp(max=-1e-38)
    observed = torch.tensor([[True], [False]])
    half = torch.full_like(log_u, math.log(0.5))
    results = {}
    for dtype in (torch.float32, F64):
        logs = [torch.stack([part.to(dtype), half.to(dtype)]).requires_grad_() for part in (log_u, log_1mu)]
        same = copy.deepcopy(copula).to(dtype).requires_grad_()
        drawn = same.complete_margins_first(*logs, observed, torch.full((2, 8), 0.3, dtype=dtype))
        gradients = torch.autograd.grad(sum(d[1].sum() for d in drawn), [*logs, *same.parameters()])
        assert all(bool(torch.isfinite(x).all()) for x in (drawn[0][1], drawn[1][1], *gradients))
        results[dtype] = torch.stack([d[1] for d in drawn]).detach().double()
    torch.testing.assert_close(results[torch.float32], results[F64], rtol=2e-3, atol=1e-6)
