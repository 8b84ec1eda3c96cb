"""Pooling of sets: attention against the plain mean of the members, on the source's own question.

Command:  python benchmarks/set_pooling.py [--bags 100 300] [--seeds 0 1 2]
Measures: AUROC on 500 test bags of about ten scanned digits each; a bag counts if one of its digits is a nine
          (:cite:`ilse2018attention`, section 4.2, in small). "mean" is the same encoder with the weights of the
          attention fixed at zero, which makes it the plain mean. No digit stands in two splits.
Time:     one to two minutes of one core a seed
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import amodal
from amodal.encoders.sets import SetEncoder
from amodal.schema import Task


def bags(n: int, images: np.ndarray, digits: np.ndarray, rng: np.random.Generator) -> amodal.Cohort:
    """Bags of about ten digits, of which every second has nines."""
    nines, others = np.flatnonzero(digits == 9), np.flatnonzero(digits != 9)
    sets = []
    for i in range(n):
        size = max(2, int(rng.normal(10, 2)))
        held = rng.choice(others, size)
        if i % 2:
            held[: 1 + rng.binomial(size - 1, 0.05)] = rng.choice(nines)
        sets.append(images[rng.permutation(held)])
    task = Task("binary", classes=("no nine", "a nine"))
    return amodal.Cohort.from_arrays({"bag": sets}, task=task, target=np.arange(n) % 2, kinds={"bag": "image_set"})


def area(number: int, seed: int, attention: bool) -> float:
    """AUROC on test bags after training on so many."""
    rng = np.random.default_rng(seed)
    data = load_digits()
    images, part = (data.images[:, None] / 16.0).astype("f4"), rng.permutation(len(data.target)) % 3
    train, valid, test = (
        bags(n, images[part == i], data.target[part == i], rng) for i, n in enumerate((number, 100, 500))
    )
    began = SetEncoder.__init__

    def fixed(self: SetEncoder, *args: object) -> None:
        began(self, *args)  # type: ignore[arg-type]
        self.score.weight.requires_grad_(attention)

    SetEncoder.__init__ = fixed  # type: ignore[method-assign]
    try:
        model = amodal.fit("fusion", train, valid, epochs=40, seed=seed)
    finally:
        SetEncoder.__init__ = began  # type: ignore[method-assign]
    return float(roc_auc_score(test.target, model.predict(test)[:, 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bags", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    print(f"{'bags':>5} {'seed':>4} {'attention':>9} {'mean':>6}")
    for number in given.bags:
        for seed in given.seeds:
            found = [area(number, seed, attention) for attention in (True, False)]
            print(f"{number:5} {seed:4} {found[0]:9.3f} {found[1]:6.3f}", flush=True)


if __name__ == "__main__":
    main()
