"""Results of every kind of task, made of numbers without training, with the cohort they are about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amodal.benchmark import Experiment, FinishedRun, Results
from amodal.benchmark.stored import Condition
from amodal.data import Cohort
from amodal.evaluation import Evaluation
from amodal.missingness import MCAR, Presence, all_patterns, pattern_codes, pattern_label
from amodal.report.subject import Subject
from amodal.schema import Task

N = 90
TASKS = {
    "binary": Task("binary", name="outcome", classes=("well", "ill")),
    "multiclass": Task("multiclass", name="colour", classes=("red", "green", "blue")),
    "multilabel": Task("multilabel", name="findings", classes=("effusion", "nodule", "none")),
    "regression": Task("regression", name="stay", units="days", bins=(2.0, 4.0)),
}


def make_cohort(task: Task, notes: Sequence[str], name: str = "made") -> Cohort:
    """A cohort with a table, a series, a picture and a text, some of which are naturally absent."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(N, 11)).astype(np.float32)
    table[::3, 1] = np.nan
    series = rng.normal(size=(N, 6, 2)).astype(np.float32)
    series[:, 2, 0] = np.nan
    target = {
        "binary": rng.integers(0, 2, N),
        "multiclass": rng.integers(0, 3, N),
        "multilabel": rng.integers(0, 2, (N, 3)).astype(np.float32),
        "regression": rng.gamma(2.0, 1.5, N),
    }[task.kind]
    return Cohort.from_arrays(
        {
            "labs": table,
            "vitals": series,
            "scan": rng.random((N, 1, 6, 9)).astype(np.float32),
            "note": [None if i % 7 == 3 else notes[i % len(notes)] for i in range(N)],
        },
        task=task,
        target=target,
        ids=[f"case {i}" for i in range(N)],
        features={"labs": [f"lab {i}" for i in range(11)], "vitals": ["pulse", "pressure"]},
        units={"labs": ["mmol/l"] * 11, "vitals": ["1/min", "mmHg"]},
        name=name,
        description="Made for tests",
    )


def predict(task: Task, target: np.ndarray, observed: np.ndarray, skill: float, seed: int) -> np.ndarray:
    """Predictions that are the better, the more is present."""
    rng = np.random.default_rng(seed)
    strength = skill * observed.mean(1)
    if task.kind == "regression":
        return target * strength + target.mean() * (1 - strength) + rng.normal(0, 0.3, N)
    truth = np.eye(len(task.classes))[target] if task.is_classification else np.nan_to_num(target, nan=0.5)
    logits = 4 * strength[:, None] * (truth - 0.5) + rng.normal(0, 0.7, truth.shape)
    if task.kind == "multilabel":
        return 1 / (1 + np.exp(-logits))
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True)


@pytest.fixture
def make_run() -> Callable[..., FinishedRun]:
    """Makes a finished run on a cohort."""

    def make(cohort: Cohort, name: str, method: str, *, skill: float, seed: int = 0, full: bool = True) -> FinishedRun:
        task, names = cohort.schema.task, cohort.schema.names
        assert cohort.target is not None
        drawn = MCAR(0.4).draw(cohort.observed, names, np.random.default_rng(seed))
        experiment = Experiment(method, cohort=cohort.name, name=name, test_missingness=MCAR(0.4), seed=seed)
        noise = (seed, *map(ord, name))

        def condition(label: str, kind: str, observed: np.ndarray, rate: float = np.nan) -> Condition:
            entropy = int(np.random.SeedSequence(noise).generate_state(1)[0])
            predicted = predict(task, cohort.target, observed, skill, entropy)
            if kind == "pattern":
                predicted[~cohort.observed.all(1)] = np.nan
            return Condition(label, kind, observed, predicted, rate)

        conditions = [condition("rate 0", "rate", cohort.observed, 0.0), condition("rate 0.4", "rate", drawn, 0.4)]
        for pattern in all_patterns(len(names))[::-1]:
            label = pattern_label(int(pattern_codes(pattern[None])[0]), names)
            conditions.append(condition(label, "pattern", cohort.observed & pattern))
        presence = Presence(drawn, names, cohort.observed)
        history = pd.DataFrame({"epoch": [1, 2, 3], "train_task": [2.0, 1.0, 0.5], "valid_loss": [2.0, 1.2, 1.3]})
        return FinishedRun(
            folder=Path(f"{experiment.name}-seed{experiment.seed}"),
            experiment=experiment,
            setting=experiment.setting,
            record={
                "data": {"rows": {"train": 300, "valid": 50}, "fingerprint": "0123456789abcdef"},
                "result": {
                    "epochs": 3,
                    "best_epoch": 2,
                    "best_valid_loss": 1.2,
                    "parameters": 1234,
                    "seconds": 3.5,
                },
                "spec": {"method": method, "options": {}, "resolved": {"family": "gumbel"}, "encoders": {}},
                "training": {"epochs": 3},
                "missingness": {"train": {"mechanism": "Natural"}, "by_objective": False},
                "versions": {"python": "3.11", "torch": "2.13.0"},
            },
            metrics={"seed": seed, "resamples": 400, "presence_hash": presence.hash, "patterns": []},
            schema=cohort.schema,
            history=history if method != "boosting" else history[["epoch", "valid_loss"]].head(1),
            ids=cohort.ids,
            groups=cohort.groups,
            target=cohort.target,
            test=condition("test", "test", drawn),
            conditions=tuple(conditions) if full else (),
            train_presence=Presence(cohort.observed, names, cohort.observed),
        )

    return make


@pytest.fixture
def make_subject(make_run: Callable[..., FinishedRun]) -> Callable[..., Subject]:
    """Makes what a report is about: four methods on a cohort."""

    def make(
        kind: str = "binary",
        *,
        names: Sequence[str] = ("fusion", "modality_dropout", "per_pattern", "boosting"),
        notes: Sequence[str] = ("all is well",),
        seeds: Sequence[int] = (0,),
        cohort_name: str = "made",
        full: bool = True,
        **given: object,
    ) -> Subject:
        cohort = make_cohort(TASKS[kind], notes, cohort_name)
        methods = ("fusion", "modality_dropout", "per_pattern", "boosting")
        skills = (0.2, 0.9, 0.8, 0.6)
        runs = [
            make_run(cohort, name, method, skill=skill, seed=seed, full=full)
            for name, method, skill in zip(names, methods, skills)
            for seed in seeds
        ]
        return Subject(Results(runs), **{"title": "A report", "cohort": cohort, **given})  # type: ignore[arg-type]

    return make


@pytest.fixture
def evaluation_of() -> Callable[[FinishedRun], Evaluation]:
    """What `amodal.evaluate` says of a run's test predictions."""
    from amodal.metrics import bootstrap, metrics_for, resample_counts

    def evaluate(run: FinishedRun) -> Evaluation:
        counts = resample_counts(run.groups, 400, np.random.default_rng((run.seed, 3)))
        metrics = metrics_for(run.task.kind, bins=run.task.bins)
        row = {k: bootstrap(m, run.test.predictions, run.target, counts=counts) for k, m in metrics.items()}
        presence = Presence(run.test.observed, run.schema.names, run.test.observed)
        arrays = (run.test.predictions, run.target, run.ids, run.groups)
        return Evaluation(run.task, presence, *arrays, {"overall": row}, {"overall": N}, run.seed, 400)

    return evaluate
