"""Completions of absent modalities: what draws them, a score of them, and draws about a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from amodal.batch import rows_where
from amodal.kinds.task import TaskKind

__all__ = ["NOISE", "Completer", "energy_score", "held_fixed", "shift_to"]

NOISE = 16
"""Numbers of noise of each modality."""

_STEPS, _LARGEST_STEP, _SHRINKING = 30, 2.0, 0.9


class Completer(nn.Module):
    r"""Completions of the pooled vectors of absent modalities: a network of what a row shows, and of noise.

    .. math::
        \hat h_m = \bar h_m + g\Bigl(B h_O + C \bar h_m + d_m + A_m \epsilon_m
        + \sum_{u \text{ absent}} A'_u \epsilon_u\Bigr)

    with :math:`h_O` the vectors of the present modalities, :math:`\bar h_m` the prediction without noise, and g two
    hidden layers. Each modality has noise of its own, and all absent ones have a part in common, so that completions of
    several modalities can depend on one another.

    Args:
        n: Number of modalities M.
        width: Width D of the vectors.
    """

    def __init__(self, n: int, width: int):
        super().__init__()
        hidden = 2 * width
        self.present = nn.Linear(n * width, hidden)
        self.prediction = nn.Linear(width, hidden, bias=False)
        self.modality = nn.Parameter(0.1 * torch.randn(n, hidden))
        self.own = nn.Parameter(NOISE**-0.5 * torch.randn(n, NOISE, hidden))
        self.common = nn.Parameter(NOISE**-0.5 * torch.randn(n, NOISE, hidden))
        self.body = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, own: Tensor, predicted: Tensor, observed: Tensor, noise: Tensor) -> Tensor:
        """S completions of each row.

        Args:
            own: Vectors of the present modalities, of shape (B, M, D), never read where absent.
            predicted: Predictions of the absent ones, of shape (B, M, D), never read where present.
            observed: Presence, bool, of shape (B, M).
            noise: Standard normal, of shape (S, B, M, K), or (S, 1, M, K) for all rows the same.

        Returns:
            Of shape (S, B, M, D); zero where present.
        """
        n, d = predicted.shape[1:]
        (places,) = rows_where(~observed.flatten())  # (N,)
        row, modality = places // n, places % n
        shown = self.present(torch.where(observed[..., None], own, 0.0).flatten(1))  # (B, H)
        base = predicted.flatten(0, 1)[places]  # (N, D)
        known = shown[row] + self.prediction(base) + self.modality[modality]  # (N, H)
        drawn, common = (torch.einsum("sbmk,mkh->sbmh", noise, part) for part in (self.own, self.common))
        common = (common * (~observed)[..., None].to(common.dtype)).sum(2, keepdim=True)
        inner = known + (drawn + common).flatten(1, 2)[:, places]  # (S, N, H)
        completed = base + self.body(inner)
        return (
            completed.new_zeros(len(noise), observed.numel(), d).index_copy(1, places, completed).unflatten(1, (-1, n))
        )


@contextmanager
def held_fixed(*modules: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode whose parameters get no gradient of what is computed with them inside."""
    learning = [p for module in modules for p in module.parameters() if p.requires_grad]
    modes = [module.training for module in modules]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        for module in modules:
            module.eval()
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, mode in zip(modules, modes):
            module.train(mode)


def energy_score(draws: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    r"""Energy score of two completions of each row, jointly over the modalities that count.

    .. math:: \tfrac12 \sum_s \lVert \hat h^s - h \rVert - \tfrac12 \lVert \hat h^1 - \hat h^2 \rVert

    Its expectation is smallest where the completions have the law of the target given all that they were drawn from: a
    distance of characteristic functions, as eq. 12 is, with the row itself in the place of its neighbours.

    Args:
        draws: Two completions, of shape (2, B, M, D).
        target: What they complete, of shape (B, M, D), never read where it does not count.
        counted: Modalities whose truth is known, bool, of shape (B, M).

    Returns:
        Of shape (B,), in units of the root mean square of a coordinate; zero where nothing counts.

    Source:
        :cite:`gneiting2007strictly`, section 4.3. That the energy distance is one of characteristic functions:
        :cite:`szekely2013energy`, proposition 1.

    Example:
        >>> draws, target = torch.tensor([[[[3.0]]], [[[-1.0]]]]), torch.zeros(1, 1, 1)
        >>> energy_score(draws, target, torch.ones(1, 1, dtype=torch.bool))  # (3 + 1) / 2 - 4 / 2
        tensor([0.])
    """
    numbers = (counted.sum(1) * draws.shape[3]).clamp(min=1)  # (B,)
    pairs = ((draws[0], target), (draws[1], target), (draws[0], draws[1]))
    squared = [torch.where(counted[..., None], one - other, 0.0).float().square().sum((1, 2)) for one, other in pairs]
    first, second, between = (torch.stack(squared) / numbers + 1e-12).sqrt()
    return torch.where(counted.any(1), (first + second - between) / 2, 0.0)


@torch.no_grad()
def shift_to(outputs: Tensor, prediction: Tensor, kind: TaskKind) -> Tensor:
    """What is added to the outputs of all draws so that their mean prediction is a given one.

    Args:
        outputs: Outputs of S draws, of shape (S, B, C).
        prediction: Probabilities (B, C), or means (B,).
        kind: Of the task.

    Returns:
        Of shape (B, C), by Newton's method with the diagonal of the slope and ever smaller steps. Where draws are as
        good as certain, something of the difference may be left.

    Example:
        >>> from amodal.kinds import task_kind
        >>> outputs, prediction = torch.tensor([[[0.0, 3.0]], [[1.0, 0.0]]]), torch.tensor([[0.7, 0.3]])
        >>> shift = shift_to(outputs, prediction, task_kind("binary"))
        >>> (outputs + shift).softmax(-1).mean(0)
        tensor([[0.7000, 0.3000]])
    """
    if kind.one_value:
        return prediction[:, None] - outputs.mean(0)
    shift, largest = torch.zeros_like(outputs[0]), _LARGEST_STEP
    share = 0.5 if kind.one_class else 1.0  # of two classes both move
    for _ in range(_STEPS):
        drawn = kind.predictions(outputs + shift)
        step = (prediction - drawn.mean(0)) / (drawn * (1 - drawn)).mean(0).clamp_min(1e-6)
        shift = shift + share * step.clamp(-largest, largest)
        largest *= _SHRINKING
    return shift
