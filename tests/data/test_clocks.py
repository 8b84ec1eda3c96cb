"""Series with clocks of their own: from arrays and lists to batches, through folders, models and subsets."""

import numpy as np
import pytest
import torch

import amodal
from amodal.batch import Batch
from amodal.errors import DataError, SchemaError, ShapeError
from amodal.schema import Modality, Task

TASK = Task("binary", classes=(0, 1))


def ragged(n=12):
    draw = np.random.default_rng(0)
    rows = [draw.normal(size=(1 + i % 4, 2)).astype(np.float32) for i in range(n)]
    times = [np.sort(draw.uniform(0, 48, len(row))) for row in rows]
    rows[3], times[3] = None, None
    return rows, times, draw.integers(0, 2, n)


def cohort():
    rows, times, target = ragged()
    table = np.ones((len(rows), 1), np.float32) * np.arange(len(rows))[:, None]
    return amodal.Cohort.from_arrays({"s": rows, "t": table}, times={"s": times}, task=TASK, target=target)


def test_lists_of_different_length(tmp_path):
    rows, times, _ = ragged()
    found = cohort()
    present = np.concatenate([t for t in times if t is not None])
    assert found.schema["s"].clock == pytest.approx((present.min(), present.max()))
    assert found.schema["s"].shape == (4, 2)
    assert found.schema["t"].clock == ()
    found.save(tmp_path / "c")
    for made in (found, amodal.load_cohort(tmp_path / "c")):
        batch = made.batch(np.arange(len(rows)))
        for i, (row, time) in enumerate(zip(rows, times)):
            n = 0 if row is None else len(row)
            assert batch.lengths["s"][i] == n
            if n:
                np.testing.assert_array_equal(batch.values["s"][i, :n].numpy(), row)
                np.testing.assert_allclose(batch.times["s"][i, :n].numpy(), time, rtol=1e-6)
            assert not batch.times["s"][i, n:].any()
    some = found.batch(np.array([5, 0]))
    np.testing.assert_allclose(some.times["s"][0, :2].numpy(), times[5], rtol=1e-6)


def test_arrays_with_gaps_and_lengths():
    draw = np.random.default_rng(1)
    values = draw.normal(size=(5, 3, 2)).astype(np.float32)
    values[2, 1, 0] = np.nan
    times = np.sort(draw.uniform(0, 9, (5, 3)), axis=1)
    lengths = np.array([3, 1, 3, 2, 3])
    times[1, 1:] = np.nan  # beyond the end
    found = amodal.Cohort.from_arrays({"s": values}, times={"s": times}, lengths={"s": lengths}, task=TASK)
    batch = found.batch(np.arange(5))
    assert batch.lengths["s"].tolist() == lengths.tolist()
    assert not batch.measured["s"][2, 1, 0]
    np.testing.assert_allclose(batch.times["s"][0].numpy(), times[0], rtol=1e-6)
    assert batch.times["s"][1].tolist()[1:] == [0.0, 0.0]


def test_models_train_on_them_and_come_back(tmp_path):
    found = cohort()
    model = amodal.fit("fusion", found, found, epochs=1, width=8, encoders={"s": {"name": "utde", "grid": 3}})
    before = model.predict(found)
    moved = [None if r is None else r[::-1] for r in ragged()[0]], [None if t is None else t[::-1] for t in ragged()[1]]
    table = found.batch(np.arange(len(found))).values["t"].numpy()
    other = amodal.Cohort.from_arrays({"s": moved[0], "t": table}, times={"s": moved[1]}, task=TASK, target=ragged()[2])
    np.testing.assert_allclose(model.predict(other), before, atol=1e-5)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(amodal.load(tmp_path / "m").predict(found), before)


def test_a_batch_keeps_times_of_what_is_there():
    observed = {"s": torch.tensor([True, False, True])}
    times = {"s": torch.tensor([[1.0, 2.0], [3.0, float("nan")], [5.0, 6.0]])}
    batch = Batch({"s": torch.ones(3, 2, 1)}, observed, lengths={"s": torch.tensor([1, 2, 2])}, times=times)
    assert batch.times["s"].tolist() == [[1.0, 0.0], [0.0, 0.0], [5.0, 6.0]]
    assert batch.times_of("s").tolist() == [[1.0, 0.0], [5.0, 6.0]]
    assert batch.take(torch.tensor([2])).times["s"].tolist() == [[5.0, 6.0]]
    assert not batch.restrict({"s": torch.zeros(3, dtype=torch.bool)}).times["s"].any()
    with pytest.raises(ShapeError, match=r"times\['s'\] must be floating"):
        Batch({"s": torch.ones(3, 2, 1)}, observed, times={"s": torch.ones(3, 3)})
    with pytest.raises(DataError, match="times of s"):
        Batch({"s": torch.ones(3, 2, 1)}, observed, times={"s": torch.full((3, 2), float("inf"))})


def test_clocks_that_cannot_be():
    rows, times, _ = ragged()
    with pytest.raises(ShapeError, match="one for each step of each row"):
        amodal.Cohort.from_arrays({"s": rows}, times={"s": times[:-1]}, task=TASK)
    with pytest.raises(DataError, match="NaN or infinite times in present rows"):
        amodal.Cohort.from_arrays({"s": rows}, times={"s": [times[0] * np.nan, *times[1:]]}, task=TASK)
    with pytest.raises(DataError, match="all the same"):
        amodal.Cohort.from_arrays({"s": rows}, times={"s": [t if t is None else 0 * t for t in times]}, task=TASK)
    with pytest.raises(SchemaError, match="clock that is not usable"):
        Modality("s", "series", (4, 2), clock=(3.0, 1.0))


def test_event_tables_with_their_own_times(tmp_path):
    """The last times of each case, distinct ones in order, and what lies before them counted."""
    from amodal.data.table import prepare

    (tmp_path / "cases.csv").write_text("id,y\n" + "".join(f"p{i},{'yes' if i % 2 else 'no'}\n" for i in range(8)))
    events = ["id,hour,name,value"]
    events += [
        f"p{i},{h},{n},{10 * i + h}" for i in range(7) for h in (0.5, 2.25, 7.75, 9.0)[: 1 + i % 4] for n in ("a", "b")
    ]
    events.append("p0,3.5,b,99")
    (tmp_path / "events.csv").write_text("\n".join(events) + "\n")
    (tmp_path / "schema.yaml").write_text(
        "id: id\ntask: {kind: binary, column: y, classes: ['no', 'yes']}\n"
        "modalities:\n"
        "  ehr: {kind: events, file: events.csv, id: id, time: hour, variable: name, value: value,"
        " stop: 24, observations: 3}\n"
    )
    prepare(tmp_path / "cases.csv", tmp_path / "schema.yaml", tmp_path / "out", root=tmp_path)
    found = amodal.load_cohort(tmp_path / "out")
    assert found.schema["ehr"].clock == (0.0, 24.0)
    batch = found.batch(np.arange(8))
    assert batch.times["ehr"][3].tolist() == [2.25, 7.75, 9.0]
    assert batch.times["ehr"][0].tolist() == [0.5, 3.5, 0.0]
    assert batch.lengths["ehr"].tolist() == [2, 2, 3, 3, 1, 2, 3, 0]
    assert batch.measured["ehr"][0].tolist() == [[True, True], [False, True], [False, False]]
    assert batch.values["ehr"][0].tolist() == [[0.5, 0.5], [0.0, 99.0], [0.0, 0.0]]
    assert not batch.observed["ehr"][7]
