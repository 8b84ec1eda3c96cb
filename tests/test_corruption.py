"""Folders that were altered: every change of a run or a cohort is an error that names it, never silent, never raw."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training.test_fit import made_cohort, parts

import amodal
from amodal.benchmark import read_run
from amodal.data.cohort import Cohort
from amodal.errors import AmodalError, RunError
from amodal.files import clear_leftovers, scratch_path, write_json
from amodal.seal import seal


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and a cohort, both small."""
    folder = tmp_path_factory.mktemp("sound")
    cohort = made_cohort(60)
    cohort.save(folder / "cohort")
    amodal.fit("fusion", *parts(cohort), epochs=1, width=4, device="cpu", out=folder / "run")
    return folder / "run", folder / "cohort"


def opened(folder: Path) -> object:
    return amodal.load(folder) if (folder / "experiment.json").exists() else Cohort.open(folder)


def copies(folders: tuple[Path, Path], tmp_path: Path):
    """Each file of both folders, in a copy of its folder."""
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            copy = tmp_path / folder.name
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            yield copy, copy / file.relative_to(folder)


def test_altered_bytes_are_never_silent_and_never_raw(folders, tmp_path):
    """Flipped bits at 25 places of each file: all of its first bytes, and others at random."""
    rng, count = np.random.default_rng(0), 0
    for folder, file in copies(folders, tmp_path):
        content = file.read_bytes()
        if file.name == "plan.json":
            continue  # of the training; nothing that is loaded depends on it
        for place in [*range(5), *rng.integers(0, len(content), 20).tolist()]:
            altered = bytearray(content)
            altered[place] ^= 1 << int(rng.integers(8))
            if altered.split() == content.split():
                continue  # white space of a text
            file.write_bytes(bytes(altered))
            with pytest.raises(AmodalError, match=f"{folder.name}"):
                opened(folder)
            count += 1
        file.write_bytes(content)
        opened(folder)
    assert count > 180


def test_cut_emptied_replaced_and_removed_files_are_named(folders, tmp_path):
    for folder, file in copies(folders, tmp_path):
        if file.name == "plan.json":
            continue
        content = file.read_bytes()
        for damage in (content[:-3], content[: len(content) // 2], b"", b"\x00" * len(content), content + b"\n{}"):
            file.write_bytes(damage)
            with pytest.raises(AmodalError, match=f"{folder.name}"):
                opened(folder)
        file.unlink()
        with pytest.raises((AmodalError, RunError)):
            opened(folder)


def test_links_to_what_cannot_be_read_and_swapped_files_are_named(folders, tmp_path):
    for name in ("experiment.json", "model.safetensors", "history.csv", "presence.npz"):
        for place, target in ((tmp_path / f"{name}-1", "/proc/self/mem"), (tmp_path / f"{name}-2", name)):
            shutil.copytree(folders[0], place)
            (place / name).unlink()
            (place / name).symlink_to(target)
            with pytest.raises(RunError, match=f"{place}"):
                amodal.load(place)
    amodal.fit("fusion", *parts(made_cohort(60)), epochs=1, width=4, device="cpu", seed=1, out=tmp_path / "other")
    for name in ("experiment.json", "model.safetensors", "history.csv"):
        place = tmp_path / f"{name}-3"
        shutil.copytree(folders[0], place)
        shutil.copy(tmp_path / "other" / name, place / name)
        with pytest.raises(RunError, match=f"{place}.*was altered"):
            amodal.load(place)


def test_altered_evaluations_are_never_silent(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    model = amodal.load(tmp_path / "run")
    amodal.evaluate(model, made_cohort(60), resamples=20).save(tmp_path / "run")
    read_run(tmp_path / "run")
    rng = np.random.default_rng(0)
    for name in ("predictions.parquet", "metrics.json", "test_presence.npz"):
        file = tmp_path / "run" / name
        content = file.read_bytes()
        for place in rng.integers(0, len(content), 20).tolist():
            altered = bytearray(content)
            altered[place] ^= 1 << int(rng.integers(8))
            if altered.split() == content.split():
                continue
            file.write_bytes(bytes(altered))
            with pytest.raises(RunError, match=name):
                read_run(tmp_path / "run")
        file.write_bytes(content)


def test_nothing_but_a_run_is_replaced(folders, tmp_path):
    model = amodal.load(folders[0])
    (tmp_path / "file").write_text("")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    for place, words in (("file", "is a file"), ("home", "is there already and is no run"), ("file/x", "cannot write")):
        with pytest.raises(RunError, match=words):
            model.save(tmp_path / place, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()
    model.save(tmp_path / "disk" / "run")
    made_cohort(20).save(tmp_path / "disk" / "cohort")
    for name in ("run", "cohort"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    model.save(tmp_path / "run", overwrite=True)
    made_cohort(30).save(tmp_path / "cohort", overwrite=True)
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "cohort").is_symlink()
    amodal.load(tmp_path / "disk" / "run")
    assert len(Cohort.open(tmp_path / "disk" / "cohort")) == 30
    assert not list(tmp_path.rglob(".tmp.*"))


def test_of_two_that_begin_at_once_one_is_refused(tmp_path):
    write_json(tmp_path / "plan.json", {"first": 1}, only_new=True)
    with pytest.raises(RunError, match="another process has just written .*plan.json"):
        write_json(tmp_path / "plan.json", {"second": 2}, only_new=True)
    assert json.loads((tmp_path / "plan.json").read_text()) == {"first": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


EDITS = [
    {"spec": None},
    {"schema": None},
    {"schema": {"modalities": "x"}},
    {"spec": {"method": ["fusion"], "options": {}, "encoders": {}}},
    {"spec": {"method": "fusion", "options": None, "encoders": None}},
    {"spec": {"method": "fusion", "options": {"hidden": 10**18}, "encoders": {"width": 4}}},
    {"spec": {"method": "fusion", "options": {"hidden": "x"}, "encoders": {"width": 4}}},
    {"spec": {"method": "fusion", "options": {}, "encoders": {"width": 4, "choices": ["mlp"]}}},
    {"spec": {"method": "fusion", "options": {}, "encoders": {"width": 30000}}},
    {"spec": {"method": "cm2", "options": {}, "encoders": {"width": 4}}},
    {"result": "x"},
    {"presence": {"train": {"hash": "0"}}},
    {"estimator": {"class": "Unknown", "params": {}}},
    {"estimator": {"class": "MissingModalityClassifier", "params": {"unknown": 1}}},
    {"estimator": {"class": "MissingModalityClassifier"}},
    {"format": 0},
    {"format": -1},
    {"format": True},
    {"format": "2"},
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: json.dumps(edit)[:60])
def test_records_with_a_right_seal_and_wrong_content_are_errors_too(folders, tmp_path, edit):
    """As whoever edits a record on purpose can make the checksum fit."""
    shutil.copytree(folders[0], tmp_path / "run")
    file = tmp_path / "run" / "experiment.json"
    record = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("checksum", "files")}
    names = ("model.safetensors", "history.csv", "presence.npz")
    file.write_text(json.dumps(seal({**record, **edit}, tmp_path / "run", names)))
    started = time.process_time()
    with pytest.raises(AmodalError):
        amodal.load(tmp_path / "run")
    assert time.process_time() - started < 60  # no memory is taken before shapes are compared


def test_deep_and_endless_records(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    for text in ("[" * 100_000, '{"a":' * 50_000, "9" * 5000, "NaN", "null", "[]", '{"format": 2}'):
        (tmp_path / "run" / "experiment.json").write_text(text)
        with pytest.raises(RunError):
            amodal.load(tmp_path / "run")


# Interrupted and full -------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from training.test_fit import made_cohort, parts
import amodal
amodal.fit("fusion", *parts(made_cohort(80)), epochs=6, width=4, device="cpu", out={out!r}, resume=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_fit_is_nothing_or_continues_to_the_same(tmp_path):
    tests = str(Path(__file__).parent)
    whole = amodal.fit("fusion", *parts(made_cohort(80)), epochs=6, width=4, device="cpu")
    rng, kills = np.random.default_rng(0), 0
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums of two threads differ in the last bit
    for number in range(3):
        out = tmp_path / f"run{number}"
        script = SCRIPT.format(tests=tests, out=str(out))
        for attempt in range(12):
            with (tmp_path / "errors").open("wb") as errors:
                process = subprocess.Popen([sys.executable, "-c", script], stderr=errors, env=one_thread)
            deadline = time.monotonic() + (60 if attempt == 11 else float(rng.uniform(1.5, 8)))
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                if (out / "experiment.json").is_file():  # killed after the last file was there
                    break
                if out.exists():
                    with pytest.raises(RunError):
                        amodal.load(out)
                continue
            assert process.returncode == 0, (tmp_path / "errors").read_text()[-2000:]
            break
        again = amodal.load(out)
        for name, tensor in whole.method.state_dict().items():
            assert np.array_equal(tensor.numpy(), again.method.state_dict()[name].numpy()), name
        assert not list(tmp_path.rglob(".tmp.*"))
    assert kills >= 3


def test_left_overs_of_killed_processes_are_removed_and_no_others(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    mine = scratch_path(tmp_path / "run")
    dead = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{done.pid}."))
    elsewhere = mine.with_name(f".tmp.another-machine.{done.pid}.12345678.run")
    for path in (mine, dead, elsewhere):
        path.mkdir()
        (path / "file").write_text("")
    clear_leftovers(tmp_path / "run")
    assert [mine.exists(), dead.exists(), elsewhere.exists()] == [True, False, True]


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_ours_and_leaves_nothing_half_written(tmp_path):
    script = """
import resource, sys
sys.path.insert(0, {tests!r})
from training.test_fit import made_cohort, parts
import amodal, signal
from amodal.errors import AmodalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = amodal.fit("fusion", *parts(made_cohort(80)), epochs=1, width=16, device="cpu")
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
for save in (lambda: model.save({out!r}), lambda: made_cohort(800).save({out!r} + "-c"),
             lambda: amodal.fit("fusion", *parts(made_cohort(80)), epochs=1, width=16,
                                device="cpu", out={out!r} + "-f")):
    try:
        save()
        print("saved")
    except AmodalError as error:
        print("error")
"""
    for size in (100, 3000, 12000):
        out = tmp_path / f"run{size}"
        text = script.format(tests=str(Path(__file__).parent), out=str(out), size=size)
        finished = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr[-2000:]
        assert "error" in finished.stdout
        for path in (out, tmp_path / f"run{size}-c", tmp_path / f"run{size}-f"):
            if path.exists() and (path / "experiment.json").exists():
                amodal.load(path)
    assert not list(tmp_path.rglob(".tmp.*"))
