"""Mixtures of experts: small networks of which a gate chooses few for each input."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import rows_where
from amodal.losses.masked import connected_zero

__all__ = ["ExpertPool", "Router", "Routing", "squared_variation", "top_gates"]


def top_gates(logits: Tensor, k: int, *, renormalise: bool = True) -> Tensor:
    """Gates that are zero for all but the k experts with the largest logits.

    Args:
        logits: Of shape (N, E).
        k: Number of experts that are kept.
        renormalise: Whether the gates of those kept add up to one; otherwise they are what a softmax over all experts
            gives them.

    Returns:
        Of shape (N, E).

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, -1.0, -9.0]])
        >>> top_gates(logits, 2)
        tensor([[0.5000, 0.5000, 0.0000, 0.0000]])
        >>> top_gates(logits, 2, renormalise=False)
        tensor([[0.4223, 0.4223, 0.0000, 0.0000]])
    """
    chosen = logits.topk(k, dim=1).indices  # (N, k)
    if renormalise:
        kept = logits.gather(1, chosen).softmax(1)
    else:
        kept = logits.softmax(1).gather(1, chosen)
    return torch.zeros_like(logits).scatter(1, chosen, kept)


class ExpertPool(nn.Module):
    """E networks with one hidden layer and a GELU, each run on the inputs whose gate is not zero.

    Args:
        n_experts: Number of experts E.
        in_width: Width D of the inputs.
        out_width: Width D' of the results.
        hidden: Width of the hidden layers.
        dropout: Dropout of the hidden layers.

    Example:
        >>> pool = ExpertPool(3, in_width=4, out_width=2, hidden=8)
        >>> pool(torch.randn(5, 4), torch.tensor([[1.0, 0.0, 0.0]]).expand(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, n_experts: int, in_width: int, out_width: int, *, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.first = nn.Parameter(_uniform(n_experts, in_width, hidden))
        self.first_bias = nn.Parameter(torch.zeros(n_experts, hidden))
        self.second = nn.Parameter(_uniform(n_experts, hidden, out_width))
        self.second_bias = nn.Parameter(torch.zeros(n_experts, out_width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Sums of the experts' results for inputs (N, D), weighted by gates (N, E): (N, D')."""
        total = x.new_zeros(len(x), self.second.shape[2])
        weights = (part.unbind(0) for part in (self.first, self.first_bias, self.second, self.second_bias))
        for rows, gate, *layers in zip(rows_where(*(gates != 0).unbind(1)), gates.unbind(1), *weights):
            if len(rows) < len(x):
                inputs, gate = x[rows], gate[rows]
            else:
                inputs = x
            result = gate[:, None] * self._run(inputs, *layers)
            total = total.index_add(0, rows, result.to(total.dtype))
        return total

    def _run(self, x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> Tensor:
        inner = self.dropout(functional.gelu(torch.addmm(first_bias, x, first)))
        return torch.addmm(second_bias, inner, second)


def _uniform(*shape: int) -> Tensor:
    """Initial weights (E, D, D'), as of `torch.nn.Linear`."""
    bound = shape[1] ** -0.5
    return torch.empty(shape).uniform_(-bound, bound)


class Routing(NamedTuple):
    """Where a router sent some inputs.

    Attributes:
        gates: Of shape (N, E): k positive ones a row, which add up to one.
        load: Expected number of inputs of each expert under the noise, (E,); counts without noise.
        probabilities: A softmax over all experts without noise, (N, E).
    """

    gates: Tensor
    load: Tensor
    probabilities: Tensor


class Router(nn.Module):
    """Gates of E experts for inputs (N, D), k of them positive.

    Args:
        width: Width D, of normalised inputs.
        n_experts: Number of experts E.
        gate: "laplace", "gaussian" or "softmax".
        top_k: k.
        temperature: Divisor of the logits.

    Source:
        Distances to centres of :cite:`han2024fusemoe`; noise, gates and loads of :cite:`shazeer2017outrageously`.
        Deviation: the noise starts small, at a standard deviation of 0.06.
    """

    def __init__(self, width: int, n_experts: int, *, gate: str, top_k: int, temperature: float = 1.0):
        super().__init__()
        self.gate, self.top_k, self.temperature = gate, top_k, temperature
        scale = width**-0.5 if gate == "softmax" else 1.0
        self.centres = nn.Parameter(scale * torch.randn(n_experts, width))
        self.noise = nn.Parameter(torch.zeros(n_experts, width))

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, E) without noise."""
        if self.gate == "softmax":
            return x @ self.centres.T / self.temperature
        squared = (x[:, None] - self.centres).square().sum(2)
        return -(squared if self.gate == "gaussian" else (squared + 1e-12).sqrt()) / self.temperature

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Routing:
        """Where inputs (N, D) are sent, with noise from a generator or without."""
        clean = noisy = self.logits(x)
        scale = functional.softplus(x @ self.noise.T - 3.0) + 0.01
        if generator is not None:
            draws = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
            noisy = clean + draws * scale
        gates = top_gates(noisy, self.top_k)
        if generator is None or self.top_k == clean.shape[1]:
            load = (gates > 0).sum(0).to(gates.dtype)
        else:
            load = _chance_of_the_top(clean, noisy, scale, self.top_k).sum(0)
        return Routing(gates, load, clean.softmax(1))


def _chance_of_the_top(clean: Tensor, noisy: Tensor, scale: Tensor, k: int) -> Tensor:
    """Probability (N, E) that an expert is among the k first if its own noise is drawn anew, the others' is not."""
    top = noisy.topk(k + 1, dim=1).values
    inside = noisy > top[:, k:]
    # The place to be beaten is the (k + 1)-th if the expert holds one of the first k, and the k-th otherwise.
    threshold = torch.where(inside, top[:, k:], top[:, k - 1 : k])
    return 0.5 * (1 + torch.erf((clean - threshold) / (scale * math.sqrt(2))))


def squared_variation(values: Tensor) -> Tensor:
    """Squared coefficient of variation of values (E,): unbiased variance over squared mean; 0 for one value.

    Example:
        >>> squared_variation(torch.tensor([1.0, 3.0]))  # 2 / 4
        tensor(0.5000)
    """
    if len(values) < 2:
        return connected_zero(values)
    return values.var() / (values.mean().square() + 1e-10)
