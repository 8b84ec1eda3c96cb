"""A grid lists every combination once, each method under the same conditions."""

import pytest

from amodal.benchmark import grid
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import MCAR, MNAR, Natural


def test_every_combination_comes_once_and_a_comparison_is_complete_early():
    experiments = grid(
        ["fusion", {"method": "fusion", "name": "plain", "removal": None}, "boosting"],
        mechanisms=(MCAR, MNAR),
        rates=(0.0, 0.3, 0.5),
        seeds=(0, 1),
        width=32,
    )
    assert len(experiments) == 3 * (1 + 2 * 2) * 2
    assert len({str(experiment.to_json()) for experiment in experiments}) == len(experiments)
    for first in range(0, len(experiments), 3):
        three = experiments[first : first + 3]
        assert [one.name for one in three] == ["fusion", "plain", "boosting"]
        assert len({(one.setting, one.seed) for one in three}) == 1
    assert {one.width for one in experiments} == {32}
    assert {one.removal for one in experiments if one.name == "plain"} == {None}


@pytest.mark.parametrize(
    ("where", "train", "test"),
    [("test", Natural(), MCAR(0.5)), ("train", MCAR(0.5), Natural()), ("both", MCAR(0.5), MCAR(0.5))],
)
def test_the_mechanism_goes_where_it_is_asked_to(where, train, test):
    (experiment,) = grid(["fusion"], where=where)
    assert (experiment.train_missingness, experiment.test_missingness) == (train, test)


@pytest.mark.parametrize(
    ("methods", "given", "error", "words"),
    [
        (["fusion", "fusion"], {}, ConfigurationError, "two methods have the same name"),
        ([], {}, ConfigurationError, "at least one method"),
        (["fusion"], {"seeds": ()}, ConfigurationError, "at least one method"),
        (["fusion"], {"epoch": 3}, UnknownNameError, "field of an experiment 'epoch'"),
        ([{"method": "fusion", "option": {}}], {}, UnknownNameError, "Did you mean 'options'"),
        (["fusion"], {"where": "valid"}, UnknownNameError, "value of where 'valid'"),
    ],
)
def test_bad_grids_are_told(methods, given, error, words):
    with pytest.raises(error, match=words):
        grid(methods, **given)
