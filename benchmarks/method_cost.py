"""Cost of a training step and of a prediction by each method, as ratios to plain fusion.

Command:  OMP_NUM_THREADS=1 python benchmarks/method_cost.py [METHOD[:PRESET or :OPTIONS as JSON] ...]

Digits in four quadrants, every pattern of presence (`BalancedCounts`), batches of 128, the encoders that a method
prefers, options by default, of a preset ("primo:predictive") or given ('modality_dropout:{"patterns": 4}'), all
objectives of a method and their gradients, prediction with as many draws as the method makes. Processor time; each
figure is the median over rounds of the ratio to fusion measured next to it. `boosting` is not trained by steps.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

import amodal
from amodal.checkpoint import encoder_choices
from amodal.encoders import build_encoders
from amodal.method import EstimatedMethod, Method, inference
from amodal.methods import METHODS, method_options
from amodal.missingness import BalancedCounts
from amodal.presence import draw_presence

BATCH, ROUNDS = 128, 7
OPTIONS = {"unimodal": {"modality": "top_left"}}


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    started = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - started) / repeats


def main(names: list[str]) -> None:
    train = amodal.load_cohort("digits").split("train")
    train = train.with_observed(draw_presence(BalancedCounts(), train, 0).observed)
    batch = train.batch(np.arange(BATCH))

    def build(name: str) -> Method:
        torch.manual_seed(0)
        name, _, preset = name.partition(":")
        given = json.loads(preset) if preset.startswith("{") else {"preset": preset} if preset else {}
        resolved = method_options(name, OPTIONS.get(name, {}) | given)
        encoders = build_encoders(train.schema, choices=encoder_choices(name, train.schema, {}))
        method = METHODS[name](train.schema, encoders, **resolved)  # type: ignore[call-arg]
        method.prepare([batch])
        with inference(method):
            method.remember([batch])
        return method

    def step(method: Method) -> None:
        method.train()
        method.zero_grad()
        objectives = method.objectives(batch, torch.Generator().manual_seed(0))
        sum(terms.total for terms in objectives.values()).backward()  # type: ignore[union-attr]
        method.after_step()

    def predict(method: Method) -> None:
        method.eval()
        with torch.no_grad():
            method.predict(batch)

    fusion = build("fusion")
    print(f"{'method':<32} {'step':>6} {'prediction':>11}   ratios to fusion")
    for name in names or METHODS:
        if issubclass(METHODS[name.partition(":")[0]], EstimatedMethod):
            continue
        method = build(name)
        ratios = []
        for work in (step, predict):
            work(method)
            rounds = [seconds(partial(work, method)) / seconds(partial(work, fusion)) for _ in range(ROUNDS)]
            ratios.append(statistics.median(rounds))
        print(f"{name:<32} {ratios[0]:6.1f} {ratios[1]:11.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
