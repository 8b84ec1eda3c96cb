"""Context-conditional matching of characteristic functions, forward and backward, against its two matrix products.

Command:  OMP_NUM_THREADS=1 python benchmarks/cf_loss.py [--batches 16 128 1024] [--device cpu] [--repeats 30]
Measures: milliseconds of processor time (wall time on a GPU; the least of the repeats, contenders taking turns) for
          the value and the gradient with respect to the predictions, with D = 256 layer-normalised features, 128
          directions, 64 frequencies up to 5, a third of the rows lacking the modality; and how far loss and gradient
          are from float64.
          The yardsticks are bare matrix products on ready-made operands, without autograd and without an activation:
          "forward" is features × directions and weights × (cosines and sines); "both ways" adds the two transposed
          products that the gradient takes. The loop writes equation 12 out query by query.
          "wide features" are ten times as large, where cosines and sines are used as they are; "both sides" asks for
          the gradient of the observed side too, where its yardstick has larger products.
Limit:    at most twice the two bare products, forward.
Reached:  0.5 at 1024 rows, 1.1 at 128, 8 at 16 (one core of an EPYC, torch 2.13). At 16 rows the products take
          70 to 110 microseconds, less than some forty small operations of the loss take to start. The loop takes twice
          the loss at 16, 7 times at 128 and 30 times at 1024. Wide features: 2.3 at 1024, 4 at 128.
          The radial form (no directions or frequencies): 0.6 at 128, 5 at 16. "Three modalities at once" is how CEPA
          aligns by default, in that form; a modality takes 0.5 of the products at 128 rows and 2.4 at 16, which is 2.0
          of the products both ways.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from amodal.losses.characteristic_function.context_alignment import ContextAlignment
from amodal.losses.characteristic_function.kernel_weights import neighbour_weights
from amodal.losses.characteristic_function.loss import conditional_cf_loss, random_directions, random_frequencies

DIM, DIRECTIONS, FREQUENCIES, BANDWIDTH = 256, 128, 64, 16.0


class Problem:
    """Two sides of a batch, with the operands of the bare products ready."""

    def __init__(self, batch: int, device: str, scale: float = 1.0):
        g = torch.Generator().manual_seed(0)
        features = scale * torch.nn.functional.layer_norm(torch.randn(batch, DIM, generator=g), (DIM,))
        lacking = batch // 3
        self.n = batch - lacking
        self.observed, self.predicted = features[: self.n].to(device), features[self.n :].to(device)
        context = torch.randn(batch, DIM, generator=g).to(device)
        self.context = (context[: self.n], context[self.n :])
        self.directions = random_directions(DIM, DIRECTIONS, generator=g).to(device)
        self.frequencies = random_frequencies(FREQUENCIES, 5.0, generator=g).to(device)
        around, among = neighbour_weights(self.context[0], self.context[1], BANDWIDTH)
        self.weights = torch.cat([around, -among], 1)
        self.all = features.to(device)
        self.waves = torch.randn(batch, 2 * DIRECTIONS * FREQUENCIES, generator=g).to(device)
        self.pulled = torch.randn(lacking, 2 * DIRECTIONS * FREQUENCIES, generator=g).to(device)

    def forward_products(self) -> None:
        """The two products of the value."""
        _ = self.all @ self.directions
        _ = self.weights @ self.waves

    def products_both_ways(self, first: int) -> None:
        """And those of the gradient, for the rows from `first` on."""
        self.forward_products()
        _ = self.weights[:, first:].mT @ self.pulled
        _ = self.waves[first:, :DIRECTIONS] @ self.directions.mT

    def loss(self, both_sides: bool = False, **options) -> tuple[Tensor, Tensor]:
        """Value and gradient by the library."""
        observed = self.observed.detach().requires_grad_(both_sides)
        predicted = self.predicted.detach().requires_grad_()
        if options.get("form") != "radial":
            options |= {"directions": self.directions, "frequencies": self.frequencies}
        value = conditional_cf_loss(observed, predicted, self.context[0], self.context[1], BANDWIDTH, **options)
        value.mean().backward()
        assert predicted.grad is not None
        return value.detach(), predicted.grad

    def alignment(self) -> None:
        """CEPA's default: three modalities, each lacking from another third of the rows, and the gradient."""
        features = torch.stack([self.all, self.all.roll(1, 0), self.all.roll(2, 0)], 1).requires_grad_()  # (B, 3, D)
        absent = torch.arange(len(self.all), device=self.all.device) * 3 // len(self.all)
        observed = absent[:, None] != torch.arange(3, device=self.all.device)
        how = ContextAlignment(BANDWIDTH, form="radial")
        how(features, features, self.all, observed, torch.Generator(self.all.device)).backward()

    def plain(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """The same two products by autograd, with cosines and sines."""
        predicted = self.predicted.to(dtype).detach().requires_grad_()
        projected = torch.cat([self.observed.to(dtype), predicted]) @ self.directions.to(dtype)
        angles = (projected[:, :, None] * self.frequencies.to(dtype)).flatten(1)
        around, among = neighbour_weights(self.context[0], self.context[1], BANDWIDTH)
        weights = torch.cat([around, -among], 1).to(dtype)
        value = (weights @ torch.cat([angles.cos(), angles.sin()], 1)).square().sum(1) / angles.shape[1]
        value.mean().backward()
        assert predicted.grad is not None
        return value.detach(), predicted.grad

    def loop(self) -> tuple[Tensor, Tensor]:
        """Equation 12, one query after the other."""
        observed, predicted = self.observed, self.predicted.detach().requires_grad_()
        c, c_hat = self.context
        sides = []
        for features in (observed, predicted):
            angles = ((features @ self.directions)[:, :, None] * self.frequencies).flatten(1)
            sides.append((angles.cos(), angles.sin()))
        values = []
        for query in c_hat:
            around = torch.softmax(-(c - query).square().sum(1) / (2 * BANDWIDTH**2), 0)
            among = torch.softmax(-(c_hat - query).square().sum(1) / (2 * BANDWIDTH**2), 0)
            values.append(sum((around @ a - among @ b).square().mean() for a, b in zip(*sides, strict=True)))
        value = torch.stack(values)
        value.mean().backward()
        assert predicted.grad is not None
        return value.detach(), predicted.grad


def fastest(calls: dict[str, Callable], repeats: int, device: str) -> dict[str, float]:
    """Least milliseconds of each call; they take turns, so that a busy machine is busy for all of them."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            best[name] = min(best[name], 1e3 * (clock() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 128, 1024])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'batch':>5}  {'':<34}{'ms':>10}{'/ forward':>11}{'/ both ways':>13}{'loss off':>10}{'gradient off':>14}")
    for batch in options.batches:
        problem, wide = Problem(batch, options.device), Problem(batch, options.device, scale=10.0)
        repeats = options.repeats if batch >= 512 else 10 * options.repeats
        quick = {
            "bare products, forward": problem.forward_products,
            "bare products, both ways": lambda p=problem: p.products_both_ways(p.n),
            "bare products, both ways, both sides": lambda p=problem: p.products_both_ways(0),
            "loss": problem.loss,
            "loss, both sides": lambda p=problem: p.loss(both_sides=True),
            "loss, wide features": wide.loss,
            "loss, radial form": lambda p=problem: p.loss(form="radial"),
            "three modalities at once, each": problem.alignment,
        }
        slow = {
            "loss, Gram form": lambda p=problem: p.loss(form="gram"),
            "plain autograd": problem.plain,
            "loop over queries": problem.loop,
        }
        times = fastest(quick, repeats, options.device) | fastest(slow, 2 if batch >= 512 else 20, options.device)
        times["three modalities at once, each"] /= 3
        value, gradient = problem.plain(torch.float64)
        for name, ms in times.items():
            both = times["bare products, both ways" + (", both sides" if "both sides" in name else "")]
            row = f"{batch:>5}  {name:<34}{ms:>10.3f}{ms / times['bare products, forward']:>11.2f}{ms / both:>13.2f}"
            if name in ("loss", "loss, Gram form", "plain autograd"):
                call = (quick | slow)[name]
                ours, slope = call()
                row += f"{(ours - value).abs().max().item():>10.0e}"
                row += f"{((slope - gradient).abs().max() / gradient.abs().max()).item():>14.0e}"
            print(row, flush=True)
        print()


if __name__ == "__main__":
    main()
