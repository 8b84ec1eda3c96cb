"""Cohorts by name and by folder."""

import inspect

import pytest

from amodal.data import COHORTS, Cohort, load_cohort
from amodal.errors import DataError, UnknownNameError

from .cohorts import mixed_cohort


@pytest.mark.parametrize("name", [name for name in COHORTS if name in ("digits", "ring", "synthetic")])
def test_every_cohort_that_needs_no_file_loads_with_splits(name):
    cohort = load_cohort(name)
    assert cohort.name == name
    assert all(len(cohort.split(split)) for split in ("train", "valid", "test"))
    assert inspect.getdoc(COHORTS[name])


def test_options_go_to_the_cohort(tmp_path):
    assert (load_cohort("digits", seed=1).splits != load_cohort("digits", seed=2).splits).any()
    mixed_cohort().save(tmp_path / "c")
    assert isinstance(load_cohort(tmp_path / "c", verify=True), Cohort)
    assert isinstance(load_cohort(str(tmp_path / "c")), Cohort)


def test_what_is_not_there(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown cohort .*'digts' .*Did you mean 'digits'"):
        load_cohort("digts")
    with pytest.raises(UnknownNameError, match="unknown option of cohort 'digits' 'sed' .*Did you mean 'seed'"):
        load_cohort("digits", sed=1)
    for place in (tmp_path / "none", str(tmp_path / "none")):
        with pytest.raises(DataError, match="there is no cohort folder .*none"):
            load_cohort(place)
    (tmp_path / "c").mkdir()
    with pytest.raises(UnknownNameError, match="unknown option of cohort .* 'check' .*verify"):
        load_cohort(tmp_path / "c", check=True)
