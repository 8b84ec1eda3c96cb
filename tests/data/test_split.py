"""Splits and folds: groups stay together, classes are spread, sizes are right, seeds decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from amodal.data import folds, split_groups
from amodal.errors import ConfigurationError, DataError, ShapeError

THIRDS = {"train": 0.6, "valid": 0.1, "test": 0.3}


def shares(splits):
    names, counts = np.unique(splits, return_counts=True)
    return dict(zip(names.tolist(), (counts / len(splits)).tolist()))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_group_is_in_two_splits_or_folds(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    n = data.draw(st.integers(20, 200))
    groups = generator.integers(0, data.draw(st.integers(5, 60)), n)
    target = data.draw(
        st.sampled_from(
            [None, generator.integers(0, 3, n), generator.normal(size=n), generator.integers(0, 2, (n, 4)) * 1.0]
        )
    )
    if len(np.unique(groups)) < 5:
        return
    seed = data.draw(st.integers(0, 1000))
    for places in (split_groups(groups, target, seed=seed), folds(groups, target, 5, seed=seed)):
        assert len(places) == n
        for group in np.unique(groups):
            assert len(np.unique(places[groups == group])) == 1
        assert len(np.unique(places)) in (3, 5)  # none is empty


def test_single_rows_are_stratified_to_within_one_row():
    target = np.random.default_rng(0).choice(4, 1797, p=[0.6, 0.3, 0.08, 0.02])
    splits = split_groups(np.arange(1797), target, THIRDS, seed=0)
    for name, fraction in THIRDS.items():
        assert abs((splits == name).sum() - fraction * 1797) <= 1
        for label in range(4):
            assert abs((splits[target == label] == name).sum() - fraction * (target == label).sum()) <= 2


def test_folds_are_as_even_as_scikit_learns():
    target = np.random.default_rng(0).choice(3, 500, p=[0.7, 0.25, 0.05])
    ours = folds(np.arange(500), target, 5, seed=0)
    theirs = np.zeros(500, int)
    for fold, (_, rows) in enumerate(StratifiedKFold(5).split(target, target)):
        theirs[rows] = fold
    assert ours.dtype == np.int64
    for label in range(3):
        counts = np.bincount(ours[target == label], minlength=5)
        assert np.ptp(counts) <= np.ptp(np.bincount(theirs[target == label], minlength=5)) + 1
    assert np.ptp(np.bincount(ours)) <= 1


def test_patients_of_unequal_size_keep_the_mixture():
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(3000), generator.integers(1, 6, 3000))
    dies = generator.random(3000) < 0.1
    target = (dies[groups] & (generator.random(len(groups)) < 0.7)).astype(int)
    splits = split_groups(groups, target, THIRDS, seed=0)
    for name, fraction in THIRDS.items():
        assert shares(splits)[name] == pytest.approx(fraction, abs=0.005)
        assert target[splits == name].mean() == pytest.approx(target.mean(), rel=0.12)


def test_values_are_spread_evenly():
    target = np.random.default_rng(0).exponential(size=1000)
    spread = [np.std([target[folds(np.arange(1000), t, 5, seed=s) == k].mean() for k in range(5)])
              for t in (target, None) for s in range(5)]  # fmt: skip
    assert np.mean(spread[:5]) < 0.6 * np.mean(spread[5:])


def test_rare_labels_reach_every_fold():
    generator = np.random.default_rng(0)
    target = (generator.random((2000, 6)) < [0.5, 0.2, 0.1, 0.05, 0.02, 0.01]).astype(float)
    places = folds(np.arange(2000), target, 5, seed=0)
    for label in range(6):
        counts = np.array([target[places == fold, label].sum() for fold in range(5)])
        assert counts.min() >= 0.5 * counts.mean()


def test_classes_with_one_patient_each_are_trained_on():
    target = np.zeros(100, int)
    target[10:20] = np.arange(1, 11)
    splits = split_groups(np.arange(100), target, THIRDS, seed=0)
    assert (splits[10:20] == "train").all()
    assert shares(splits) == pytest.approx(THIRDS, abs=0.011)  # the large class makes up for it


def test_seeds_decide():
    groups, target = np.arange(200), np.arange(200) % 3
    one = split_groups(groups, target, seed=1)
    assert (one == split_groups(groups, target, seed=1)).all()
    assert (one != split_groups(groups, target, seed=2)).any()
    assert (folds(groups, None, 4, seed=1) == folds(groups, None, 4, seed=1)).all()


def test_without_stratification_only_sizes_are_kept():
    target = np.r_[np.zeros(950), np.ones(50)].astype(int)
    plain = [split_groups(np.arange(1000), target, seed=s, stratify=False) for s in range(20)]
    assert all(abs((splits == "test").sum() - 200) <= 1 for splits in plain)
    assert np.std([target[splits == "test"].sum() for splits in plain]) > 1


def test_one_split_takes_all():
    assert set(split_groups(np.arange(5), None, {"test": 1.0}, seed=0)) == {"test"}


@pytest.mark.parametrize(
    "fractions", [{"train": 0.5, "test": 0.4}, {"train": 1.0, "test": 0.0}, {"train": 1.2, "test": -0.2}, {}, {"": 1.0}]
)
def test_fractions_must_be_positive_and_sum_to_one(fractions):
    with pytest.raises(ConfigurationError, match="must be positive and sum to 1"):
        split_groups(np.arange(10), None, fractions, seed=0)


def test_too_few_groups():
    with pytest.raises(DataError, match="too few groups to split .expected at least 3, got 2"):
        split_groups(np.array([1, 1, 2, 2]), None, seed=0)
    with pytest.raises(DataError, match="expected at least 5, got 4"):
        folds(np.arange(4), None, 5, seed=0)
    with pytest.raises(ConfigurationError, match="n_folds is out of range"):
        folds(np.arange(4), None, 1, seed=0)
    with pytest.raises(ShapeError, match="groups and target have different numbers of rows"):
        folds(np.arange(4), np.arange(3), 2, seed=0)
