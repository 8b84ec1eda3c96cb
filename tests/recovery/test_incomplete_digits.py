"""Methods that draw, with their defaults, on digits half of which is absent in training: none may fall on the prior.

Autoencoders did, before anything was learnt, while they recovered XOR of two numbers.
"""

import numpy as np
import pytest

import amodal
from amodal.method import SamplingMethod
from amodal.missingness import MCAR
from amodal.presence import draw_presence


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, method in amodal.METHODS.items() if issubclass(method, SamplingMethod)]
)
def test_what_is_learnt_from_incomplete_rows_is_more_than_the_prior(name):
    cohort = amodal.load_cohort("digits")
    train, test = cohort.split("train"), cohort.split("test")
    train = train.with_observed(draw_presence(MCAR(0.5), train, 0).observed)
    model = amodal.fit(name, train, cohort.split("valid"), seed=0, width=32, epochs=10, patience=None)
    predicted = model.predict(test)
    assert (predicted.argmax(1) == test.target).mean() > 0.25  # of ten classes, alike in number
    assert -np.log(predicted[np.arange(len(test)), test.target]).mean() < np.log(10) - 0.1
