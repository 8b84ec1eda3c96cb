"""Cost of a copula loss, forward and backward, as a ratio to the log density of the mixtures alone.

Command:
    OMP_NUM_THREADS=1 python benchmarks/copula_loss.py

Setting: B = 32 rows, D = 256 coordinates, K = 3 components, M = 2 and 3 modalities, float32, one thread.

* kendall: one copula between modalities on the Kendall transform of each component's joint distribution function, over
  all K^M tuples of components. Peer: the mixtures' log density.
* coordinatewise: a copula for each coordinate, on the distribution functions of its univariate mixtures. Peers: the
  log density of those univariate mixtures, and (in brackets) that of the joint mixtures, which is another, cheaper
  function.

Each figure is the median over rounds of the ratio of two processor times measured next to each other.
Limit: 5 for coordinatewise, 8 for kendall. All rows are complete, where hand-written kernels, which are gone, needed 2
to 3; rows with absences never reached them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from amodal.distributions.copula import Copula, copula_family
from amodal.distributions.joint.law import JointLaw
from amodal.distributions.joint.variants import joint_law
from amodal.distributions.mixture.gaussian_mixture import GaussianMixture

FAMILIES = ("gumbel", "clayton", "frank", "joe", "gaussian", "student_t")


def joint_density(mixture: GaussianMixture, z: Tensor) -> Tensor:
    """The mixtures' log density alone."""
    return mixture.log_density(z).sum(0).mean()


def coordinate_density(mixture: GaussianMixture, z: Tensor) -> Tensor:
    """The log density of the univariate mixtures alone, by plain autograd."""
    scales = mixture.scales.unsqueeze(1)
    t = (z.unsqueeze(-2) - mixture.means.unsqueeze(1)) / scales
    log_terms = mixture.log_weights[:, None, :, None] - torch.log(scales) - 0.5 * t * t
    return torch.logsumexp(log_terms, -2).sum(-1).sum(0).mean()


def made(variant: str, mixture: GaussianMixture, copula: Copula) -> JointLaw:
    """A joint law of this mixture and this copula."""
    law = joint_law(variant, copula.dim, mixture.dim, components=mixture.components)
    law.mixture, law.copula = mixture, copula
    return law


def mean_density(law: JointLaw, z: Tensor, observed: Tensor) -> Tensor:
    """The joint law's mean log density."""
    return law.log_density(z, observed).mean()


def seconds(loss: Callable[[], Tensor], parameters: list[Tensor], repeats: int = 10) -> float:
    start = time.process_time()
    for _ in range(repeats):
        torch.autograd.grad(loss(), parameters, allow_unused=True)
    return (time.process_time() - start) / repeats


def ratio(loss: Callable[[], Tensor], peer: Callable[[], Tensor], parameters: list[Tensor], rounds: int) -> float:
    """Median over rounds, the first of which only warm up."""
    pairs = [(seconds(loss, parameters), seconds(peer, parameters)) for _ in range(rounds + 2)][2:]
    return statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print(f"{'family':<11}{'M':>2}   {'kendall':>8}   {'coordinatewise':>14}")
    for modalities in (2, 3):
        z = torch.randn(modalities, 32, 256, generator=generator).requires_grad_()
        observed = torch.ones(modalities, 32, dtype=torch.bool)
        mixture = GaussianMixture(3, 256, batch_shape=(modalities,), generator=generator)
        for name in FAMILIES:
            copula = copula_family(name).from_kendall_tau(torch.tensor(0.3), modalities, learnable=True)
            parameters = [z, *mixture.parameters(), *copula.parameters()]

            def peer() -> Tensor:
                return joint_density(mixture, z)  # noqa: B023

            def own_peer() -> Tensor:
                return coordinate_density(mixture, z)  # noqa: B023

            kendall, coordinatewise = (
                partial(mean_density, made(variant, mixture, copula), z, observed)
                for variant in ("kendall", "coordinatewise")
            )
            one = ratio(kendall, peer, parameters, rounds)
            two = ratio(coordinatewise, own_peer, parameters, rounds)
            three = ratio(coordinatewise, peer, parameters, rounds)
            print(f"{name:<11}{modalities:>2}   {one:>8.2f}   {two:>7.2f} ({three:>4.2f})", flush=True)


if __name__ == "__main__":
    main()
