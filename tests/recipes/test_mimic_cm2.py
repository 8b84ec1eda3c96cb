"""The recipe of CM2 on MIMIC: from made tables beside the open demos to its tables, one step with tiny networks."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from data.mimic_made import add_images, add_mimic4_events, add_notes, link, read
from encoders.tiny_networks import BERT, VISION, save_network, save_tokenizer

from amodal.data import Cohort
from amodal.errors import ConfigurationError, DataError
from amodal.schema import Task

pytest.importorskip("transformers")
FILE = Path(__file__).resolve().parents[2] / "recipes" / "mimic_cm2.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("mimic_cm2_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    save_tokenizer(folder / "text")
    return save_network(folder / "vision", VISION["resnet"]), save_network(folder / "text", BERT)


def words(networks, out, *more, task="mortality"):
    small = ["--image-network", networks[0], "--text-network", networks[1], "--max-tokens", "8", "--width", "8"]
    options = json.dumps({"latent": 8, "components": 2, "fusion": {"name": "lstm", "layers": 2, "hidden": 8}})
    settings = json.dumps({"epochs": 1, "batch_size": 64})
    given = ["--task", task, "--out", str(out), "--seeds", "0", "--options", options, "--settings", settings]
    return [*given, *small, *map(str, more)]


@pytest.mark.filterwarnings("ignore:epoch 1")
def test_mimic3_matched_and_partial(recipe, networks, shared_data, tmp_path, capsys):
    source = link(shared_data / "mimic3-demo", tmp_path / "m3", without=["NOTEEVENTS.csv.gz"])
    stays = read(source / "ICUSTAYS.csv.gz")
    add_notes(source, [(int(s["hadm_id"]), int(s["subject_id"]), s["intime"]) for s in stays])
    given = words(networks, tmp_path / "out", "--source", source, "--methods", "cm2, paper", "fusion")
    found = recipe.main(given)
    assert set(found) == {"matched", "partial"}
    sizes = {pairing: results.runs_of("cm2, paper")[0].test.observed for pairing, results in found.items()}
    assert sizes["matched"].all()
    assert not sizes["partial"].all()
    assert len(sizes["matched"]) < len(sizes["partial"])
    record = found["partial"].runs_of("cm2, paper")[0].record
    assert record["training"]["optimiser"] == "adam"
    assert record["training"]["clip"] is None
    assert record["spec"]["options"]["family"] == "frank"
    printed = capsys.readouterr().out
    assert "no evidence" in printed
    assert "auroc_low" in printed
    assert (tmp_path / "out" / "partial" / "t-tests.csv").is_file()
    recipe.main(given)  # what is there is read back
    assert "(0 s)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:epoch 1")
def test_mimic4_with_images_and_reports(recipe, networks, shared_data, tmp_path):
    stays = add_mimic4_events(shared_data / "mimic4-demo", tmp_path / "m4")
    add_images(tmp_path / "cxr", tmp_path / "reports", stays)
    more = ["--database", "mimic4", "--source", tmp_path / "m4", "--cxr", tmp_path / "cxr", "--reports"]
    more += [tmp_path / "reports", "--pairing", "partial", "--methods", "cm2, paper", "cm2, paper, kl"]
    found = recipe.main(words(networks, tmp_path / "out", *more, task="readmission"))
    run = found["partial"].runs_of("cm2, paper")[0]
    assert run.schema.names == ("ehr", "cxr", "report")
    assert np.isfinite(run.test.predictions).all()


def test_the_paper_s_encoders_by_configuration(recipe):
    assert recipe.encoders(["ehr", "cxr"], "resnet50", "t", 512)["cxr"] == {"name": "resnet", "model": 50}
    assert recipe.encoders(["ehr", "cxr"], "vit", "t", 512)["cxr"]["model"] == {"model_type": "vit"}
    assert recipe.encoders(["ehr", "cxr"], "some/folder", "t", 512)["cxr"]["model"] == "some/folder"
    assert recipe.encoders(["ehr", "notes"], "vit", "t", 99) == {
        "ehr": {"name": "plain_lstm", "layers": 2, "dropout": 0.3},
        "notes": {"name": "pretrained_text", "model": "t", "max_tokens": 99},
    }


def save(folder, task, **values):
    n = 12
    made = {"ehr": np.zeros((n, 3, 2), np.float32), "notes": ["a"] * n} | values
    observed = {"ehr": ~np.isnan(made["ehr"]).all((1, 2))}
    splits = np.repeat(["train", "valid", "test"], 4)
    Cohort.from_arrays(made, task=task, target=np.arange(n) % 2, splits=splits, observed=observed, name="made").save(
        folder
    )
    return folder


def test_what_it_cannot_do_is_said(recipe, networks, tmp_path):
    ihm = Task("binary", name="in-hospital mortality", classes=("survived", "died"))
    with pytest.raises(ConfigurationError, match="there is no cohort.*--source"):
        recipe.main(words(networks, tmp_path / "a"))
    with pytest.raises(ConfigurationError, match="MIMIC-IV needs images.*--cxr"):
        recipe.main(words(networks, tmp_path / "b", "--database", "mimic4", "--source", tmp_path))
    with pytest.raises(DataError, match="a table of MIMIC-III is missing"):
        recipe.main(words(networks, tmp_path / "c", "--source", tmp_path))
    other = save(tmp_path / "other", ihm, notes=np.zeros((12, 4), np.float32))
    with pytest.raises(ConfigurationError, match="does not have the recipe's modalities"):
        recipe.main(words(networks, tmp_path / "d", "--cohort", other))
    right = save(tmp_path / "right", ihm)
    with pytest.raises(ConfigurationError, match="the cohort has another task"):
        recipe.main(words(networks, tmp_path / "e", "--cohort", right, task="readmission"))
    first = np.zeros((12, 3, 2), np.float32)
    first[0] = np.nan
    lacking = save(tmp_path / "lacking", ihm, ehr=first, notes=["a"] + [None] * 11)
    with pytest.raises(DataError, match="no stay has all modalities"):
        recipe.main(words(networks, tmp_path / "f", "--cohort", lacking, "--pairing", "matched"))
