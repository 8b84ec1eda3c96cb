import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError
from amodal.missingness import (
    MAR,
    MCAR,
    MECHANISMS,
    MNAR,
    BalancedCounts,
    FixedCount,
    Natural,
    Pattern,
    all_patterns,
    mechanism_from_json,
    pattern_codes,
)

NAMES = ("a", "b", "c", "d")
EXAMPLES = [
    MCAR(0.02),
    MCAR(0.9, before_repair=True),
    MAR(0.02, strength=-1.0),
    MNAR({"a": 0.02}, strength=3.0),
    FixedCount(2),
    BalancedCounts(),
    BalancedCounts(least=1),
    Pattern(("a", "c")),
    Natural(),
]


def _natural(n, seed=0, chance=0.7):
    return np.random.default_rng(seed).random((n, 4)) < chance


def _scores(observed, seed=1, correlation=0.6):
    shared, own = np.random.default_rng(seed).standard_normal((2, *observed.shape))
    scores = np.sqrt(correlation) * shared[:, :1] + np.sqrt(1 - correlation) * own
    return np.where(observed, scores, np.nan)


# ---- what every mechanism promises -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.floats(0.3, 1.0), st.sampled_from(EXAMPLES))
def test_draws_are_subsets_that_empty_no_row(seed, n, chance, mechanism):
    complete = np.ones((60, 4), dtype=bool)  # keeps small rates feasible whatever the natural absence
    observed = np.concatenate([_natural(n, seed, chance), complete])
    before = observed.copy()
    drawn = mechanism.draw(observed, NAMES, np.random.default_rng(seed), _scores(observed, seed))
    assert drawn.dtype == np.bool_
    assert drawn.shape == observed.shape
    assert not (drawn & ~observed).any()
    np.testing.assert_array_equal(drawn.any(axis=1), observed.any(axis=1))
    np.testing.assert_array_equal(observed, before)
    again = mechanism.draw(observed, NAMES, np.random.default_rng(seed), _scores(observed, seed))
    np.testing.assert_array_equal(drawn, again)


def test_every_mechanism_is_among_the_examples():
    assert {type(mechanism) for mechanism in EXAMPLES} == set(MECHANISMS.values())


@pytest.mark.parametrize("mechanism", EXAMPLES, ids=str)
def test_json_round_trip(mechanism):
    record = json.loads(json.dumps(mechanism.to_json()))
    assert mechanism_from_json(record) == mechanism


@pytest.mark.parametrize("mechanism", EXAMPLES, ids=str)
def test_no_rows(mechanism):
    empty = np.zeros((0, 4), dtype=bool)
    assert mechanism.draw(empty, NAMES, np.random.default_rng(0), np.zeros((0, 4))).shape == (0, 4)


def test_unknown_records():
    with pytest.raises(UnknownNameError, match=r"unknown mechanism 'MCR'.*Did you mean 'M"):
        mechanism_from_json({"mechanism": "MCR"})
    with pytest.raises(UnknownNameError, match=r"unknown argument of MCAR 'ratio'.*Did you mean 'rate'"):
        mechanism_from_json({"mechanism": "MCAR", "ratio": 0.5})
    with pytest.raises(ConfigurationError, match="record of a MCAR cannot be used"):
        mechanism_from_json({"mechanism": "MCAR"})


# ---- rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MCAR, MAR, MNAR])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75, {"a": 0.7, "b": 0.2, "d": 0.4}], ids=str)
def test_marginal_rates_of_complete_rows(kind, rate):
    observed = np.ones((40_000, 4), dtype=bool)
    drawn = kind(rate).draw(observed, NAMES, np.random.default_rng(3), _scores(observed))
    asked = rate if isinstance(rate, dict) else dict.fromkeys(NAMES, rate)
    for m, name in enumerate(NAMES):
        gone = int((~drawn[:, m]).sum())
        assert binomtest(gone, len(drawn), asked.get(name, 0.0)).pvalue > 1e-4, (name, gone / len(drawn))


@pytest.mark.parametrize("kind", [MCAR, MAR, MNAR])
def test_marginal_rates_on_top_of_natural_absence_count_only_what_was_there(kind):
    observed = _natural(60_000, chance=0.75)
    drawn = kind(0.5).draw(observed, NAMES, np.random.default_rng(4), _scores(observed))
    for m in range(4):
        there = observed[:, m]
        assert binomtest(int((~drawn[there, m]).sum()), int(there.sum()), 0.5).pvalue > 1e-4


def test_the_raw_reading_is_bernoulli_before_the_repair():
    drawn = MCAR(0.9, before_repair=True).draw(np.ones((50_000, 4), dtype=bool), NAMES, np.random.default_rng(0))
    after = 0.9 - 0.9**4 / 4
    assert binomtest(int((~drawn).sum()), drawn.size, after).pvalue > 1e-4


@pytest.mark.parametrize("kind", [MCAR, MAR, MNAR])
def test_an_infeasible_rate_names_the_largest_feasible_one(kind):
    observed = np.ones((50, 4), dtype=bool)
    with pytest.raises(ConfigurationError, match=r"cannot be reached.*at most 0\.7[45]\d*, got 0\.8\).*before_repair"):
        kind(0.8).draw(observed, NAMES, np.random.default_rng(0), _scores(observed))
    two = observed[:, :2]
    with pytest.raises(ConfigurationError, match=r"at most a 0\.(6|59)\d*, b 0\.(4|39)\d*, got"):
        kind({"a": 0.9, "b": 0.6}).draw(two, ("a", "b"), np.random.default_rng(0), _scores(two))


@pytest.mark.parametrize("kind", [MCAR, MAR, MNAR])
def test_the_named_rate_is_feasible(kind):
    observed = _natural(400)
    scores = _scores(observed)
    with pytest.raises(ConfigurationError) as caught:
        kind(0.9).draw(observed, NAMES, np.random.default_rng(0), scores)
    largest = float(str(caught.value.expected).rsplit(" ", 1)[1])
    assert 0.5 < largest < 0.75
    kind(largest).draw(observed, NAMES, np.random.default_rng(0), scores)
    with pytest.raises(ConfigurationError):
        kind(largest + 2e-4).draw(observed, NAMES, np.random.default_rng(0), scores)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), True, "half"])
@pytest.mark.parametrize("kind", [MCAR, MAR, MNAR])
def test_a_rate_outside_its_range(kind, rate):
    with pytest.raises(ConfigurationError, match=r"the rate is out of range \(expected 0 <= rate < 1, got"):
        kind(rate)
    with pytest.raises(ConfigurationError, match=r"the rate of modality 'b' is out of range"):
        kind({"a": 0.5, "b": rate})


# ---- what defines each -------------------------------------------------------------------------------------------


def _dependence(event, value, given):
    """z statistic of the covariance of an event and a value within fine cells of what is given."""
    edges = np.linspace(0, 1, 61 if given.shape[1] == 1 else 26)[1:-1]
    cell = np.zeros(len(event), dtype=int)
    for column in given.T:
        cell = cell * 64 + np.searchsorted(np.quantile(column, edges), column)
    _, cell = np.unique(cell, return_inverse=True)
    size = np.bincount(cell)
    residuals = [x - (np.bincount(cell, weights=x) / size)[cell] for x in (event.astype(float), value)]
    slopes = [[_slope(r, g, cell, size) for g in given.T] for r in residuals]
    for r, by in zip(residuals, slopes):  # take out what is left of the given inside a cell
        for g, b in zip(given.T, by):
            r -= b * (g - (np.bincount(cell, weights=g) / size)[cell])
    products = residuals[0] * residuals[1]
    return products.sum() / np.sqrt((products**2).sum())


def _slope(residual, given, cell, size):
    centred = given - (np.bincount(cell, weights=given) / size)[cell]
    return (residual * centred).sum() / (centred**2).sum()


def _patterns_against_their_own_absent_values(mechanism, n=150_000):
    """For every pattern with something absent: does P(pattern) depend on an absent value, given the present ones?"""
    observed = np.ones((n, 3), dtype=bool)
    scores = _scores(observed, seed=7)
    drawn = mechanism.draw(observed, NAMES[:3], np.random.default_rng(8), scores)
    codes = pattern_codes(drawn)
    return np.array(
        [
            _dependence(codes == pattern_codes(pattern[None]), scores[:, m], scores[:, pattern])
            for pattern in all_patterns(3)
            for m in np.flatnonzero(~pattern)
        ]
    )


def test_mar_is_independent_of_the_removed_values_given_the_kept_ones():
    z = _patterns_against_their_own_absent_values(MAR(0.4, strength=2.0))
    assert np.abs(z).max() < 3.5, z


def test_mcar_is_too():
    assert np.abs(_patterns_against_their_own_absent_values(MCAR(0.4))).max() < 3.5


def test_mnar_is_not():
    z = _patterns_against_their_own_absent_values(MNAR(0.4, strength=2.0))
    assert z.min() > 20, z  # high values go


def test_mar_depends_on_the_kept_values():
    observed = np.ones((20_000, 3), dtype=bool)
    scores = _scores(observed, correlation=0.0)
    drawn = MAR(0.4, strength=2.0).draw(observed, NAMES[:3], np.random.default_rng(0), scores)
    only = drawn[:, 0] & ~drawn[:, 1] & ~drawn[:, 2]
    assert scores[only, 0].mean() > 0.25
    reversed_ = MAR(0.4, strength=-2.0).draw(observed, NAMES[:3], np.random.default_rng(0), scores)
    only = reversed_[:, 0] & ~reversed_[:, 1] & ~reversed_[:, 2]
    assert scores[only, 0].mean() < -0.25


def test_mar_does_not_read_what_it_removes():
    """Change any value that was removed, or the natural gaps: with the same generator nothing else happens."""
    observed = _natural(3000)
    scores = _scores(observed)
    drawn = MAR(0.4).draw(observed, NAMES, np.random.default_rng(5), scores)
    other = np.where(drawn, scores, 9.0)
    np.testing.assert_array_equal(drawn, MAR(0.4).draw(observed, NAMES, np.random.default_rng(5), other))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_mnar_removes_high_values_or_low_ones(sign):
    observed = np.ones((20_000, 4), dtype=bool)
    scores = _scores(observed)
    drawn = MNAR(0.3, strength=2.0 * sign).draw(observed, NAMES, np.random.default_rng(0), scores)
    for m in range(4):
        gap = scores[~drawn[:, m], m].mean() - scores[drawn[:, m], m].mean()
        assert gap * sign > 1.0


@pytest.mark.parametrize("kind", [MAR, MNAR])
def test_without_strength_the_draws_are_those_of_mcar(kind):
    observed = _natural(2000)
    drawn = kind(0.4, strength=0.0).draw(observed, NAMES, np.random.default_rng(6), _scores(observed))
    np.testing.assert_array_equal(drawn, MCAR(0.4).draw(observed, NAMES, np.random.default_rng(6)))


def test_mcar_patterns_have_the_probabilities_of_coins_and_repair():
    n, q = 80_000, 0.6
    observed = np.ones((n, 3), dtype=bool)
    drawn = MCAR(q, before_repair=True).draw(observed, NAMES[:3], np.random.default_rng(2))
    patterns = all_patterns(3)
    size = patterns.sum(axis=1)
    chances = (1 - q) ** size * q ** (3 - size) + (size == 1) * q**3 / 3
    counts = [int((pattern_codes(drawn) == code).sum()) for code in pattern_codes(patterns)]
    assert chisquare(counts, n * chances).pvalue > 1e-3


def test_fixed_count_removes_so_many_of_each_row_every_subset_alike():
    observed = np.ones((30_000, 4), dtype=bool)
    drawn = FixedCount(2).draw(observed, NAMES, np.random.default_rng(0))
    assert (drawn.sum(axis=1) == 2).all()
    counts = np.unique(pattern_codes(drawn), return_counts=True)[1]
    assert len(counts) == 6
    assert chisquare(counts).pvalue > 1e-3


def test_fixed_count_leaves_one_of_what_a_row_naturally_has():
    observed = _natural(500, chance=0.5)
    drawn = FixedCount(2).draw(observed, NAMES, np.random.default_rng(0))
    had = observed.sum(axis=1)
    np.testing.assert_array_equal(drawn.sum(axis=1), np.where(had > 0, np.maximum(had - 2, 1), 0))


def test_fixed_count_that_leaves_nothing():
    with pytest.raises(ConfigurationError, match=r"leaves nothing of 4 modalities \(expected at most 3, got 4\)"):
        FixedCount(4).draw(np.ones((2, 4), dtype=bool), NAMES, np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match=r"number of modalities .*0 or more, got -1"):
        FixedCount(-1)
    with pytest.raises(ConfigurationError, match=r"number of modalities .*got 0.5"):
        FixedCount(0.5)


@pytest.mark.parametrize(("least", "sizes"), [(0, [1, 2, 3]), (1, [1, 2])])
def test_balanced_counts_is_the_published_protocol_for_three(least, sizes):
    drawn = BalancedCounts(least=least).draw(np.ones((60_000, 3), dtype=bool), NAMES[:3], np.random.default_rng(1))
    kept = drawn.sum(axis=1)
    assert np.unique(kept).tolist() == sizes
    assert chisquare(np.bincount(kept)[1:][: len(sizes)]).pvalue > 1e-3
    for size in (1, 2):
        assert chisquare(np.unique(pattern_codes(drawn[kept == size]), return_counts=True)[1]).pvalue > 1e-3
    if not least:
        assert 1 - drawn.mean() == pytest.approx(1 / 3, abs=0.01)
    else:
        assert 1 - drawn.mean() == pytest.approx(0.5, abs=0.01)  # what the paper calls 50 % missing


def test_balanced_counts_are_uniform_for_what_each_row_naturally_has():
    observed = _natural(60_000)
    kept = BalancedCounts().draw(observed, NAMES, np.random.default_rng(1)).sum(axis=1)
    for had in (2, 3, 4):
        assert chisquare(np.bincount(kept[observed.sum(axis=1) == had])[1:]).pvalue > 1e-3


def test_pattern_keeps_the_named_ones_and_rows_without_them_as_they_are():
    observed = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    drawn = Pattern({"a", "c"}).draw(observed, NAMES, np.random.default_rng(0))
    assert drawn.astype(int).tolist() == [[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    with pytest.raises(DataError, match=r"1 of 4 rows have none of a, c \(got rows \[2\] first\)"):
        Pattern({"a", "c"}, on_empty="error").draw(observed, NAMES, np.random.default_rng(0))


def test_pattern_takes_one_name_and_checks_what_it_is_given():
    assert Pattern("labs").kept == ("labs",)
    with pytest.raises(ConfigurationError, match="keeps at least one modality"):
        Pattern(())
    with pytest.raises(ConfigurationError, match="expected 'keep' or 'error', got 'drop'"):
        Pattern("a", on_empty="drop")
    with pytest.raises(UnknownNameError, match=r"unknown modality 'labz'.*Did you mean 'labs'"):
        Pattern("labz").draw(np.ones((1, 2), dtype=bool), ("labs", "notes"), np.random.default_rng(0))


def test_natural_changes_nothing_and_shares_nothing():
    observed = _natural(20)
    drawn = Natural().draw(observed, NAMES, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, observed)
    assert not np.shares_memory(drawn, observed)


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MAR, MNAR])
def test_scores_that_are_missing_or_do_not_fit(kind):
    observed = np.ones((3, 4), dtype=bool)
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__} depends on values.*scores=cohort\.scores"):
        kind(0.1).draw(observed, NAMES, np.random.default_rng(0))
    with pytest.raises(ShapeError, match=r"expected \(3, 4\), got \(3, 2\)"):
        kind(0.1).draw(observed, NAMES, np.random.default_rng(0), np.zeros((3, 2)))
    scores = np.zeros((3, 4))
    scores[0, 1] = np.nan
    with pytest.raises(DataError, match=r"finite score for every present entry; missing: b 1"):
        kind(0.1).draw(observed, NAMES, np.random.default_rng(0), scores)
    with pytest.raises(ConfigurationError, match=r"strength must be a finite number .*got inf"):
        kind(0.1, strength=float("inf"))


def test_unknown_modality_in_rates():
    with pytest.raises(UnknownNameError, match=r"unknown modality 'e' \(expected one of a, b, c, d"):
        MCAR({"e": 0.5}).draw(np.ones((1, 4), dtype=bool), NAMES, np.random.default_rng(0))


@pytest.mark.parametrize("observed", [np.ones((2, 4)), np.ones((2, 3), dtype=bool), np.ones(4, dtype=bool)])
def test_presence_of_the_wrong_shape_or_type(observed):
    with pytest.raises(ShapeError, match=r"a column for each modality \(expected bool \(N, 4\)"):
        Natural().draw(observed, NAMES, np.random.default_rng(0))


def test_equal_counts_hold_in_every_stretch_of_rows():
    """Of 16 rows after one another 5 or 6 have each number, as far as they begin with a block of three."""
    complete = np.ones((480, 3), dtype=bool)
    removed = 3 - BalancedCounts(equal=True).draw(complete, "abc", np.random.default_rng(1)).sum(axis=1)
    for start in range(0, 480, 16):
        assert np.bincount(removed[start : start + 16], minlength=3).min() >= 4
    assert np.bincount(removed).tolist() == [160, 160, 160]
    some = complete.copy()
    some[::2, 0] = False
    kept = BalancedCounts(least=1, equal=True).draw(some, "abc", np.random.default_rng(1)).sum(axis=1)
    assert (kept[::2] == 1).all()  # of two present one is removed
    assert np.bincount(kept[1::2]).tolist() == [0, 120, 120]
