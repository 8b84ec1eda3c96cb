"""Plausible labels of thousands of cases, against scikit-learn's mixture fitted case by case.

Command:  python benchmarks/plausible_labels.py [--cases 2000] [--draws 500] [--classes 10] [--oracle 40] [--threads 2]
Measures: for five families of made clouds of logits, milliseconds a case of `plausible_labels` on all cases and of
          `BayesianGaussianMixture` (same settings, same seed) on the first few, in one run and taking turns; the ratio
          in wall time and in processor time; and the share of those cases on which the two agree: the same distinct
          labels, and masses within 0.05 (total variation). "itself" is how often scikit-learn agrees with its own
          answer for another seed: where a cloud can be divided in several ways, no more is to be had. scikit-learn
          runs on one thread, which is fastest for it; the processor ratio is core for core. "fitted" is the
          share of cases that needed a mixture at all (the others' draws agree on the most probable class);
          "separate, fitted" has only such cases.
Limit:    a ratio of at least 30 in wall time on two otherwise idle cores, and agreement on at least 95 % of cases.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.mixture import BayesianGaussianMixture
from threadpoolctl import threadpool_limits

from amodal.predictive_impact import plausible_labels

COMPONENTS = 10


def groups(rng: np.random.Generator, draws: int, cases: int, classes: int, lean: float, spread: float) -> np.ndarray:
    """One to four Gaussian groups a case, each leaning to one class."""
    logits = np.empty((draws, cases, classes), np.float32)
    for i in range(cases):
        number = rng.integers(1, 5)
        group = rng.choice(number, draws, p=rng.dirichlet(np.full(number, 2.0)))
        centre = rng.normal(size=(number, classes))
        centre[np.arange(number), rng.integers(0, classes, number)] += lean
        shape = spread * rng.normal(size=(number, classes, classes)) / np.sqrt(classes)
        logits[:, i] = centre[group] + np.einsum("sc,scd->sd", rng.normal(size=(draws, classes)), shape[group])
    return logits


def decoder(rng: np.random.Generator, draws: int, cases: int, classes: int, latent: int) -> np.ndarray:
    """A random network with one hidden layer, of the case and of a Gaussian latent."""
    into, out = (
        rng.normal(size=(16 + latent, 32)) / np.sqrt(16 + latent),
        rng.normal(size=(32, classes)) * 4 / np.sqrt(32),
    )
    hidden = rng.normal(size=(cases, 16)) @ into[:16]
    z = rng.uniform(0.6, 3.0, size=(cases, 1)) * rng.normal(size=(draws, cases, latent))
    return (np.maximum(hidden + z @ into[16:], 0) @ out).astype(np.float32)


def one_cloud(rng: np.random.Generator, draws: int, cases: int, classes: int) -> np.ndarray:
    """A single Gaussian cloud a case, wherever it lies: the worst case for a mixture."""
    spread = rng.uniform(0.2, 1.5, size=(cases, 1))
    return (2 * rng.normal(size=(cases, classes)) + spread * rng.normal(size=(draws, cases, classes))).astype(
        np.float32
    )


def only_open(logits: np.ndarray) -> np.ndarray:
    """The cases whose draws disagree on the most probable class, repeated until there are as many as before."""
    best = logits.argmax(-1)
    rows = np.flatnonzero((best != best[:1]).any(0))
    return logits[:, np.resize(rows, logits.shape[1])]


def families(draws: int, cases: int, classes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    separate = groups(rng, draws, cases, classes, lean=5.0, spread=0.6)
    return {
        "separate": separate,
        "separate, fitted": only_open(separate),
        "overlapping": groups(rng, draws, cases, classes, lean=2.5, spread=1.0),
        "decoder of 2": decoder(rng, draws, cases, classes, 2),
        "decoder of 16": decoder(rng, draws, cases, classes, 16),
        "one cloud": one_cloud(rng, draws, cases, classes),
    }


def oracle(logits: np.ndarray, seed: int) -> np.ndarray:
    """Mass of each label for one case (S, C), by scikit-learn."""
    draws, classes = logits.shape
    basis = np.linalg.svd(np.ones((1, classes)))[2][1:]  # orthonormal, of the plane of centred logits
    points = (logits - logits.mean(1, keepdims=True)).astype(np.float64)
    points = points @ basis.T if classes <= 10 else points
    mixture = BayesianGaussianMixture(
        n_components=COMPONENTS,
        covariance_type="full" if classes <= 10 else "diag",
        weight_concentration_prior=0.1,
        reg_covar=1e-4 * points.var(0).mean(),
        random_state=seed,
    )
    with threadpool_limits(1):  # its matrices are too small for more threads, which only make it slower
        cluster = mixture.fit_predict(points)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    mass = np.zeros(classes)
    for k in range(COMPONENTS):
        members = cluster == k
        if members.sum() >= 0.01 * draws:
            mass[p[members].mean(0).argmax()] += members.mean()
    return mass / mass.sum()


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    labels = ((first > 0) == (second > 0)).all(1)
    return float((labels & (np.abs(first - second).sum(1) / 2 <= 0.05)).mean())


def timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """Result, wall seconds and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--oracle", type=int, default=40, help="cases that scikit-learn fits")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")  # scikit-learn's fits that do not converge within 100 updates
    print(f"{arguments.cases} cases, {arguments.draws} draws, {arguments.classes} classes, {arguments.threads} threads")
    heads = ("scikit-learn", "amodal", "ratio", "processor", "agree", "itself", "fitted")
    print(f"{'family':17}", " ".join(f"{head:>{width}}" for head, width in zip(heads, (12, 8, 6, 9, 6, 6, 6))))
    plausible_labels(np.random.default_rng(0).normal(size=(50, 8, arguments.classes)))
    for name, logits in families(arguments.draws, arguments.cases, arguments.classes).items():
        few = range(min(arguments.oracle, arguments.cases))
        half = len(few) // 2
        before = timed(lambda rows=few[:half], x=logits: np.array([oracle(x[:, i], 0) for i in rows]))
        mass, wall, processor = timed(lambda x=logits: plausible_labels(x).mass)
        after = timed(lambda rows=few[half:], x=logits: np.array([oracle(x[:, i], 0) for i in rows]))
        expected = np.concatenate([part for part in (before[0], after[0]) if len(part)])
        itself = np.array([oracle(logits[:, i], 1) for i in few])
        theirs, ours = (before[1] + after[1]) / len(few), wall / arguments.cases
        ratio = (before[2] + after[2]) / len(few) / (processor / arguments.cases)
        best = logits.argmax(-1)
        fitted = (best != best[:1]).any(0).mean()
        print(
            f"{name:17} {1e3 * theirs:9.1f} ms {1e3 * ours:5.2f} ms {theirs / ours:6.1f} {ratio:9.1f} "
            f"{agreement(mass[: len(few)], expected):6.1%} {agreement(itself, expected):6.1%} {fitted:6.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
