r"""Normal scores of absent margins given those of observed ones, for many rows, draws and coordinates at once.

Margins drawn one after another, each given those before, are :math:`\xi = L e` with L the Cholesky factor of the
correlation, observed margins first, the others in the order they are drawn in. With the observed ones given,

.. math:: \xi_A = L_{AO} L_{OO}^{-1} \xi_O + L_{AA} e_A .

Both matrices depend on the pattern of presence only, the first term not on the draw, and the second, where all rows
have the same noise, not on the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from amodal.distributions.log_space import FEW_MARGINS, cholesky_factor

__all__ = ["NormalCompletion", "normal_completion"]

_MOST = 60  # modalities whose patterns fit into an integer


class NormalCompletion(NamedTuple):
    """Scores of absent margins as a sum of two parts.

    Attributes:
        mean: What the observed margins say, of shape (M, B, E).
        spread: What is drawn, of shape (M, P, S, E).
        place: Which of the P a row has, int64, of shape (B,).
    """

    mean: Tensor
    spread: Tensor
    place: Tensor

    def at(self, margin: Tensor, row: Tensor) -> Tensor:
        """The scores of some absent margins.

        Args:
            margin: Which margin, int64, of shape (N,).
            row: Of which row, int64, of shape (N,).

        Returns:
            Shape (N, S, E).
        """
        return self.mean[margin, row].unsqueeze(1) + self.spread[margin, self.place[row]]


def normal_completion(
    correlation: Tensor, scores: Tensor, observed: Tensor, noise: Tensor, order: Sequence[int]
) -> NormalCompletion:
    """The law of absent scores given observed ones, and draws from it.

    Args:
        correlation: Shape (E, M, M), or (1, M, M) where all coordinates share it.
        scores: Observed scores, of shape (M, B, E); anything finite where absent.
        observed: Presence, bool, of shape (M, B).
        noise: Standard normal, of shape (M, S, R, E) with R = B, or 1: the same for every row.
        order: In which order absent margins are drawn, each given those before.

    Returns:
        The two parts of the scores; what they say of observed margins means nothing. Differentiable.
    """
    size = len(scores)
    distinct, place = _patterns(observed)  # (P, M), (B,)
    rank = torch.empty(size, dtype=torch.int64, device=scores.device)
    for place_of, margin in enumerate(order):
        rank[margin].fill_(place_of)
    first = (rank + size * (~distinct).long()).argsort(1)  # observed margins first, (P, M)
    back = first.argsort(1)
    factor = cholesky_factor(correlation[:, first.unsqueeze(2), first.unsqueeze(1)])  # (E, P, M, M)
    known = torch.arange(size, device=scores.device) < distinct.sum(1, keepdim=True)  # (P, M), in that order
    unit = torch.eye(size, dtype=factor.dtype, device=factor.device).expand_as(factor)
    both = known.unsqueeze(2) & known.unsqueeze(1)
    inverse = torch.linalg.solve_triangular(torch.where(both, factor, unit), unit, upper=False)
    of_observed = torch.where(known.unsqueeze(1), factor, 0.0) @ inverse
    of_noise = torch.where(known.unsqueeze(1), 0.0, factor)
    pattern = torch.arange(len(distinct), device=scores.device)[:, None, None]
    of_observed, of_noise = (part[:, pattern, back.unsqueeze(2), back.unsqueeze(1)] for part in (of_observed, of_noise))
    of_observed = torch.where(distinct.unsqueeze(1), of_observed, 0.0).to(scores.dtype)  # (E, P, M, M)
    given, noise = torch.where(observed.unsqueeze(-1), scores, 0.0), noise.to(scores.dtype)  # (M, B, E)
    mean = (of_observed[:, place] * given.permute(2, 1, 0).unsqueeze(2)).sum(-1).permute(2, 1, 0)  # (M, B, E)
    of_noise = of_noise.to(scores.dtype)
    if noise.shape[2] == 1:
        each = noise[:, :, 0].permute(2, 0, 1)  # (E, M, S)
        spread = (of_noise.flatten(1, 2) @ each).unflatten(1, (-1, size))  # (E, P, M, S)
        return NormalCompletion(mean, spread.permute(2, 1, 3, 0), place)
    each = noise.permute(3, 2, 0, 1)  # (E, B, M, S)
    spread = (of_noise[:, place] @ each).permute(2, 1, 3, 0)  # (M, B, S, E)
    return NormalCompletion(mean, spread, torch.arange(len(place), device=place.device))


def _patterns(observed: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct patterns (P, M), and which of them each row has (B,)."""
    if len(observed) > _MOST:
        distinct, place = torch.unique(observed.T, dim=0, return_inverse=True)
        return distinct, place
    powers = 2 ** torch.arange(len(observed), device=observed.device)
    place = (observed * powers.unsqueeze(1)).sum(0)
    codes = torch.arange(2 ** len(powers), device=place.device)
    if not place.is_cuda or len(powers) > FEW_MARGINS:
        codes, place = torch.unique(place, return_inverse=True)
    return (codes.unsqueeze(1) // powers) % 2 == 1, place
