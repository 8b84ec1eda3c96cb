"""XOR of two numbers, one of which is missing for half of the cases: what each baseline can know is known.

The exact posterior is right for 65.9 % of the cases without x_m, and for all with it. CMMD never looks at x_m. A
mixture of experts predicts by the average of what each number says alone, which is right for 98.5 % at best.
"""

import numpy as np
import pytest

import amodal
from amodal.data.sources.xor import xor_cohort
from amodal.missingness import MCAR, Natural
from amodal.presence import draw_presence

OPTIONS = {
    "i2m2": {"dropout": 0.0},
    "mvae": {"latent": 2},
    "mmvae": {"latent": 2},
    "cmmd": {"latent": 2, "always_observed": ["x_o"]},
    "lvae": {"latent": 2, "always_observed": ["x_o"]},
}
LOWEST_COMPLETE = {"i2m2": 0.97, "mvae": 0.95, "mmvae": 0.64, "cmmd": 0.64, "lvae": 0.97}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_accuracy_without_and_with_the_second_number(name):
    cohort = xor_cohort(n=8000, seed=0)
    train, test = cohort.split("train"), cohort.split("test")
    train = train.with_observed(draw_presence(MCAR({"x_o": 0.0, "x_m": 0.5}), train, 0).observed)
    model = amodal.fit(
        name,
        train,
        missingness=Natural(),
        options=OPTIONS[name],
        encoders={key: {"name": "mlp", "dropout": 0.0} for key in ("x_o", "x_m")},
        width=64,
        seed=0,
        epochs=8,
        batch_size=256,
        patience=None,
        recalibrate=False,  # it goes by the number present, also where a method does not look at them
    )
    missing = model.predict(test.with_observed(np.tile([True, False], (len(test), 1))))
    complete = model.predict(test)
    assert (missing.argmax(1) == test.target).mean() == pytest.approx(0.659, abs=0.02)
    accuracy = (complete.argmax(1) == test.target).mean()
    assert accuracy >= LOWEST_COMPLETE[name]
    if name == "cmmd":
        np.testing.assert_array_equal(complete, missing)
    if name == "mmvae":
        assert accuracy <= 0.985 + 0.01
