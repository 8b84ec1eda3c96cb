"""A model's folder: complete or not at all, readable without executing anything, and plain about what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import amodal
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import DataError, RunError, SchemaError, UnknownNameError
from amodal.files import atomic_folder, replace_file
from amodal.schema import Task


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    rng = np.random.default_rng(0)
    return Cohort.from_arrays(
        {"a": rng.normal(size=(60, 3)), "b": rng.normal(size=(60, 2))},
        task=Task("binary", classes=("no", "yes")),
        target=np.arange(60) % 2,
        observed={"a": np.arange(60) % 3 > 0, "b": np.ones(60, dtype=bool)},
    )


@pytest.fixture(scope="module")
def model(cohort: Cohort) -> TrainedModel:
    return amodal.fit("fusion", cohort, epochs=1, width=4, seed=0, device="cpu")


@pytest.fixture
def run(model: TrainedModel, tmp_path: Path) -> Path:
    return model.save(tmp_path / "run")


def test_what_was_saved_comes_back(model: TrainedModel, run: Path, cohort: Cohort):
    again = TrainedModel.load(run)
    np.testing.assert_array_equal(again.predict(cohort), model.predict(cohort))
    assert again.schema == model.schema
    assert again.experiment == json.loads(json.dumps(model.experiment))
    assert again.presence is not None
    assert model.presence is not None
    assert again.presence.hash == model.presence.hash
    np.testing.assert_array_equal(again.prior, model.prior)
    assert sorted(p.name for p in run.iterdir()) == [
        "experiment.json",
        "history.csv",
        "model.safetensors",
        "presence.npz",
    ]


def test_nothing_in_a_folder_is_a_pickle(run: Path):
    for path in run.iterdir():
        assert b"\x80\x04" not in path.read_bytes()[:4]
        assert not path.name.endswith((".pkl", ".pt", ".ckpt"))


def test_an_existing_folder_is_not_replaced_unless_asked(model: TrainedModel, run: Path):
    with pytest.raises(RunError, match=r"exists already.*overwrite=True"):
        model.save(run)
    model.save(run, overwrite=True)
    assert not [p for p in run.parent.iterdir() if p != run], "no temporary folder is left"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: shutil.rmtree(run), "there is no run at"),
        (lambda run: (run / "model.safetensors").unlink(), r"incomplete: it lacks model\.safetensors"),
        (lambda run: (run / "experiment.json").unlink(), r"incomplete: it lacks experiment\.json"),
        (lambda run: (run / "experiment.json").write_text("{"), "not readable JSON"),
        (lambda run: (run / "experiment.json").write_bytes(b"\xff\xfe{"), "not readable JSON"),
        (lambda run: _edit(run, format=99), "cannot read.*format 2, got 99.*Update amodal"),
        (lambda run: _truncate(run / "model.safetensors"), r"model\.safetensors was altered"),
        (lambda run: _other_spec(run), r"experiment\.json was altered"),
    ],
)
def test_a_damaged_folder_is_named(run: Path, damage, words: str):  # type: ignore[no-untyped-def]
    damage(run)
    with pytest.raises(RunError, match=words):
        TrainedModel.load(run)


def _edit(run: Path, **changes: object) -> None:
    path = run / "experiment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _other_spec(run: Path) -> None:
    spec = json.loads((run / "experiment.json").read_text())["spec"]
    spec["encoders"]["width"] = 8
    _edit(run, spec=spec)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def test_empty_cases(model: TrainedModel, cohort: Cohort):
    nothing = cohort.take(np.arange(3)).with_observed(np.array([[True, True], [False, False], [False, True]]))
    with pytest.warns(UserWarning, match=f"nothing observed get the training prior: {nothing.ids[1]} .1 of 3"):
        predicted = model.predict(nothing)
    np.testing.assert_allclose(predicted[1], model.prior)
    with pytest.raises(DataError, match=f"nothing observed: {nothing.ids[1]} .1 of 3.*on_empty='warn'"):
        model.predict(nothing, on_empty="error")
    np.testing.assert_array_equal(model.predict(nothing, on_empty="silent"), predicted)
    with pytest.raises(UnknownNameError, match="unknown value of on_empty 'warm'.*Did you mean 'warn'"):
        model.predict(nothing, on_empty="warm")


def test_data_of_another_schema(model: TrainedModel):
    task = model.schema.task
    with pytest.raises(SchemaError, match="none of the model's modalities.*expected a, b, got c"):
        model.predict(Cohort.from_arrays({"c": np.zeros((2, 3))}, task=task))
    with pytest.raises(SchemaError, match=r"'a' is not the one.*\(3,\), got tabular \(4,\)"):
        model.predict(Cohort.from_arrays({"a": np.zeros((2, 4))}, task=task))


def test_modalities_that_data_lack_are_absent_and_order_does_not_matter(model: TrainedModel, cohort: Cohort):
    batch = cohort.batch(np.arange(60))
    b = batch.values["b"].numpy()
    alone = Cohort.from_arrays({"b": b}, task=model.schema.task)
    hidden = cohort.with_observed(np.tile([False, True], (60, 1)))
    np.testing.assert_array_equal(model.predict(alone), model.predict(hidden))
    turned = Cohort.from_arrays(
        {"b": b, "a": batch.values["a"].numpy()},
        task=model.schema.task,
        observed={"a": cohort.observed[:, 0], "b": cohort.observed[:, 1]},
    )
    np.testing.assert_array_equal(model.predict(turned), model.predict(cohort))


def test_a_failed_write_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("kept")

    def fail() -> None:
        with atomic_folder(tmp_path / "run") as temporary:
            (temporary / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "run" / "precious").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with pytest.raises(RunError, match="cannot write"):
        replace_file(tmp_path / "run" / "f", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["precious"]


def test_predictions_do_not_depend_on_the_batch_size(model: TrainedModel, cohort: Cohort):
    whole, single = model.predict(cohort), model.predict(cohort, batch_size=1)
    np.testing.assert_allclose(whole, single, atol=1e-6)
    assert torch.is_grad_enabled()
