"""The command line as a user types it."""

from __future__ import annotations

import functools
import importlib
import json
import re
import subprocess
import sys
from dataclasses import asdict, fields
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from amodal.cli import _COMMANDS, main, parse_mechanism
from amodal.commands import convert_list
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import MCAR, MNAR, BalancedCounts, FixedCount, Natural, Pattern
from amodal.schema import Task
from amodal.settings import TrainingSettings


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    Cohort.from_arrays(
        {"a": rng.normal(size=(120, 3)) + y[:, None], "b": rng.normal(size=(120, 2))},
        task=Task("binary", classes=("no", "yes")),
        target=np.array(["no", "yes"])[y],
        splits=np.repeat(["train", "valid", "test"], 40),
        name="made",
    ).save(tmp_path / "cohort")
    return tmp_path / "cohort"


def test_fit_evaluate_predict_cite(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    common = ["--data", str(cohort)]
    words = ["fit", "fusion", *common, "--out", str(run), "--epochs", "2", "--width", "8", "--device", "cpu", "--quiet"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "2 epochs" in printed
    assert printed.strip().endswith(f"The run is {run}")
    assert main([*words, "--resume"]) == 0, "a finished run is loaded"
    assert main(["evaluate", str(run), *common, "--missingness", "mcar:0.3", "--resamples", "20"]) == 0
    assert "overall" in capsys.readouterr().out
    assert (run / "metrics.json").is_file()
    assert main(["evaluate", str(run), *common, "--patterns", "all", "--resamples", "20"]) == 0
    assert "a+b" in capsys.readouterr().out
    assert main(["predict", str(run), *common, "--split", "test", "--out", str(tmp_path / "new" / "p.csv")]) == 0
    frame = pd.read_csv(tmp_path / "new" / "p.csv")
    assert frame.columns.tolist() == ["id", "p_no", "p_yes", "predicted"]
    assert len(frame) == 40
    assert main(["cite", str(run)]) == 0
    assert "@" in capsys.readouterr().out


def test_lists(capsys: pytest.CaptureFixture[str]):
    assert main(["methods"]) == 0
    assert "modality_dropout" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert "digits" in printed
    assert "cinc2012" in printed
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("amodal ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "fushion", "--data", "digits", "--out", "x"], "unknown method 'fushion'"),
        (["fit", "fusion", "--data", "digitz", "--out", "x"], "digitz"),
        (["evaluate", "nowhere", "--data", "digits"], "there is no run at nowhere"),
        (["fit", "fusion", "--data", "digits", "--out", "x", "--missingness", "mcar:1.5"], "rate"),
        (["predict", "nowhere", "--data", "digits", "--out", "p.xls"], "unknown ending (expected .csv or .parquet"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert message in captured
    assert "Traceback" not in captured
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_mechanisms_as_they_are_written():
    assert parse_mechanism("natural") == Natural()
    assert parse_mechanism("balanced") == BalancedCounts()
    assert parse_mechanism("mcar:0.25") == MCAR(0.25)
    assert parse_mechanism("mnar:0.5") == MNAR(0.5)
    assert parse_mechanism("count:2") == FixedCount(2)
    assert parse_mechanism("pattern:a+b") == Pattern(["a", "b"])
    with pytest.raises(UnknownNameError, match="unknown missingness mechanism 'mcra'.*Did you mean 'mcar'"):
        parse_mechanism("mcra:0.5")
    with pytest.raises(ConfigurationError, match="'mcar' needs an argument .expected mcar:NUMBER, got 'mcar:half'"):
        parse_mechanism("mcar:half")


def test_a_reader_that_has_enough_is_no_error():
    code = (
        "import sys\nfrom amodal import cli\ndef much():\n    'Much.'\n    print('x' * 1_000_000)\n"
        "cli._COMMANDS['methods'] = much\nsys.exit(cli.main(['methods']))"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom amodal.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sklearn', 'lightning', 'matplotlib', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("method", ["fusion", "primo"])
def test_impact(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str):
    run, common = tmp_path / "run", ["--data", str(cohort)]
    words = ["--out", str(run), "--epochs", "1", "--width", "8", "--device", "cpu", "--quiet"]
    assert main(["fit", method, *common, *words]) == 0
    capsys.readouterr()
    asked = ["impact", str(run), *common, "--draws", "20", "--missingness", "pattern:a"]
    assert main([*asked, "--out", str(tmp_path / "new" / "v.csv")]) == 0
    printed = capsys.readouterr().out
    assert "40 most similar of 40 training cases" in printed.partition("Where to look next")[0]
    assert "Where to look next: completions taken from the 40 most similar" in printed
    assert "V, something missing: mean" in printed
    frame = pd.read_csv(tmp_path / "new" / "v.csv")
    assert len(frame) == 40
    assert (frame["observed"] == "a").all()
    assert frame["net"].is_monotonic_decreasing
    assert "those with the largest net gain of the next look first" in printed
    assert {"predicted", "plausible", "change[b]", "if_last[b]", "gain[b]", "evpi"} <= set(frame)
    assert set(frame["next"].dropna()) <= {"b"}  # nothing else is missing
    np.testing.assert_allclose(frame["change[b]"], frame["variability"])
    assert (frame["gain[b]"] <= frame["evpi"] + 1e-6).all()
    assert main([*asked, "--out", str(tmp_path / "parts.csv"), "--batch_size", "15"]) == 0
    assert "40 cases, in the order of the data, are in" in capsys.readouterr().out
    in_parts = pd.read_csv(tmp_path / "parts.csv").set_index("id").loc[frame["id"]]
    np.testing.assert_allclose(in_parts["variability"], frame["variability"], atol=1e-5)
    costs = ["--costs", '{"b": 5.0}', "--worth", "10", "--cohort_budget", "20", "--utility", "accuracy", "--drivers"]
    assert main([*asked, *costs]) == 0
    printed = capsys.readouterr().out
    assert "No price is given for" in printed
    assert re.search(r"For \d+ of 40 cases that lack something no look pays: look at nothing", printed)
    assert "A budget of 20 buys" in printed
    assert "Which present modalities drove the predictions" in printed
    assert main([*asked, "--costs", '{"b": -5}']) == 2
    assert "the price of 'b' cannot be used (expected a number of 0 or more, got -5)" in capsys.readouterr().err
    assert main([*asked, "--costs", '{"b": ']) == 2
    assert "costs cannot be read (expected JSON, or a file .json" in capsys.readouterr().err
    if method == "primo":
        assert main([*asked, "--completions", "own", "--advice_draws", "0"]) == 0
        assert "drawn by the method itself" in capsys.readouterr().out
    assert main([*asked[:-2], "--out", str(tmp_path / "v.txt")]) == 2
    assert ".csv or .parquet, got v.txt" in capsys.readouterr().err
    assert main([*asked, "--draws", "0"]) == 2
    assert "number of draws is out of range" in capsys.readouterr().err
    assert main([*asked, "--advice_draws=-1"]) == 2
    said = capsys.readouterr()
    assert "advice_draws is out of range (expected 0 or more, got -1)" in said.err
    assert "V," not in said.out
    assert main(["impact", str(run), "--draws", "20"]) == 2
    assert "which is not built in. Pass --data DIR" in capsys.readouterr().err
    if method == "fusion":
        assert main([*asked, "--train_split", ""]) == 2
        assert "cannot draw completions" in capsys.readouterr().err


def test_a_cohort_without_a_validation_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["fit", "fusion", "--data", "xor", "--out", str(tmp_path / "run"), "--epochs", "1", "--quiet"]
    assert main(words) == 2
    assert "unknown split 'valid' (expected one of test, train). To hold a tenth of training back instead: " in (
        capsys.readouterr().err
    )


# Settings stand once ------------------------------------------------------------------------------------------------


def test_every_training_setting_is_an_argument_of_fit_and_run_with_its_own_default_and_description():
    for name in ("fit", "run"):
        taken = signature(_COMMANDS[name]).parameters
        for setting in fields(TrainingSettings):
            assert taken[setting.name].default == setting.default
            assert f"    {setting.name}: " in _COMMANDS[name].__doc__


def test_settings_that_only_the_library_had_reach_the_run(cohort: Path, tmp_path: Path):
    words = ["fit", "fusion", "--data", str(cohort), "--out", str(tmp_path / "run"), "--epochs", "1", "--quiet"]
    words += ["--schedule", "constant", "--optimiser", "adam", "--warmup", "0", "--batch_size", "null", "--width", "8"]
    assert main([*words, "--options.dropout", "0.25", "--patience", "null"]) == 0
    record = json.loads((tmp_path / "run" / "experiment.json").read_text())
    asked = {"schedule": "constant", "optimiser": "adam", "warmup": 0.0, "batch_size": None, "patience": None}
    assert {name: record["training"][name] for name in asked} == asked
    assert record["spec"]["options"]["dropout"] == 0.25


def test_a_configuration_file_says_what_the_words_say(cohort: Path, tmp_path: Path):
    fit = {"method": "fusion", "data": str(cohort), "out": str(tmp_path / "run"), "epochs": 1, "width": 8}
    fit |= {"schedule": "constant", "options": {"dropout": 0.5}, "quiet": True, "loggers": []}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(fit))
    assert main(["fit", "--config", str(tmp_path / "fit.yaml")]) == 0
    record = json.loads((tmp_path / "run" / "experiment.json").read_text())
    assert (record["training"]["schedule"], record["spec"]["options"]) == ("constant", {"dropout": 0.5})


@pytest.mark.parametrize("by", ["words", "file"])
def test_run_takes_settings_and_lists(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list = []
    monkeypatch.setattr(
        "amodal.report.comparison.compare_methods",
        lambda *given, **more: asked.append((given, more)) or SimpleNamespace(failed=()),
    )
    words = ["fusion", "mine=boosting", "--data", "digits", "--out", "x", "--seeds", "0,1", "--rates", "0,0.25"]
    words += ["--epochs", "4", "--references", "mine", "--options", '{"mine": {"steps": 3}}', "--fail_fast"]
    if by == "file":
        values = {"methods": ["fusion", "mine=boosting"], "data": "digits", "out": "x", "seeds": [0, 1], "epochs": 4}
        values |= {"rates": [0, 0.25], "references": ["mine"], "options": {"mine": {"steps": 3}}, "fail_fast": True}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
        words = ["--config", str(tmp_path / "run.yaml")]
    assert main(["run", *words]) == 0
    ((given, more),) = asked
    assert given == (["fusion", "mine=boosting"], "digits", Path("x"))
    assert (more["seeds"], more["rates"], more["references"]) == ([0, 1], [0.0, 0.25], ["mine"])
    assert more["settings"] == {**asdict(TrainingSettings()), "epochs": 4}
    assert more["options"] == {"mine": {"steps": 3}}
    assert more["fail_fast"] is True
    with pytest.raises(ConfigurationError, match=r"seeds cannot be read .expected a list.*got 0,x"):
        convert_list("seeds", "0,x", int)


SOURCES = {
    "cinc2012": ("cinc2012.cohort.prepare", ["--source"]),
    "mimic3": ("mimic.cohort.prepare_mimic", ["--source"]),
    "mimic4": ("mimic.cohort.prepare_mimic", ["--source"]),
    "avmnist": ("avmnist.cohort.prepare", ["--mnist", "--fsdd", "--esc50"]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_preparation_has_a_command_with_the_arguments_of_its_function(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place, given = SOURCES[name]
    module, _, function = f"amodal.data.sources.{place}".rpartition(".")
    prepare, asked = getattr(importlib.import_module(module), function), []

    @functools.wraps(prepare)
    def fake(*places: object, **more: object) -> Cohort:
        asked.append((places, more))
        return Cohort.from_arrays({"a": np.ones((2, 1))}, task=Task("binary", classes=(0, 1)), target=[0, 1])

    monkeypatch.setattr(f"{module}.{function}", fake)
    values = {word.removeprefix("--"): f"there/{word}" for word in given} | {"out": "here", "seed": 7}
    values |= {"noise_folds": [1, 2]} if name == "avmnist" else {"fractions": {"train": 0.5, "test": 0.5}}
    (tmp_path / "prepare.yaml").write_text(yaml.safe_dump(values))
    assert main(["data", "prepare", name, "--config", str(tmp_path / "prepare.yaml")]) == 0
    words = [part for word in given for part in (word, f"there/{word}")] + ["--out", "here", "--seed", "7"]
    words += ["--noise_folds", "[1,2]"] if name == "avmnist" else ["--fractions", '{"train": 0.5, "test": 0.5}']
    assert main(["data", "prepare", name, *words]) == 0
    assert asked[0] == asked[1]
    places = [str(part) for part in asked[0][0] if part != name]  # the function of both MIMICs is told which
    assert places == [*(f"there/{word}" for word in given), "here"]
    assert asked[0][1]["seed"] == 7
    assert "The cohort is here" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["data", "prepare", name, "--help"])
    shown = capsys.readouterr().out
    elsewhere = {"say", "database"} | ({"cxr", "reports", "notes", "ed"} if name == "mimic3" else set())
    for option in set(signature(prepare).parameters) - elsewhere:
        assert f"--{option}" in shown


def test_the_sources_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("table", *SOURCES))
    with pytest.raises(SystemExit):
        main(["data", "prepare", "cinc2013"])
    assert "cinc2012" in capsys.readouterr().err


def test_tasks_of_an_array_job_and_their_page(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["run", "fusion", "wide=fusion", "--data", str(cohort), "--out", str(tmp_path / "out"), "--epochs", "1"]
    words += ["--resamples", "20", "--device", "cpu"]
    assert main([*words, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == ["0 fusion seed 0", "1 wide seed 0"]
    assert main([*words, "--collect"]) == 2
    assert "there are no runs" in capsys.readouterr().err
    assert main([*words, "--only", "1"]) == 0
    assert not (tmp_path / "out" / "index.html").exists()
    assert main([*words, "--only", "2"]) == 2
    assert "there is no such model (expected 0 … 1, got 2)" in capsys.readouterr().err
    assert main([*words, "--only", "0"]) == 0
    assert main([*words, "--collect"]) == 0
    assert (tmp_path / "out" / "index.html").is_file()
    assert len(pd.read_csv(tmp_path / "out" / "results.csv")["name"].unique()) == 2


def test_methods_are_listed_with_blanks_or_commas_between(capsys):
    listed = []
    for words in (["fusion", "fast=boosting", "cepa"], ["fusion,fast=boosting", "cepa"], ["fusion,fast=boosting,cepa"]):
        assert main(["run", *words, "--data", "digits", "--out", "unused", "--list", "true"]) == 0
        listed.append(capsys.readouterr().out)
    assert listed[0] == listed[1] == listed[2]
    assert "fast" in listed[0]
