"""The recipe for MIMIC-IV takes a step with tiny random networks from local folders, on every task."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from encoders.tiny_networks import BERT, VISION, save_network, save_tokenizer

from amodal.data import Cohort
from amodal.errors import ConfigurationError
from amodal.schema import Task

pytest.importorskip("transformers")
FILE = Path(__file__).resolve().parents[2] / "recipes" / "mimic4_cepa.py"
N = 24


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("mimic4_cepa_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    save_tokenizer(folder / "text")
    return save_network(folder / "vision", VISION["siglip"]), save_network(folder / "text", BERT)


def save_cohort(folder, task, **names):
    rng = np.random.default_rng(0)
    target = {
        "binary": rng.integers(0, 2, N),
        "multilabel": rng.integers(0, 2, (N, 3)).astype(np.float32),
        "regression": rng.gamma(2.0, 40.0, N),
    }[task.kind]
    values = {
        names.get("ehr", "ehr"): rng.normal(size=(N, 6, 3)).astype(np.float32),
        "cxr": rng.random((N, 3, 32, 32)).astype(np.float32),
        "txt": ["no acute edema", "the lungs are clear", "effusion"] * (N // 3),
    }
    splits = np.repeat(["train", "valid", "test"], [12, 6, 6])
    if task.kind == "binary":
        target[[0, 12, 18]], target[[1, 13, 19]] = 0, 1
    Cohort.from_arrays(values, task=task, target=target, splits=splits, name="made").save(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:epoch 1")
@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("mortality", Task("binary", classes=("survived", "died"))),
        ("phenotyping", Task("multilabel", classes=("a", "b", "c"))),
        ("length_of_stay", Task("regression", units="hours")),
    ],
)
def test_one_step_of_the_paper_s_preset(recipe, networks, tmp_path, name, task):
    cohort = save_cohort(tmp_path / "cohort", task)
    words = [cohort, "--task", name, "--out", str(tmp_path / "runs"), "--seeds", "0", "--methods", "cepa, paper"]
    words += ["--cxr-model", networks[0], "--txt-model", networks[1], "--max-tokens", "8", "--width", "8"]
    results = recipe.main([*words, "--settings", json.dumps({"epochs": 1})])
    run = results.runs_of("cepa, paper")[0]
    assert {"train_task", "train_observed", "train_cross", "train_cf", "pooled_rank"} <= set(run.history)
    assert run.record["training"]["learning_rate"] == recipe.LEARNING_RATES[name]
    assert run.record["training"]["batch_size"] == 16
    removed = 3 - run.test.observed.sum(1)
    assert set(removed) == {1, 2}  # the paper's test protocol
    assert np.isfinite(run.test.predictions).all()


def test_other_modalities_are_refused(recipe, tmp_path):
    cohort = save_cohort(tmp_path / "cohort", Task("binary", classes=("no", "yes")), ehr="vitals")
    with pytest.raises(ConfigurationError, match="does not have the recipe's modalities.*ehr.*got.*vitals"):
        recipe.main([cohort, "--task", "mortality", "--out", str(tmp_path / "runs")])
