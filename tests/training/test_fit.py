"""Training: determinism, selection on validation only, hooks, resuming after a kill, and what bad input is told."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from torch import nn

import amodal
from amodal.batch import Batch
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError, RunError, UnknownNameError
from amodal.method import LossTerms, Method, OptimiserSettings
from amodal.methods import METHODS
from amodal.missingness import MCAR, Natural
from amodal.schema import Schema, Task
from amodal.seeds import mix_seed
from amodal.settings import TrainingSettings

SETTINGS = {"epochs": 3, "batch_size": 16, "device": "cpu", "seed": 3, "width": 8}


def made_cohort(n: int = 96, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, n)
    values = {"a": rng.normal(size=(n, 3)) + target[:, None], "b": rng.normal(size=(n, 2)) - target[:, None]}
    observed = {"a": rng.random(n) < 0.8, "b": np.ones(n, dtype=bool)}
    splits = np.repeat(["train", "valid"], [n - n // 4, n // 4])
    return Cohort.from_arrays(
        values, task=Task("binary", classes=("no", "yes")), target=target, observed=observed, splits=splits, name="made"
    )


def parts(cohort: Cohort) -> tuple[Cohort, Cohort]:
    return cohort.split("train"), cohort.split("valid")


def state(model: TrainedModel) -> dict[str, torch.Tensor]:
    return model.method.state_dict()


def assert_same_weights(first: TrainedModel, second: TrainedModel) -> None:
    for (name, a), b in zip(state(first).items(), state(second).values(), strict=True):
        assert torch.equal(a, b), name


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    train, valid = parts(made_cohort())
    first, second = (amodal.fit("fusion", train, valid, **SETTINGS) for _ in range(2))
    assert_same_weights(first, second)
    other = amodal.fit("fusion", train, valid, **{**SETTINGS, "seed": 4})
    assert any(not torch.equal(a, b) for a, b in zip(state(first).values(), state(other).values()))


def test_every_method_with_encoders_is_watched_for_collapse(monkeypatch, tmp_path):
    train, valid = parts(made_cohort())
    model = amodal.fit("fusion", train, valid, **SETTINGS, out=tmp_path / "run")
    stored = pd.read_csv(tmp_path / "run" / "history.csv")
    for history in (model.history, stored):
        assert (history["pooled_rank"] > 1).all()
        assert (history["pooled_spread"] > 0).all()
    calls = iter(range(3))

    def collapsing(self, batch):
        vectors = torch.randn(20, 1, 4, generator=torch.Generator().manual_seed(0)) * 1e-3 ** next(calls)
        return {"pooled": (vectors, torch.ones(20, 1, dtype=torch.bool))}

    monkeypatch.setattr(METHODS["fusion"], "representations", collapsing)
    with pytest.warns(UserWarning, match="epoch 2: pooled representations have collapsed to a point"):
        amodal.fit("fusion", train, valid, **SETTINGS)


def test_what_is_remembered_of_training_rows_has_no_gradient():
    train, valid = parts(made_cohort())
    model = amodal.fit("m3care", train, valid, epochs=1, seed=0, width=8, progress=False, device="cpu")
    assert len(model.method.bank_features) == len(train)
    assert not [key for key, value in model.method.named_buffers() if value.requires_grad]


def test_the_global_generators_are_left_alone():
    train, valid = parts(made_cohort())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    amodal.fit("fusion", train, valid, **SETTINGS)
    assert torch.equal(before, torch.get_rng_state())


def test_learns_what_can_be_learnt():
    train, valid = parts(made_cohort(400))
    model = amodal.fit("fusion", train, valid, epochs=15, seed=0, width=16, device="cpu")
    test = made_cohort(400, seed=9)
    accuracy = (model.predict(test).argmax(1) == test.target).mean()
    # unit Gaussians whose means are a distance of 1 apart in each of 5 (or, where "a" is absent, 2) coordinates
    bayes = np.where(test.observed[:, 0], norm.cdf(math.sqrt(5) / 2), norm.cdf(math.sqrt(2) / 2)).mean()
    assert bayes - 0.03 < accuracy < bayes + 0.04


def test_best_epoch_is_the_one_with_the_lowest_validation_loss():
    train, valid = parts(made_cohort())
    settings = SETTINGS | {"epochs": 8, "learning_rate": 0.1, "patience": None, "recalibrate": False}
    model = amodal.fit("fusion", train, valid, **settings)
    losses = model.history["valid_loss"].to_numpy()
    assert model.experiment["result"]["best_epoch"] == int(losses.argmin()) + 1
    probabilities = model.predict(valid)
    nll = -np.log(probabilities[np.arange(len(valid)), valid.target])
    expected = -np.log(
        model.predict(valid.with_observed(draw_valid(valid, SETTINGS["seed"])))[np.arange(len(valid)), valid.target]
    ).mean()
    assert np.isfinite(nll).all()
    np.testing.assert_allclose(losses.min(), expected, rtol=1e-4)


def test_best_epoch_by_the_share_of_wrong_predictions(tmp_path):
    train, valid = parts(made_cohort())
    settings = {**SETTINGS, "epochs": 8, "learning_rate": 0.1, "patience": None, "best_by": "error"}
    model = amodal.fit("fusion", train, valid, **settings, out=tmp_path / "run")
    history, result = model.history, model.experiment["result"]
    best = int(history["valid_error"].argmin())
    assert best != int(history["valid_loss"].argmin())  # else this shows nothing
    assert result["best_epoch"] == best + 1
    assert result["best_valid_loss"] == history["valid_loss"][best]
    rows = valid.with_observed(draw_valid(valid, SETTINGS["seed"]))
    assert (model.predict(rows).argmax(1) != valid.target).mean() == pytest.approx(history["valid_error"].min())


def test_a_regression_has_no_wrong_predictions():
    cohort = Cohort.from_arrays(
        {"a": np.arange(40.0)[:, None], "b": np.ones((40, 2))}, task=Task("regression"), target=np.arange(40.0)
    )
    with pytest.raises(ConfigurationError, match="no share of wrong predictions.*best_by='loss'"):
        amodal.fit("fusion", cohort, best_by="error", **SETTINGS)


def draw_valid(valid: Cohort, seed: int) -> np.ndarray:
    from amodal.missingness import BalancedCounts
    from amodal.presence import draw_presence

    return draw_presence(BalancedCounts(), valid, (seed, 1)).observed


def test_weights_that_are_no_numbers_end_the_training(tmp_path):
    train, valid = parts(made_cohort())
    with pytest.raises(
        RunError, match=r"diverged in epoch 1 .*finite losses and weights.*Lower learning_rate"
    ) as caught:
        amodal.fit("fusion", train, valid, epochs=3, learning_rate=1e30, clip=None, seed=0, out=tmp_path / "run")
    assert "task" in str(caught.value)
    assert not list(tmp_path.rglob("model.safetensors"))  # nothing that is no numbers is stored as a model


def test_patience_stops_early():
    train, valid = parts(made_cohort())
    model = amodal.fit("fusion", train, valid, **{**SETTINGS, "epochs": 50, "learning_rate": 0.3, "patience": 2})
    assert len(model.history) < 50
    assert len(model.history) - model.experiment["result"]["best_epoch"] == 2


def test_a_tenth_is_held_back_by_group_when_there_is_no_validation_set():
    cohort = made_cohort()
    model = amodal.fit("fusion", cohort, **SETTINGS)
    rows = model.experiment["data"]["rows"]
    assert rows["train"] + rows["valid"] == len(cohort)
    assert 0 < rows["valid"] <= len(cohort) // 5


def test_removal_is_redrawn_every_epoch_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[int, ...]] = []
    original = METHODS["fusion"].objective

    def spy(self: Method, batch: Batch, generator: torch.Generator) -> LossTerms:
        seen.append(tuple(batch.presence.sum(0).tolist()))
        return original(self, batch, generator)

    monkeypatch.setattr(METHODS["fusion"], "objective", spy)
    train, valid = parts(made_cohort())

    def per_epoch(**more: object) -> list[tuple[int, ...]]:
        seen.clear()
        amodal.fit("fusion", train, valid, missingness=MCAR(0.3), **{**SETTINGS, **more})
        steps = len(seen) // SETTINGS["epochs"]
        return [tuple(np.sum(seen[i * steps : (i + 1) * steps], axis=0)) for i in range(SETTINGS["epochs"])]

    assert len(set(per_epoch())) > 1
    assert len(set(per_epoch(redraw=False))) == 1


def test_missingness_none_removes_nothing():
    train, valid = parts(made_cohort())
    model = amodal.fit("fusion", train, valid, missingness=None, **SETTINGS)
    assert model.presence is not None
    np.testing.assert_array_equal(model.presence.observed, train.observed)


def test_regression_is_trained_in_standardised_units_and_predicted_in_the_target_s():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    cohort = Cohort.from_arrays(
        {"a": x, "b": rng.normal(size=(300, 2))}, task=Task("regression", units="g"), target=3000 + 500 * x[:, 0]
    )
    model = amodal.fit("fusion", cohort, missingness=None, epochs=40, seed=0, device="cpu", width=16, batch_size=32)
    predicted = model.predict(cohort)
    assert abs(predicted.mean() - 3000) < 60
    assert np.corrcoef(predicted, x[:, 0])[0, 1] > 0.97


# Hooks ------------------------------------------------------------------------------------------------------------


class Adversaries(Method):
    """Two optimisers with parameters of their own, a moving average, and a record of what was called."""

    optimisers: ClassVar = {"main": OptimiserSettings(), "critic": OptimiserSettings(weight_decay=0.0)}

    def __init__(self, schema: Schema, encoders: object = None):
        super().__init__(schema)
        self.main, self.critic = nn.Linear(3, 2), nn.Linear(3, 1)
        self.register_buffer("average", torch.zeros(2, 3))
        self.register_buffer("prepared", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def prepare(self, batches):  # type: ignore[no-untyped-def]
        self.prepared += sum(len(batch) for batch in batches)

    def parameters_of(self, optimiser: str):  # type: ignore[no-untyped-def]
        return (self.main if optimiser == "main" else self.critic).parameters()

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        return LossTerms({"task": nn.functional.cross_entropy(self.main(batch.values["a"]), batch.target)})

    def objectives(self, batch: Batch, generator: torch.Generator) -> dict[str, LossTerms]:
        critic = LossTerms({"critic": (self.critic(batch.values["a"]) - 7).square().mean()})
        return {"main": self.objective(batch, generator), "critic": critic}

    def after_step(self) -> None:
        self.steps += 1
        self.average.lerp_(self.main.weight.detach(), 0.1)

    def predict(self, batch: Batch) -> torch.Tensor:
        return self.main(batch.values["a"]).softmax(-1)


def test_hooks_are_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(METHODS, "adversaries", Adversaries)
    train, valid = parts(made_cohort())
    arguments = {**SETTINGS, "epochs": 30, "patience": None, "learning_rate": 0.1, "missingness": None}
    model = amodal.fit("adversaries", train, valid, **arguments, out=tmp_path / "run")
    method = model.method
    assert isinstance(method, Adversaries)
    assert {"main.train_task", "critic.train_critic"} <= set(model.history)
    assert model.history["critic.train_critic"].iloc[-1] < 5 < model.history["critic.train_critic"].iloc[0]
    assert method.prepared == len(train)
    assert method.average.abs().sum() > 0
    assert_same_weights(model, TrainedModel.load(tmp_path / "run"))


def test_the_average_of_the_weights_is_validated_kept_and_predicted_with():
    """Against the recursion by hand, from weights recorded after every step."""
    train, valid = parts(made_cohort())
    settings = SETTINGS | {"epochs": 2, "recalibrate": False, "patience": None}
    steps: list[torch.Tensor] = []

    class Watched(METHODS["fusion"]):  # type: ignore[misc, name-defined]
        def after_step(self):
            steps.append(torch.cat([p.detach().reshape(-1) for p in self.parameters()]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "fusion", Watched)
        plain = amodal.fit("fusion", train, valid, **settings, weight_average=0.0)
        raw = steps.copy()
        steps.clear()
        model = amodal.fit("fusion", train, valid, **settings, weight_average=0.9)
    assert all(torch.equal(a, b) for a, b in zip(raw, steps)), "training itself goes on as without"
    mean, per_epoch = steps[0], len(steps) // 2
    means = []
    for step, weights in enumerate(steps):
        keep = min(0.9, (1 + step) / (10 + step))
        mean = keep * mean + (1 - keep) * weights
        if step % per_epoch == per_epoch - 1:
            means.append(mean)
    best = model.experiment["result"]["best_epoch"]
    kept = torch.cat([p.detach().reshape(-1) for p in model.method.parameters()])
    torch.testing.assert_close(kept, means[best - 1])
    assert not torch.equal(kept, torch.cat([p.detach().reshape(-1) for p in plain.method.parameters()]))
    with pytest.raises(ConfigurationError, match="weight_average is out of range"):
        TrainingSettings(weight_average=1.0)


def test_gradients_are_clipped_by_group(monkeypatch: pytest.MonkeyPatch):
    norms: list[float] = []

    class Clipped(Adversaries):
        optimisers: ClassVar = {"main": OptimiserSettings()}

        def parameters_of(self, optimiser: str):  # type: ignore[no-untyped-def]
            return self.parameters()

        def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
            x = batch.values["a"]
            return LossTerms({"big": 1e4 * self.main(x).square().mean(), "small": 1e-4 * self.critic(x).mean()})

        def clip_groups(self, optimiser: str):  # type: ignore[no-untyped-def]
            return [list(self.main.parameters()), list(self.critic.parameters())]

        def after_step(self) -> None:
            gradients = [torch.cat([p.grad.flatten() for p in part.parameters()]) for part in (self.main, self.critic)]
            norms.append((gradients[0].norm().item(), gradients[1].norm().item()))  # type: ignore[arg-type]

        def objectives(self, batch: Batch, generator: torch.Generator) -> dict[str, LossTerms]:
            return {"main": self.objective(batch, generator)}

    monkeypatch.setitem(METHODS, "clipped", Clipped)
    train, valid = parts(made_cohort())
    amodal.fit("clipped", train, valid, **{**SETTINGS, "clip": 0.5, "missingness": None})
    large, small = np.array(norms).T
    assert (large <= 0.5 + 1e-5).all()
    assert (small > 1e-5).all(), "the small group must not shrink with the large one"


# Resuming ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import test_fit as t
import amodal
train, valid = t.parts(t.made_cohort())
from amodal.training.state import TrainingState
original = TrainingState.save
def slow(self, *arguments):
    original(self, *arguments)
    time.sleep({pause})
TrainingState.save = slow
amodal.fit("fusion", train, valid, **t.RESUMED, out={out!r}, resume={resume})
"""
RESUMED = {**SETTINGS, "epochs": 6, "patience": None, "options": {"dropout": 0.3}}


def run_script(out: Path, *, pause: float, resume: bool) -> subprocess.Popen[bytes]:
    text = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out), pause=pause, resume=resume)
    return subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_resuming_after_kill_9_gives_the_weights_of_an_uninterrupted_run(tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_script(whole, pause=0, resume=False).wait(timeout=120) == 0
    process = run_script(broken, pause=0.5, resume=False)
    history, deadline = broken / "history.csv", time.monotonic() + 120
    while not (history.is_file() and history.stat().st_size and len(pd.read_csv(history)) >= 3):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (broken / "experiment.json").exists(), "a killed run must not look complete"
    with pytest.raises(RunError, match="is incomplete: it lacks experiment.json"):
        TrainedModel.load(broken)
    assert run_script(broken, pause=0, resume=True).wait(timeout=120) == 0
    first, second = TrainedModel.load(whole), TrainedModel.load(broken)
    assert_same_weights(first, second)
    columns = [c for c in first.history if c != "seconds"]
    pd.testing.assert_frame_equal(first.history[columns], second.history[columns], check_exact=True)


def test_resuming_a_finished_run_loads_it_and_another_one_is_refused(tmp_path: Path):
    train, valid = parts(made_cohort())
    model = amodal.fit("fusion", train, valid, **SETTINGS, out=tmp_path / "run")
    again = amodal.fit("fusion", train, valid, **SETTINGS, out=tmp_path / "run", resume=True)
    assert_same_weights(model, again)
    with pytest.raises(RunError, match=r"is not empty.*resume=True"):
        amodal.fit("fusion", train, valid, **SETTINGS, out=tmp_path / "run")
    with pytest.raises(RunError, match="started with other arguments: seed"):
        amodal.fit("fusion", train, valid, **{**SETTINGS, "seed": 9}, out=tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="does not hold a run"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").write_text("mine")
        amodal.fit("fusion", train, valid, **SETTINGS, out=tmp_path / "other", resume=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def changed_value(cohort: Cohort) -> Cohort:
    """The same rows but for one present number."""
    values = {name: cohort.stores[name].values.copy() for name in ("a", "b")}
    row = int(np.flatnonzero(cohort.observed[:, 0])[0])
    values["a"][row, 2] += 1e-3
    return Cohort.from_arrays(
        values,
        task=cohort.schema.task,
        target=cohort.target,
        observed=cohort.observed,
        splits=cohort.splits,
        name=cohort.name,
    )


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_is_not_resumed_with_other_values(finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither a finished one, whose model would be of other data, nor one that would go on half trained."""
    cohort = made_cohort()
    if not finished:
        monkeypatch.setattr("amodal.training.run.Run._finish", lambda self: None)
    amodal.fit("fusion", *parts(cohort), **SETTINGS, out=tmp_path / "run")
    monkeypatch.undo()
    other = changed_value(cohort)
    with pytest.raises(RunError, match=r"other arguments: data \(.*values of 'a' of the train rows"):
        amodal.fit("fusion", *parts(other), **SETTINGS, out=tmp_path / "run", resume=True)
    cohort.save(tmp_path / "cohort")
    again = amodal.fit(
        "fusion", *parts(Cohort.open(tmp_path / "cohort")), **SETTINGS, out=tmp_path / "run", resume=True
    )
    assert len(again.history) == 3  # the same content from another place is the same data


def test_a_fit_of_one_process_writes_its_run_whatever_a_scheduler_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scheduler = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "fits"}
    scheduler |= {"RANK": "abc", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
    for name, value in scheduler.items():
        monkeypatch.setenv(name, value)
    for method in ("fusion", "boosting"):
        options = {"steps": 2, "redraws": 1} if method == "boosting" else {}
        model = amodal.fit(method, *parts(made_cohort()), **SETTINGS, options=options, out=tmp_path / method)
        assert_same_weights(model, TrainedModel.load(tmp_path / method))


# Elsewhere than in one process in float32 ---------------------------------------------------------------------------


def test_mixed_precision_and_tensorboard(tmp_path: Path):
    train, valid = parts(made_cohort())
    model = amodal.fit(
        "fusion", train, valid, **SETTINGS, precision="bf16-mixed", loggers=["tensorboard"], out=tmp_path / "run"
    )
    assert np.isfinite(model.history["valid_loss"]).all()
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"method": "fushion"}, UnknownNameError, "unknown method 'fushion'.*Did you mean 'fusion'"),
        ({"epochs": 0}, ConfigurationError, "epochs is out of range .expected 1 or more, got 0"),
        ({"epoch": 3}, UnknownNameError, "unknown setting of fit 'epoch'.*Did you mean 'epochs'"),
        ({"optimiser": "sgdd"}, UnknownNameError, "unknown optimiser 'sgdd'"),
        ({"best_by": "accuracy"}, UnknownNameError, "unknown best_by 'accuracy'.*error, loss"),
        ({"missingness": "balance"}, UnknownNameError, "unknown missingness 'balance'"),
        ({"options": {"hiden": 3}}, UnknownNameError, "unknown option of fusion 'hiden'.*Did you mean 'hidden'"),
        ({"encoders": {"c": "mlp"}}, UnknownNameError, "'c'.*expected one of a, b"),
        ({"device": "tpu0"}, ConfigurationError, "device"),
        ({"loggers": ["csvv"], "out": "x"}, UnknownNameError, "unknown logger 'csvv'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, kind: type, words: str, tmp_path: Path):
    train, valid = parts(made_cohort())
    given = {**SETTINGS, **arguments}
    method = given.pop("method", "fusion")
    if "out" in given:
        given["out"] = tmp_path / "run"
    with pytest.raises(kind, match=words):
        amodal.fit(method, train, valid, **given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_that_is_not_there():
    train, valid = parts(made_cohort())
    with pytest.raises(RunError, match=r"CUDA was asked for.*device='cpu'"):
        amodal.fit("fusion", train, valid, **{**SETTINGS, "device": "cuda"})


def test_training_rows_that_cannot_be_learnt_from():
    cohort = made_cohort()
    train, valid = parts(cohort)
    nothing = train.observed.copy()
    nothing[3] = False
    with pytest.raises(DataError, match=f"no modality observed: {train.ids[3]}"):
        amodal.fit("fusion", train.with_observed(nothing), valid, **SETTINGS)
    never = train.observed.copy()
    never[:, 0] = False
    with pytest.raises(DataError, match="never observed in training: a"):
        amodal.fit("fusion", train.with_observed(never), valid, **SETTINGS)
    with pytest.raises(DataError, match="same class of 'target'"):
        amodal.fit("fusion", train.take(np.flatnonzero(train.target == 1)), valid, **SETTINGS)


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    train, valid = parts(made_cohort())
    with pytest.raises(RunError, match="cannot write to"):
        amodal.fit("fusion", train, valid, **SETTINGS, out=tmp_path / "file" / "run")


def test_seeds_of_steps_do_not_collide():
    seeds = {mix_seed(seed, epoch, step) for seed in range(4) for epoch in range(30) for step in range(50)}
    assert len(seeds) == 4 * 30 * 50


def test_natural_is_what_a_method_with_its_own_removal_gets():
    train, valid = parts(made_cohort())
    model = amodal.fit("modality_dropout", train, valid, **SETTINGS)
    assert model.experiment["missingness"]["train"] == Natural().to_json()


def test_independent_sub_models_keep_their_own_best_weights():
    train, valid = parts(made_cohort(200))
    model = amodal.fit("per_pattern", train, valid, epochs=25, seed=0, width=8, learning_rate=0.05, device="cpu")
    method = model.method
    with torch.no_grad():
        batch = next(model.batches(valid))
        final = {prefix: losses.mean().item() for prefix, losses in method.eval().part_losses(batch).items()}
    assert set(final) == {"models.10.", "models.01.", "models.11."}
    together = amodal.fit(
        "per_pattern", train, valid, epochs=25, seed=0, width=8, learning_rate=0.05, device="cpu", patience=None
    )
    with torch.no_grad():
        longer = {prefix: losses.mean().item() for prefix, losses in together.method.part_losses(batch).items()}
    for prefix, loss in final.items():
        assert longer[prefix] <= loss + 1e-6, "training on can only find better weights for each part"


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_a_training_that_learns_nothing_is_said(kind):
    """One of each task, at a rate at which nothing moves; the prior's loss is that of the targets' mean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    target = {"multilabel": (x[:, :2] > 0).astype(float), "regression": 5 + 3 * x[:, 0]}.get(kind, x[:, 0] > 0)
    classes = {"binary": ("a", "b"), "multiclass": ("a", "b", "c"), "multilabel": ("a", "b")}.get(kind, ())
    target = target if target.dtype == float else target.astype(int)
    cohort = Cohort.from_arrays({"t": x}, task=Task(kind, classes=classes), target=target)
    train, valid = cohort.take(np.arange(280)), cohort.take(np.arange(280, 400))
    common = {"seed": 0, "width": 8, "epochs": 11, "patience": None, "recalibrate": False, "missingness": None}
    with pytest.warns(UserWarning, match="epoch 10: nothing has been learnt"):
        amodal.fit("fusion", train, valid, **common, learning_rate=1e-9)
    model = amodal.fit("fusion", train, valid, **common)
    prior = model.history["valid_prior"].iloc[0]
    assert model.history["valid_loss"].min() < 0.8 * prior
    share = target[:280].mean(0)
    if kind == "binary":
        assert prior == pytest.approx(-np.log(np.where(target[280:] == 1, share, 1 - share)).mean(), rel=1e-5)
    if kind == "regression":
        expected = (((target[280:] - share) / target[:280].std()) ** 2).mean()
        assert prior == pytest.approx(expected, rel=1e-3)
