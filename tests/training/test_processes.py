"""Several processes: the fit of one process with the same batch, by every method; one process's program, clear ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = """
import sys, warnings
sys.path.insert(0, {tests!r})
import numpy as np, torch
import amodal
from amodal.methods import METHODS
from test_fit import made_cohort, parts
train, valid = parts(made_cohort(120))
settings = dict(epochs=2, batch_size=48, width=8, seed=0, device="cpu", clip=None, patience=None)
"""


def run(text: str, tmp_path: Path, *command: str, timeout: int = 300) -> subprocess.CompletedProcess:
    script = tmp_path / "script.py"
    script.write_text(HEADER.format(tests=str(Path(__file__).parent)) + text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, *command, str(script)], env=environment, timeout=timeout, capture_output=True, text=True
    )


@pytest.mark.slow
def test_two_processes_fit_what_one_does_by_every_method(tmp_path: Path):
    """Dropout inside encoders is off: its noise follows a row's place among the rows of its process."""
    text = """
for name in METHODS:
    encoders = {m: {"name": "mlp", "dropout": 0.0} for m in train.schema.names}
    encoders = {} if name == "boosting" else encoders
    made = [amodal.fit(name, train, valid, **settings, encoders=encoders, devices=n) for n in (1, 2)]
    one, two = (model.predict(valid) for model in made)
    moved = amodal.fit(name, train, valid, **settings | {"seed": 1}, encoders=encoders).predict(valid)
    print(name, np.abs(one - two).max(), np.abs(one - moved).max())
"""
    finished = run(text, tmp_path, timeout=900)
    assert finished.returncode == 0, finished.stderr[:3000]
    lines = [line.split() for line in finished.stdout.splitlines()]
    assert len(lines) > 10
    for name, difference, scale in lines:
        assert float(difference) < 1e-3 * max(float(scale), 0.01) or float(difference) < 1e-4, (name, difference, scale)


@pytest.mark.slow
def test_only_the_first_process_runs_the_program_and_all_stop_together(tmp_path: Path):
    """Batch statistics differ between rows: without a common decision the processes would stop in different epochs."""
    text = """
rng = np.random.default_rng(0)
y = rng.integers(0, 2, 90)
values = {"image": rng.normal(size=(90, 1, 28, 28)).astype("float32") + y[:, None, None, None] * 0.1,
          "table": rng.normal(size=(90, 3)).astype("float32")}
observed = {"image": rng.random(90) < 0.7, "table": np.ones(90, bool)}
task = amodal.schema.Task("binary", classes=("no", "yes"))
cohort = amodal.Cohort.from_arrays(values, task=task, target=y, observed=observed)
rows = np.arange(90)
encoders = {"image": {"name": "lenet"}, "table": {"name": "mlp", "dropout": 0.0}}
for devices in (1, 2):
    model = amodal.fit("fusion", cohort.take(rows[:60]), cohort.take(rows[60:]), encoders=encoders,
                       **settings | {"epochs": 6, "patience": 1, "devices": devices})
    print(len(model.history), round(float(model.history["valid_loss"].iloc[0]), 4))
"""
    for command in ((), ("-",)):
        source = (HEADER.format(tests=str(Path(__file__).parent)) + text) if command else None
        if command:  # as a program on standard input, which cannot be started a second time
            finished = subprocess.run([sys.executable, "-"], input=source, capture_output=True, text=True, timeout=300)
        else:
            finished = run(text, tmp_path)
        assert finished.returncode == 0, finished.stderr[:3000]
        one, two = finished.stdout.splitlines()  # two lines: nothing is printed twice
        assert one == two


@pytest.mark.slow
def test_a_process_that_ends_ends_the_training_with_its_reason(tmp_path: Path):
    text = """
import amodal.training.run as running
from amodal.training.processes import _Team
running.warn_of_collapse = lambda history: _Team.current.members[0].kill()  # as by the system, for want of memory
try:
    amodal.fit("fusion", train, valid, **settings, devices=2)
except amodal.errors.RunError as error:
    print(str(error).splitlines()[-1])
running.warn_of_collapse = lambda history: None
print(len(amodal.fit("fusion", train, valid, **settings, devices=2).history))  # new processes are started
"""
    finished = run(text, tmp_path)
    assert finished.returncode == 0, finished.stderr[:3000]
    assert finished.stdout.splitlines() == ["exit status -9", "2"]


@pytest.mark.slow
def test_torchrun_runs_the_program_once(tmp_path: Path):
    text = """
model = amodal.fit("fusion", train, valid, **settings, devices=2, out={out!r})
print("ended", len(model.history))
print("again", len(amodal.fit("cm2", train, valid, **settings, devices=2).history))
"""
    text = text.format(out=str(tmp_path / "run"))
    finished = run(text, tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert finished.returncode == 0, finished.stderr[:3000]
    assert finished.stdout.split() == ["ended", "2", "again", "2"]
