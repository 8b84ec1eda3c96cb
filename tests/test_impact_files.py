"""Impact into a file: equal to what `impact` and `advise` give, in parts, continued after an interruption."""

import numpy as np
import pandas as pd
import pytest
from training.test_fit import SETTINGS, made_cohort, parts

import amodal
from amodal.impact_files import impact_to_file
from amodal.missingness import MCAR
from amodal.presence import draw_presence


@pytest.fixture(scope="module")
def model():
    return amodal.fit("fusion", *parts(made_cohort()), **SETTINGS)


@pytest.fixture(scope="module")
def cases():
    cohort = made_cohort(60, seed=3)
    return cohort.with_observed(draw_presence(MCAR(0.3), cohort, 0).observed)


def test_parts_are_what_impact_and_advice_give_and_an_interruption_keeps_them(model, cases, tmp_path, monkeypatch):
    train = parts(made_cohort())[0]
    looks, advised = {"draws": 20, "train": train}, {"draws": 10, "train": train}
    out = tmp_path / "impact.parquet"

    def interrupt(done: int, total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        impact_to_file(model, cases, out, looks=looks, advised=advised, part_rows=25, tell=interrupt)
    assert not out.exists()
    seen, original = [], type(model).impact
    monkeypatch.setattr(
        type(model), "impact", lambda self, some, **more: seen.append(len(some)) or original(self, some, **more)
    )
    notes = impact_to_file(model, cases, out, looks=looks, advised=advised, drivers=False, part_rows=25)
    assert seen == [10]
    assert "most similar" in notes[0]
    frame, whole = pd.read_parquet(out), model.impact(cases, **looks).table()
    assert frame["id"].astype(str).tolist() == cases.ids.tolist()
    np.testing.assert_allclose(frame["variability"], whole["variability"], atol=1e-5)
    np.testing.assert_allclose(frame["net"], model.advise(cases, **advised).next()[1], atol=1e-5)
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        impact_to_file(model, cases, out, looks=looks, part_rows=25, tell=interrupt)
    impact_to_file(model, cases, out, looks=looks | {"seed": 1}, part_rows=25)  # other draws: all anew
    assert sum(seen) == 50 + 60
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
