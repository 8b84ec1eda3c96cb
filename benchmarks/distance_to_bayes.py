"""Distance of every method to the Bayes-optimal prediction, where that is known: Gaussian modalities of a made cohort.

Command:  OMP_NUM_THREADS=1 python benchmarks/distance_to_bayes.py [METHOD …] [--rows 4000] [--seeds 0]
Time:     ten to sixty seconds a method

Four classes, three tables of four features with one covariance (`GaussianModalities`), so that what is there foretells
what is absent. Each method trains with its defaults on complete rows and is asked about test rows under every pattern
of presence. Printed: mean log-likelihood of the true class less that of the optimal prediction from the same modalities
(nats; 0 is the best there is), by number of modalities present, the error rate less the optimal one over all patterns,
and processor seconds of the fit. "prior" is a prediction that knows the shares of the classes only.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

import amodal
from amodal.data.sources.synthetic import GaussianModalities
from amodal.missingness import all_patterns


def distances(method: str, rows: int, seed: int) -> tuple[dict[int, float], float, float]:
    """Distance in nats by number of modalities present, distance in error rate, and processor seconds of the fit."""
    generator = np.random.default_rng(seed)
    world = GaussianModalities.random((4, 4, 4), task="multiclass", n_classes=4, generator=generator)
    cohort = world.cohort(rows, generator=generator)
    test = cohort.split("test")
    assert test.target is not None
    started = time.process_time()
    options = {"modality": cohort.schema.names[0]} if method == "unimodal" else {}
    model = None
    if method != "prior":
        model = amodal.fit(method, cohort.split("train"), cohort.split("valid"), seed=seed, options=options)
    seconds = time.process_time() - started
    nats: dict[int, list[float]] = {}
    errors = []
    for pattern in all_patterns(len(cohort.schema.names)):
        cases = test.with_observed(np.broadcast_to(pattern, test.observed.shape))
        best = world.bayes_predictions(cases)
        shares = np.bincount(test.target, minlength=best.shape[1]) / len(test)
        found = np.broadcast_to(shares, best.shape) if model is None else model.predict(cases)
        row = np.arange(len(test))
        nats.setdefault(int(pattern.sum()), []).append(
            float(np.mean(np.log(best[row, test.target]) - np.log(np.maximum(found[row, test.target], 1e-12))))
        )
        errors.append(np.mean(best.argmax(1) == test.target) - np.mean(found.argmax(1) == test.target))
    return {number: float(np.mean(values)) for number, values in nats.items()}, float(np.mean(errors)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default: every method, and the prior")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    methods = asked.methods or ["prior", *(name for name in amodal.METHODS if name != "unimodal")]
    print(f"{'method':18} {'seed':>4} {'1 of 3':>8} {'2 of 3':>8} {'3 of 3':>8} {'errors':>8} {'seconds':>8}")
    warnings.simplefilter("ignore")
    for method in methods:
        for seed in asked.seeds:
            nats, error, seconds = distances(method, asked.rows, seed)
            numbers = " ".join(f"{nats[number]:8.3f}" for number in sorted(nats))
            print(f"{method:18} {seed:4} {numbers} {error:+8.3f} {seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
