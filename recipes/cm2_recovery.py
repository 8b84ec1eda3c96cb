"""Does CM2 find a known law? Parameter, family and completions on data drawn from a copula through known encoders.

Command:  python recipes/cm2_recovery.py --out runs/cm2_recovery
Time:     about 50 s a family on a busy core (all five fits, and the rows' scores)
Expected: with the defaults (seed 0)

          family    true  fitted  95 % interval    found     energy distance, conditional / marginal, difference
          gumbel    2.00   2.034  1.981 to 2.086   gumbel    -0.000 / 0.036    0.036 (0.023 to 0.048)
          clayton   2.00   2.080  1.982 to 2.177   clayton   -0.000 / 0.031    0.031 (0.023 to 0.039)
          frank     5.74   5.662  5.444 to 5.880   frank      0.002 / 0.039    0.036 (0.025 to 0.048)
          joe       2.86   2.822  2.725 to 2.920   joe       -0.001 / 0.039    0.040 (0.026 to 0.051)
          gaussian 0.707   0.714  0.702 to 0.726   gaussian   0.004 / 0.036    0.032 (0.020 to 0.041)

Two modalities of four coordinates. Each coordinate pair is joined by one copula (Kendall's tau 0.5), the margins are
mixtures of two Gaussians, and what CM2 is given are mixed inputs x = A z with a known, invertible A for each modality,
whose inverse is its encoder. A quarter of the training rows lack the second modality. CM2's law is fitted by its own
likelihood term, with each family in turn.

- *theta*: the fitted parameter and its 95 % interval, from the rows' scores (all of the law's parameters together, so
  that the uncertainty of the margins is in it).
- *family found*: the family whose fit has the highest likelihood on other rows.
- *energy distance*: of (z_1, completion of z_2) to the truth, other rows; completions given z_1, and from the margin;
  the interval is that of the difference over bootstrap resamples of the rows.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.distributions.copula import Archimedean, Copula, Elliptical, copula_family
from amodal.distributions.joint.variants import joint_law
from amodal.distributions.mixture.gaussian_mixture import GaussianMixture
from amodal.encoders import Encoder, PerModality, Tokens
from amodal.files import replace_file
from amodal.methods.cm2 import CM2
from amodal.schema import Modality, Schema, Task

FAMILIES = ("gumbel", "clayton", "frank", "joe", "gaussian")
DIM, TAU = 4, 0.5
SCHEMA = Schema(tuple(Modality(name, "tabular", (DIM,)) for name in ("a", "b")), Task("binary", classes=("no", "yes")))
WEIGHTS = torch.tensor([[0.35, 0.65], [0.5, 0.5]])
MEANS = torch.tensor(
    [[[-1.5, 0.5, 1.0, -1.0], [1.0, -1.0, -0.5, 1.5]], [[0.0, 1.5, -1.0, 1.0], [1.0, -1.5, 1.0, -1.0]]]
)
SCALES = torch.tensor([[[0.6, 0.8, 0.7, 0.5], [0.8, 0.5, 0.6, 0.9]], [[0.5, 0.6, 0.9, 0.7], [0.7, 0.8, 0.5, 0.6]]])


class KnownEncoder(Encoder):
    """The inverse of a known linear map, with nothing to learn."""

    kinds = ("tabular",)

    def __init__(self, modality: Modality, inverse: Tensor):
        super().__init__(modality, width=modality.n_features)
        self.register_buffer("inverse", inverse)

    @property
    def n_tokens(self) -> int:
        """One."""
        return 1

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """The latent vector itself."""
        return Tokens((values @ self.inverse.T)[:, None], torch.ones(len(values), 1, dtype=torch.bool))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Nothing more."""
        return tokens


def truth(family: str, n: int, generator: torch.Generator) -> tuple[Copula, Tensor]:
    """The true copula, and vectors (2, n, D) whose coordinates it joins."""
    copula = copula_family(family).from_kendall_tau(TAU, 2)
    u = copula.sample(n * DIM, generator=generator).float().reshape(n, DIM, 2).movedim(-1, 0)
    mixture = GaussianMixture.from_parameters(WEIGHTS, MEANS, SCALES)
    with torch.no_grad():
        return copula, mixture.marginal_quantile(u.clamp(1e-6, 1 - 1e-6))


def known_maps(generator: torch.Generator) -> Tensor:
    """An invertible map for each modality, (2, D, D)."""
    return torch.eye(DIM) + 0.4 * torch.randn(2, DIM, DIM, generator=generator)


def as_batch(z: Tensor, maps: Tensor, lacking: float, generator: torch.Generator) -> Batch:
    """Inputs x = A z; the second modality is missing in a fraction of the rows."""
    x = z @ maps.mT
    seen = torch.rand(z.shape[1], generator=generator) >= lacking
    return Batch(
        {"a": x[0], "b": x[1]},
        {"a": torch.ones_like(seen), "b": seen},
        target=torch.zeros(z.shape[1], dtype=torch.long),
    )


def fit(family: str, batch: Batch, maps: Tensor, steps: int) -> CM2:
    """CM2 whose encoders are known; only its law learns, by the likelihood term of its objective."""
    encoders = PerModality({m.name: KnownEncoder(m, torch.linalg.inv(a)) for m, a in zip(SCHEMA.modalities, maps)})
    method = CM2(
        SCHEMA, encoders, family=family, components=2, latent=DIM, normalise="none", removal=False, completion="none"
    )
    method.law = joint_law("coordinatewise", len(maps), DIM, components=2, family=family, shared=True)
    for projection in method.projections:
        assert isinstance(projection, nn.Linear)
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)
    method.requires_grad_(False)
    assert method.law is not None
    method.law.requires_grad_(True)
    method.prepare([batch])
    optimiser = torch.optim.Adam(method.law.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(0, len(batch), (min(500, len(batch)),), generator=generator)
        optimiser.zero_grad()
        method.objective(batch.take(rows), generator).terms["likelihood"].backward()
        optimiser.step()
        schedule.step()
    return method.eval()


def log_likelihoods(method: CM2, batch: Batch) -> Tensor:
    """Log density of each row's vectors, (B,)."""
    assert method.law is not None
    z, observed = method.vectors(batch)
    return method.law.log_density(z.movedim(1, 0), observed.T)


def parameter(copula: Copula) -> Tensor:
    """theta, or the correlation."""
    if isinstance(copula, Elliptical):
        return copula.correlation[..., 0, 1]
    assert isinstance(copula, Archimedean)
    return copula.theta


def interval(method: CM2, batch: Batch, rows: int) -> tuple[float, float, float]:
    """The parameter and its 95 % interval, by the outer product of the rows' scores and the delta method."""
    assert method.law is not None
    assert method.law.copula is not None
    parameters = list(method.law.parameters())
    scores = []
    for i in range(min(rows, len(batch))):
        value = log_likelihoods(method, batch.take(torch.tensor([i]))).sum()
        scores.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]))
    stacked = torch.stack(scores).double()
    information = stacked.T @ stacked * (len(batch) / len(stacked))
    value = parameter(method.law.copula)
    slope = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
    direction = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(slope, parameters)])
    variance = direction.double() @ torch.linalg.pinv(information, rtol=1e-8) @ direction.double()
    centre, half = float(value.detach()), 1.96 * math.sqrt(float(variance))
    return centre, centre - half, centre + half


def completed(method: CM2, z: Tensor, *, given: bool, seed: int) -> Tensor:
    """Vectors (B, 2 D) whose second half is drawn by the law."""
    assert method.law is not None
    observed = torch.tensor([[True], [False]]).expand(2, z.shape[1])
    with torch.no_grad():
        noise = method.law.noise(1, z.shape[1], torch.Generator().manual_seed(seed), z)
        return method.law.complete(z, observed, noise, given=given)[:, 0].movedim(0, 1).flatten(1)


def energy_gap(truth_rows: Tensor, ours: Tensor, theirs: Tensor, resamples: int, seed: int) -> dict[str, float]:
    """Energy distances of two sets of rows to the truth, and the bootstrap interval of their difference."""
    to_truth = [torch.cdist(x, truth_rows).numpy() for x in (ours, theirs)]
    within = [torch.cdist(x, x).numpy() for x in (ours, theirs)]
    n, generator = len(ours), np.random.default_rng(seed)

    def distances(rows: np.ndarray, others: np.ndarray) -> list[float]:
        found = []
        for cross, own in zip(to_truth, within):
            own_mean = (rows @ own @ rows) / max(rows.sum() ** 2 - (rows**2).sum(), 1.0)
            found.append(2 * (rows @ cross @ others) / rows.sum() / others.sum() - own_mean)
        return found

    inside = torch.cdist(truth_rows, truth_rows).numpy().sum() / (len(truth_rows) * (len(truth_rows) - 1))
    one, two = distances(np.ones(n), np.ones(len(truth_rows)))
    drawn = []
    for _ in range(resamples):
        rows = generator.multinomial(n, np.full(n, 1 / n)).astype(float)
        others = generator.multinomial(len(truth_rows), np.full(len(truth_rows), 1 / len(truth_rows))).astype(float)
        a, b = distances(rows, others)
        drawn.append(b - a)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "conditional": one - inside,
        "marginal": two - inside,
        "difference": two - one,
        "low": float(low),
        "high": float(high),
    }


def recover(family: str, *, n: int, steps: int, seed: int, rows: int, resamples: int, among: list[str]) -> dict:
    """Data from one family: its parameter, the family that fits best, and what completions are worth."""
    generator = torch.Generator().manual_seed(seed)
    copula, z = truth(family, 3 * n, generator)
    maps = known_maps(generator)
    train, other = as_batch(z[:, :n], maps, 0.25, generator), as_batch(z[:, n : 2 * n], maps, 0.0, generator)
    fits = {name: fit(name, train, maps, steps) for name in among}
    with torch.no_grad():
        likelihood = {name: float(log_likelihoods(method, other).mean()) for name, method in fits.items()}
    centre, low, high = interval(fits[family], train, rows)
    true = float(parameter(copula))
    first, last = z[:, n : n + n // 2], z[:, 2 * n : 2 * n + n // 2]
    gap = energy_gap(
        last.movedim(0, 1).flatten(1),
        completed(fits[family], first, given=True, seed=seed),
        completed(fits[family], first, given=False, seed=seed + 1),
        resamples,
        seed,
    )
    return {
        "family": family,
        "seed": seed,
        "true": true,
        "fitted": centre,
        "fit_low": low,
        "fit_high": high,
        "inside": low <= true <= high,
        "found": max(likelihood, key=lambda name: likelihood[name]),
        **gap,
    }


def main(words: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/cm2_recovery"))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--rows", type=int, default=2000, help="training rows; as many again twice for the tests")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--score-rows", type=int, default=1000, help="rows that the information is estimated from")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in given.seeds:
        for family in given.families:
            started = time.time()
            row = recover(
                family, n=given.rows, steps=given.steps, seed=seed, rows=given.score_rows,
                resamples=given.resamples, among=given.families,
            )  # fmt: skip
            rows.append({**row, "seconds": time.time() - started})
            print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
            table = pd.DataFrame(rows)
            replace_file(given.out / "results.csv", lambda path, table=table: table.to_csv(path, index=False))
    print(f"The results are in {given.out / 'results.csv'}")
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
