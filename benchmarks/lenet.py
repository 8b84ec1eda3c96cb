"""LeNet's blocks, which take maxima before they normalise, against torch's layers one by one.

Command:  OMP_NUM_THREADS=1 python benchmarks/lenet.py [--batch 128] [--rounds 10]
Measures: processor time of a forward and backward pass in training and of a prediction, on spectrograms 112×112 and
          images 28×28, of `LeNet` and of the same weights with torch's convolution, BatchNorm2d, MaxPool2d and ReLU,
          taking turns in one run; and the largest difference between their outputs, in units of the largest output.
Limit:    none; the convolutions, which both have, are most of what is left.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from amodal.encoders import LeNet
from amodal.schema import Modality


def plain(encoder: LeNet) -> LeNet:
    """The same encoder with torch's own layers one by one."""
    other = copy.deepcopy(encoder)
    other.blocks = nn.ModuleList(nn.Sequential(*block) for block in other.blocks)  # type: ignore[arg-type]
    return other


def train_step(encoder: LeNet, images: Tensor) -> None:
    encoder.zero_grad()
    encoder(images).pooled.square().mean().backward()


def medians(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of processor time of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            started = time.process_time()
            function()
            times[name].append(1000 * (time.process_time() - started))
    return {name: sorted(some[1:])[rounds // 2] for name, some in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    print(f"{'':22}{'amodal, ms':>12}{'torch, ms':>12}{'ratio':>8}{'difference':>12}")
    for side in (112, 28):
        encoder = LeNet(Modality("image", "image", (1, side, side)), width=128)
        images = torch.randn(given.batch, 1, side, side, generator=torch.Generator().manual_seed(0))
        compare(encoder, plain(encoder), images, given.rounds)


def compare(encoder: LeNet, peer: LeNet, images: Tensor, rounds: int) -> None:
    side = images.shape[-1]
    gap = distance(encoder(images).pooled, peer(images).pooled)
    steps = {"ours": lambda: train_step(encoder, images), "peer": lambda: train_step(peer, images)}
    show(f"{side}×{side}, training step", medians(steps, rounds), gap)
    encoder.eval()
    peer.eval()
    with torch.no_grad():
        gap = distance(encoder(images).pooled, peer(images).pooled)
        show(
            f"{side}×{side}, prediction",
            medians({"ours": lambda: encoder(images), "peer": lambda: peer(images)}, rounds),
            gap,
        )


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the largest number."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def show(what: str, found: dict[str, float], gap: float) -> None:
    ratio = found["ours"] / found["peer"]
    print(f"{what:22}{found['ours']:>12.1f}{found['peer']:>12.1f}{ratio:>8.2f}{gap:>12.1e}")


if __name__ == "__main__":
    main()
