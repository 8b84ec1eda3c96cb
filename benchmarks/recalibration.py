"""Recalibration switched off: negative log likelihood of test rows with it and without, by number present.

Command:  python benchmarks/recalibration.py [RUN …] [--data digits] [--split test]

A line a run: under every pattern of k modalities the mean over the patterns (of what a row has), with the recalibration
that the run stores and with it undone; and the slopes. Runs without one, and regressions, are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import amodal
from amodal.checkpoint import TrainedModel
from amodal.missingness import all_patterns


def trained_here() -> TrainedModel:
    train, valid = (amodal.load_cohort("digits").split(name) for name in ("train", "valid"))
    return amodal.fit("modality_dropout", train, valid, epochs=10, seed=0, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="none: one of modality_dropout on digits, trained here")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    cohort = amodal.load_cohort(given.data).split(given.split)
    models = {run.name: TrainedModel.load(run) for run in given.runs} or {"trained here": trained_here()}
    for run, model in models.items():
        kept = model.recalibration
        if kept is None:
            continue
        traits = model.schema.task.traits
        by_number: dict[int, list[tuple[float, float]]] = {}
        for pattern in all_patterns(len(cohort.schema.names)):
            rows = cohort.with_observed(cohort.observed & pattern)
            rows = rows.take(np.flatnonzero(rows.observed.any(axis=1)))
            present = torch.from_numpy(rows.observed.sum(axis=1))
            with_it = torch.as_tensor(model.predict(rows, on_empty="silent"))
            target = torch.as_tensor(rows.target)
            losses = [
                float(traits.prediction_loss(p, target).mean()) for p in (with_it, kept.undo(with_it, present, traits))
            ]
            by_number.setdefault(int(pattern.sum()), []).append((losses[0], losses[1]))
        parts = [
            f"{k} present {np.mean(pairs, axis=0)[0]:.3f} (without {np.mean(pairs, axis=0)[1]:.3f})"
            for k, pairs in sorted(by_number.items())
        ]
        print(f"{run:<28} {'; '.join(parts)}; slopes {', '.join(f'{s:.2f}' for s in kept.slopes[1:])}", flush=True)


if __name__ == "__main__":
    main()
