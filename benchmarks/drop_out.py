"""Dropout from sixteen bits an element against torch's, forward and backward, on a processor.

Command:  OMP_NUM_THREADS=1 python benchmarks/drop_out.py
Measures: nanoseconds of processor time an element of `amodal.attention.drop_out` and of `torch.nn.functional.dropout`,
          the least of several rounds in turns, and their ratio.
Reached:  1.8 to 1.9 times as fast from 65,536 elements on, no faster at 4,096 (one core of an EPYC, torch 2.13, other
          work beside).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from amodal.attention import drop_out


def nanoseconds(dropped: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Processor time of one value and its gradient, for each element."""
    start = time.process_time()
    dropped(x).sum().backward()
    return 1e9 * (time.process_time() - start) / x.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2**12, 2**16, 2**20])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    contenders: dict[str, Callable[[Tensor], Tensor]] = {
        "torch": lambda x: functional.dropout(x, 0.1, training=True),
        "drop_out": lambda x: drop_out(x, 0.1),
    }
    print(f"{'elements':>9}" + "".join(f"{name:>10}" for name in contenders) + "     ratio   ns an element")
    for size in options.sizes:
        x = torch.randn(size, requires_grad=True)
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(options.rounds):
            for name, dropped in contenders.items():
                best[name] = min(best[name], nanoseconds(dropped, x))
        print(
            f"{size:>9}"
            + "".join(f"{ns:>10.2f}" for ns in best.values())
            + f"{best['torch'] / best['drop_out']:>10.1f}"
        )


if __name__ == "__main__":
    main()
