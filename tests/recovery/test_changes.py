"""V of trained models against what happens when the withheld modalities are revealed, and against the truth."""

import numpy as np
import pytest
from recovery.worlds import WORLDS, distance

import amodal

CLOSE = 0.15  # of the change that the trained model makes
OF_IDEAL = 0.15  # of what the best possible model would make


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_v_of_primo_is_the_change_when_what_is_missing_is_revealed(name):
    world = WORLDS[name]
    train, valid, test = (world.cohort(n, seed) for n, seed in ((3000, 10), (500, 20), (1000, 30)))
    model = amodal.fit("primo", train, valid, epochs=30, width=32, seed=0)
    withheld = world.withheld(test)
    found = amodal.impact(model, withheld, completions="own", plausible=False, vary=[]).variability
    change = distance(model.predict(withheld), model.predict(test), world.task.kind)
    assert found.mean() == pytest.approx(change.mean(), rel=CLOSE)
    assert found.mean() == pytest.approx(world.ideal(test).mean(), rel=OF_IDEAL)
    quarter = np.searchsorted(np.quantile(found, [0.25, 0.5, 0.75]), found)
    for i in range(4):
        some = quarter == i
        error = change[some].std() / some.sum() ** 0.5
        assert found[some].mean() == pytest.approx(change[some].mean(), rel=CLOSE, abs=2 * error), i
