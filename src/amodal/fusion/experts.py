"""Mixtures of experts: small networks of which a gate chooses few for each input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ExpertPool", "top_gates"]


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
        for gate, *layers in zip(gates.unbind(1), *weights):
            rows = gate.nonzero()[:, 0]
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
