"""DRIM where shared and unique factors are known: what its critics link, and what a probe finds in the codes.

Command:  OMP_NUM_THREADS=1 python benchmarks/known_factors.py [--epochs 40]
Measures: two modalities of two numbers each, a shared factor z and one of their own, turned. For the penalty's weight
          and the learning rate: the critics' accuracy on held-out pairs (one half: they link nothing), and the share of
          the variance of z that a ridge regression on codes and their squares explains on held-out rows.
Reached:  in 12 epochs critics 0.81 and 0.85 (by rate) without the penalty, 0.58 with it; the probe finds z in unique
          codes all the same (0.98 to 0.99).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

import amodal
from amodal.schema import Task


def known_factors(n: int, seed: int) -> amodal.Cohort:
    """N cases, of which the target needs all three factors."""
    draw = np.random.default_rng(seed)
    z, a, b = draw.normal(size=(3, n)).astype(np.float32)
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]], dtype=np.float32)
    values = {"a": np.stack([z, a], axis=1) @ turn, "b": np.stack([z, b], axis=1) @ turn}
    target = (z + a + b > 0).astype(np.int64)
    return amodal.Cohort.from_arrays(values, task=Task("binary", classes=("low", "high")), target=target)


def shared_factor(cohort: amodal.Cohort) -> Tensor:
    """The factor z (N, 1), turned back from the first modality."""
    values = cohort.batch(np.arange(len(cohort))).values["a"]
    return values @ torch.tensor([[0.6], [0.8]])


def explained(codes: Tensor, z: Tensor) -> float:
    """Share of the variance of z that a ridge regression explains in the second half of the rows."""
    x = torch.cat([codes, codes.square(), torch.ones(len(codes), 1)], dim=1).double()
    y, half = z.double(), len(z) // 2
    gram = x[:half].T @ x[:half] + 1e-3 * torch.eye(x.shape[1])
    left = y[half:] - x[half:] @ torch.linalg.solve(gram, x[:half].T @ y[:half])
    return 1 - float(left.square().sum() / y[half:].square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    epochs = parser.parse_args().epochs
    train, valid, test = (known_factors(n, seed) for seed, n in enumerate((8000, 1000, 2000)))
    print(f"{'weight':>6} {'rate':>7} {'critics':>8} {'z in unique':>12} {'z in shared':>12} {'accuracy':>9}")
    for rate in (3e-3, 1e-3):
        for weight in (0.0, 0.8):
            model = amodal.fit(
                "drim",
                train,
                valid,
                missingness=None,
                options={"hidden": 8, "heads": 2, "head_width": 8, "dropout": 0.0, "w_unique": weight},
                encoders=dict.fromkeys("ab", "linear"),
                width=8,
                seed=0,
                epochs=epochs,
                batch_size=128,
                learning_rate=rate,
                schedule="constant",
                patience=None,
            )
            batch = next(iter(model.batches(test, len(test), np.arange(len(test)))))
            with torch.no_grad():
                shared, unique, _ = model.method.codes(batch)  # type: ignore[operator]
                linked = model.method.monitor(batch)["critic_accuracy"]
            z = shared_factor(test)
            right = float((model.predict(test).argmax(1) == test.target).mean())
            found = explained(unique[:, 0], z), explained(shared[:, 0], z)
            print(f"{weight:6.1f} {rate:7.4f} {linked:8.3f} {found[0]:12.3f} {found[1]:12.3f} {right:9.3f}", flush=True)


if __name__ == "__main__":
    main()
