"""Batches per second of the loader, against a plain DataLoader that reads sample by sample, and against the limit.

Command:  OMP_NUM_THREADS=1 python benchmarks/loader.py [--samples 200000] [--batch-size 256] [--seconds 3]
Measures: shuffled, standardised batches per second in this process, in memory and memory-mapped, for a cohort of 48
          hours of 8 vital signs with holes, 32 laboratory values of two thirds of the samples, and 4 small images.
          The plain loader has the same arrays in memory, does the same work for a sample (standardise, blank what is
          not there, say what was measured), and collates by default. The limit is gathering the rows with numpy and
          nothing else. With --samples 1000000: how long a cohort of a million takes to open, and the memory of the
          process (not counting the pages of the files) before opening, after opening and after the batches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from amodal.data import Cohort, Scaling, make_loader, split_groups
from amodal.schema import Task


def arrays_of(n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    vitals = rng.standard_normal((n, 48, 8), dtype=np.float32)
    vitals[rng.random(vitals.shape, dtype=np.float32) < 0.3] = np.nan
    labs = rng.standard_normal((n, 32), dtype=np.float32)
    labs[rng.random(n) < 1 / 3] = np.nan
    images = {f"image{k}": rng.integers(0, 17, (n, 1, 4, 4), dtype=np.uint8) for k in range(4)}
    return {"vitals": vitals, "labs": labs, **images}, rng.integers(0, 2, n)


class PlainSamples(Dataset):
    """The usual data set: one sample a call, as a dict."""

    def __init__(self, values: dict[str, np.ndarray], target: np.ndarray, scaling: Scaling):
        self.values, self.target, self.scaling = values, target, scaling

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, row: int) -> dict:
        sample = {"target": self.target[row]}
        for name, array in self.values.items():
            value = torch.from_numpy(array[row]).float()
            measured = ~torch.isnan(value)
            scaled = ((value - self.scaling.means[name]) / self.scaling.scales[name]).clamp_(-10, 10)
            sample[name] = torch.where(measured, scaled, 0.0)
            sample[f"observed_{name}"] = measured.any()
            if array.dtype == np.float32:
                sample[f"measured_{name}"] = measured
        return sample


class BareGather:
    """The limit: the rows of every array, and nothing else."""

    def __init__(self, values: dict[str, np.ndarray], batch_size: int):
        self.values, self.batch_size = values, batch_size

    def __iter__(self):
        n = len(self.values["vitals"])
        order = np.random.default_rng(0).permutation(n)
        for start in range(0, n, self.batch_size):
            yield [array.take(order[start : start + self.batch_size], axis=0) for array in self.values.values()]


def rate(batches: Iterable, seconds: float) -> float:
    """Batches per second, after the first."""
    iterator = iter(batches)
    next(iterator)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        if next(iterator, None) is None:
            iterator = iter(batches)
        count += 1
    return count / (time.perf_counter() - start)


def own_memory() -> float:
    """Megabytes of memory that this process holds besides pages of files (Linux)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    torch.set_num_threads(1)

    values, target = arrays_of(options.samples)
    cohort = Cohort.from_arrays(
        values,
        task=Task("binary", classes=("no", "yes")),
        target=target,
        splits=split_groups(np.arange(options.samples), target, seed=0),
    )
    scaling = Scaling.fit(cohort.take(np.arange(min(10_000, options.samples))))
    size = options.batch_size

    def loader(of: Cohort) -> DataLoader:
        return make_loader(of, size, scaling=scaling, shuffle=True)

    rates = {
        "plain, sample by sample": rate(
            DataLoader(PlainSamples(values, target, scaling), size, shuffle=True), options.seconds
        ),
        "amodal, in memory": rate(loader(cohort), options.seconds),
        "bare gather (limit)": rate(BareGather(values, size), options.seconds),
    }
    with tempfile.TemporaryDirectory() as folder:
        cohort.save(Path(folder) / "cohort")
        del cohort, values
        memory = [own_memory()]
        start = time.perf_counter()
        mapped = Cohort.open(Path(folder) / "cohort")
        opening = time.perf_counter() - start
        memory.append(own_memory())
        rates["amodal, memory-mapped"] = rate(loader(mapped), options.seconds)
        memory.append(own_memory())

    print(f"{options.samples} samples, batches of {size}\n")
    print(f"{'':<26}{'batches/s':>10}{'of plain':>10}{'of limit':>10}")
    for what, speed in rates.items():
        of_plain, of_limit = speed / rates["plain, sample by sample"], speed / rates["bare gather (limit)"]
        print(f"{what:<26}{speed:>10.1f}{of_plain:>10.1f}{of_limit:>10.2f}")
    print(f"\nopened in {opening:.2f} s; own memory {' -> '.join(f'{m:.0f}' for m in memory)} MB")
    print("(before opening, after opening, after the batches)")


if __name__ == "__main__":
    main()
