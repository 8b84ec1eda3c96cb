"""The scale of V from cases of which something was withheld, and what it does to the numbers of an impact."""

import numpy as np
import pandas as pd
import pytest
import torch

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.method import SamplingMethod
from amodal.predictive_impact.change_scale import change_scale
from amodal.predictive_impact.model import impact
from amodal.schema import Task


class Guess(SamplingMethod):
    """The value of b, and if it is missing a draw that is too narrow by some factor."""

    narrow = 1.0

    def __init__(self, schema):
        super().__init__(schema)
        self.place = torch.nn.Parameter(torch.zeros(()))

    def objective(self, batch, generator):
        raise NotImplementedError

    def draw_outputs(self, batch, draws, generator, *, vary=None):
        drawn = torch.randn(draws, 1, generator=generator)
        if vary is not None and "b" not in vary:
            drawn = drawn[:1].expand(draws, 1)
        return torch.where(batch.observed["b"], batch.values["b"][:, 0], self.narrow * drawn)[..., None]


def made(narrow, *, result=None, n=400):
    generator = np.random.default_rng(0)
    values = {name: generator.normal(size=(n, 1)).astype("f4") for name in ("a", "b")}
    cohort = Cohort.from_arrays(values, task=Task("regression"), target=values["b"][:, 0])
    zero, one = ({name: number * torch.ones(1) for name in values} for number in (0, 1))
    experiment = {} if result is None else {"result": {"change_scale": {"": 9.0, "b": result}}}
    model = TrainedModel(
        Guess(cohort.schema), cohort.schema, Scaling(zero, one, 0.0, 1.0), np.zeros(1), experiment, pd.DataFrame()
    )
    model.method.narrow = narrow
    return model, cohort, np.tile([True, False], (n, 1))


@pytest.mark.parametrize(("narrow", "scale"), [(1.0, 1.0), (0.7, 1 / 0.7), (1.5, 1 / 1.5), (0.01, 4.0)])
def test_the_scale_makes_v_the_change_when_what_was_withheld_is_revealed(narrow, scale):
    model, cohort, observed = made(narrow)
    found = change_scale(model, cohort, observed, draws=1000)
    assert found == pytest.approx({"": scale, "b": scale}, rel=0.1)


def test_v_and_its_parts_are_multiplied_by_it_but_not_completions_from_cases():
    plain, cohort, observed = made(0.5)
    scaled = made(0.5, result=2.0)[0]
    some = cohort.take(np.arange(5)).with_observed(observed[:5])
    one, two = impact(plain, some), impact(scaled, some)
    for name in ("variability", "standard_error"):
        np.testing.assert_allclose(getattr(two, name), 2 * getattr(one, name))
    np.testing.assert_allclose(two.per_modality["b"], 2 * one.per_modality["b"])
    np.testing.assert_allclose(np.diff(two.interval), 2 * np.diff(one.interval), rtol=1e-5)
    cases = [impact(model, some, train=cohort, completions="training_cases").variability for model in (plain, scaled)]
    np.testing.assert_array_equal(*cases)


def test_few_cases_and_cases_that_cannot_be_revealed_say_nothing():
    model, cohort, observed = made(0.5)
    assert change_scale(model, cohort.take(np.arange(20)), observed[:20]) == {}
    assert change_scale(model, cohort.with_observed(observed), observed) == {}
    assert change_scale(model, cohort, np.ones_like(observed)) == {}
