"""Cost of conditional draws of each copula family, as a ratio to those of the Gaussian copula.

Command:
    OMP_NUM_THREADS=1 python benchmarks/copula_draws.py

Setting: 20,000 points of two and of three margins, the last absent, Kendall's tau 0.4, float64, one thread. Gaussian,
Student t and Clayton have closed inverses; so has Frank with two margins; Gumbel given one margin takes Newton's
method; the others are inverted by bracketing. Each figure is the median over rounds of the ratio of two processor times
measured next to each other.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from amodal.distributions.copula import FAMILIES, Copula


def seconds(copula: Copula, u: torch.Tensor, observed: torch.Tensor) -> float:
    start = time.process_time()
    copula.sample_given(u, observed, generator=torch.Generator().manual_seed(0))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--points", type=int, default=20_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'family':<11}{'M':>2}  {'ratio':>7}  {'ms':>7}")
    for dim in (2, 3):
        u = torch.rand(given.points, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        observed = torch.arange(dim) < dim - 1
        peer = FAMILIES["gaussian"].from_kendall_tau(0.4, dim)
        for name in ("clayton", "gumbel", "frank", "joe", "student_t"):
            copula = FAMILIES[name].from_kendall_tau(0.4, dim)
            pairs = [(seconds(copula, u, observed), seconds(peer, u, observed)) for _ in range(given.rounds + 1)][1:]
            ratio, own = statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs)
            print(f"{name:<11}{dim:>2}  {ratio:>7.1f}  {1e3 * own:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
