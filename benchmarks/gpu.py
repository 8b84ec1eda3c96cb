"""Every method on every kind of modality on a GPU: values against the CPU, steps a second, share of the device's peak.

Command:  python benchmarks/gpu.py --out gpu.json          under five minutes on one GPU
          python benchmarks/gpu.py --small --out gpu.json  the same on the processor, in small: a test of the script
Each method is trained a few steps in float32 on the CPU and on the device, with the same seed, and in bf16 on the
device; `difference` is the largest difference of predicted probabilities to the CPU's. Steps a second are of the
device, batches of 256. The encoder-bound step is a ViT of 224 × 224 images, forward and backward in bf16; its share is
of what a large matrix product reaches on the same device. A method that fails is in the file with its error; the rest
goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import amodal
from amodal.data import Cohort
from amodal.files import write_json
from amodal.method import EstimatedMethod
from amodal.missingness import BalancedCounts
from amodal.schema import Task
from amodal.versions import versions

KINDS = (("tabular", "series"), ("image", "text"), ("tabular", "series", "image", "text"))
OPTIONS: dict[str, dict[str, Any]] = {}
TOLERANCE = {"32-true": 0.02, "bf16-mixed": 0.15}


def made_cohort(kinds: tuple[str, ...], rows: int, side: int) -> Cohort:
    """Rows of random values of each kind, with a label that all of them show."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, rows)
    words = np.array(["clear lungs no effusion", "large opacity and edema"])
    shift = label[:, None].astype(np.float32)
    values: dict[str, Any] = {
        "tabular": rng.normal(size=(rows, 16)).astype(np.float32) + shift,
        "series": rng.normal(size=(rows, 48, 16)).astype(np.float32) + shift[..., None],
        "image": (rng.integers(0, 128, (rows, 1, side, side)) + 100 * label[:, None, None, None]).astype(np.uint8),
        "text": words[label].tolist(),
    }
    splits = np.where(np.arange(rows) % 4 == 0, "valid", "train")
    task = Task("binary", classes=("no", "yes"))
    return Cohort.from_arrays({kind: values[kind] for kind in kinds}, task=task, target=label, splits=splits)


def train(name: str, cohort: Cohort, device: str, precision: str, batch: int) -> tuple[np.ndarray, float]:
    """Probabilities of the validation rows after one epoch, and steps a second of a second one."""
    options = {"modality": cohort.schema.names[0]} if name == "unimodal" else OPTIONS.get(name, {})
    settings = {"batch_size": batch, "precision": precision, "device": device, "warmup": 0.0, "schedule": "constant"}
    parts = [cohort.split("train"), cohort.split("valid")]

    def fit(epochs: int) -> Any:
        return amodal.fit(name, *parts, missingness=BalancedCounts(), options=options, epochs=epochs, progress=False,
                          patience=None, **settings)  # fmt: skip

    started = time.perf_counter()
    model = fit(1)
    first = time.perf_counter() - started
    predicted = np.asarray(model.predict(parts[1]))
    started = time.perf_counter()
    fit(3)
    later = max(time.perf_counter() - started - first, 1e-9) / 2  # an epoch, without what is done once
    return predicted, -(-len(parts[0]) // batch) / later


def check_methods(names: list[str], device: str, rows: int, side: int, batch: int, seconds: float) -> list[dict]:
    """One record a method, kinds and precision."""
    found, started = [], time.perf_counter()
    for kinds in KINDS:
        cohort = made_cohort(kinds, rows, side)
        for name in names:
            if time.perf_counter() - started > seconds:
                found.append({"method": name, "kinds": kinds, "error": "not reached in the time"})
                continue
            found += _check(name, cohort, kinds, device, batch)
            print(json.dumps(found[-1]), flush=True)
    return found


def _check(name: str, cohort: Cohort, kinds: tuple[str, ...], device: str, batch: int) -> list[dict]:
    records = []
    try:
        reference, _ = train(name, cohort, "cpu", "32-true", batch)
        for precision, tolerance in TOLERANCE.items():
            if precision != "32-true" and issubclass(amodal.METHODS[name], EstimatedMethod):
                continue
            predicted, rate = train(name, cohort, device, precision, batch)
            difference = float(np.abs(predicted - reference).max())
            records.append({
                "method": name, "kinds": kinds, "precision": precision, "difference": difference,
                "agrees": difference <= tolerance, "steps_per_second": round(rate, 1),
            })  # fmt: skip
    except Exception as error:
        records.append({"method": name, "kinds": kinds, "error": f"{type(error).__name__}: {error}"[:300]})
    return records


def timed(work: Callable[[], object], device: str, repeats: int) -> float:
    """Seconds of a call."""
    for _ in range(2):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def encoder_step(device: str, *, small: bool) -> dict[str, float]:
    """Floating-point operations a second of a ViT's step, and its share of a large matrix product's."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import ViTConfig, ViTModel

    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    network = ViTModel(ViTConfig(**size) if small else ViTConfig()).to(device).train()
    images = torch.rand(2 if small else 128, 3, 224, 224, device=device)
    n = 256 if small else 8192
    left, right = (torch.rand(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = network(images).last_hidden_state.square().mean()
        loss.backward()
        network.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step()
    repeats = 1 if small else 20
    used, product = timed(step, device, repeats), timed(lambda: left @ right, device, repeats)
    reached, peak = counter.get_total_flops() / used, 2 * n**3 / product
    return {"flops_per_second": reached, "matrix_product_flops_per_second": peak, "share": reached / peak,
            "images_per_second": len(images) / used}  # fmt: skip


def main(words: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--methods", nargs="+", choices=list(amodal.METHODS), default=list(amodal.METHODS))
    parser.add_argument("--seconds", type=float, default=240.0, help="methods begin within this time")
    parser.add_argument("--small", action="store_true", help="a few rows, on the processor where there is no GPU")
    given = parser.parse_args(words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.small:
        print("skipped: there is no GPU; --small runs the script on the processor")
        return {}
    rows, side, batch = (48, 16, 16) if given.small else (2048, 64, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said of a few steps on made data
        found = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "versions": versions(),
            "encoder": encoder_step(device, small=given.small),
            "methods": check_methods(given.methods, device, rows, side, batch, given.seconds),
        }
    write_json(given.out, found)
    wrong = [one for one in found["methods"] if "error" in one or not one["agrees"]]
    print(
        f"{len(found['methods'])} checks, {len(wrong)} with an error or beyond the tolerance; the file is {given.out}"
    )
    return found


if __name__ == "__main__":
    main()
