"""Late fusion: predictions joined instead of features, by their average or by a regression on them and presence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.errors import ShapeError
from amodal.kinds import task_kind

__all__ = ["JoinedPredictions", "average_predictions"]

_SPREADS = (0.03, 0.1, 0.3, 1.0)  # standard deviations of what a join learns around where it begins, to choose from
_FOLDS = 5


def average_predictions(outputs: Tensor, observed: Tensor, kind: str) -> Tensor:
    r"""Outputs whose prediction is the mean of the observed modalities' predictions.

    With :math:`p_m` the probabilities that the outputs of modality m stand for,

    .. math:: \bar p_c = \frac{1}{|O|} \sum_{m \in O} p_{mc}

    computed from logarithms, so that no probability is rounded to zero. The result is again logits: :math:`\log \bar p`
    for one class of several, :math:`\log \bar p - \log (1 - \bar p)` for each label, and for regression the mean.

    Args:
        outputs: Of shape (B, M, C): logits, or means (C = 1). Absent entries are never read.
        observed: Presence, bool, of shape (B, M).
        kind: The task's kind.

    Returns:
        Of shape (B, C). Rows with nothing observed have zeros.

    Raises:
        ShapeError: If the presence does not fit the outputs.

    Source:
        The sum rule of :cite:`kittler1998combining`, section 3.3.

    Example:
        >>> import math
        >>> sure, unsure = [math.log(0.9), math.log(0.1)], [math.log(0.5), math.log(0.5)]
        >>> average_predictions(torch.tensor([[sure, unsure]]), torch.tensor([[True, True]]), "binary").softmax(1)
        tensor([[0.7000, 0.3000]])
    """
    if outputs.ndim != 3 or observed.shape != outputs.shape[:2] or observed.dtype != torch.bool:
        raise ShapeError(
            "presence does not fit the outputs",
            expected="outputs (B, M, C) and bool (B, M)",
            got=f"{tuple(outputs.shape)} and {observed.dtype} {tuple(observed.shape)}",
        )
    return task_kind(kind).average(torch.where(observed[..., None], outputs, 0.0), observed)


class JoinedPredictions(nn.Module):
    r"""The modalities' outputs joined by a regression on them and on presence.

    With the outputs :math:`z_m` of modality m (logits of classes or labels, or means) and those of the base rates,
    :math:`\bar z`, the joined outputs of a row with the modalities O are

    .. math:: z = \bar z + \tau_{|O|} \sum_{m \in O} \bigl( a_m (z_m - \bar z) + c_m \bigr)

    where :math:`a_m` calibrates a modality, :math:`c_m` is what its presence says, and :math:`\tau_k` how much k
    modalities are worth together. It begins with :math:`a = 1`, :math:`c = 0`, :math:`\tau = 1`, the rule for
    modalities that are independent given the class, and for a regression with :math:`\tau_k = 1 / k`, the mean.

    Args:
        n_modalities: Number of modalities M.
        n_outputs: Number of outputs C.
        kind: The task's kind.

    Source:
        The product rule of :cite:`kittler1998combining`, section 3.1, and the logistic regression on outputs of
        :cite:`wolpert1992stacked`.
    """

    base: Tensor
    scale: Tensor
    offset: Tensor
    worth: Tensor

    def __init__(self, n_modalities: int, n_outputs: int, kind: str):
        super().__init__()
        self.kind = kind
        number = torch.arange(n_modalities + 1).clamp_min(1)
        self.register_buffer("base", torch.zeros(n_outputs))
        self.register_buffer("scale", torch.ones(n_modalities))
        self.register_buffer("offset", torch.zeros(n_modalities, n_outputs))
        self.register_buffer("worth", 1.0 / number if task_kind(kind).one_value else torch.ones(n_modalities + 1))

    def forward(self, outputs: Tensor, observed: Tensor) -> Tensor:
        """Outputs (B, M, C), never read where absent, and presence (B, M) to outputs (B, C)."""
        return self._joined(outputs, observed, self.base, self.scale, self.offset, self.worth)

    @staticmethod
    def _joined(
        outputs: Tensor, observed: Tensor, base: Tensor, scale: Tensor, offset: Tensor, worth: Tensor
    ) -> Tensor:
        evidence = scale[:, None] * (torch.where(observed[..., None], outputs, 0.0) - base) + offset  # (B, M, C)
        total = torch.where(observed[..., None], evidence, 0.0).sum(1)
        return base + worth[observed.sum(1)][:, None] * total

    def learn(self, outputs: Tensor, observed: Tensor, target: Tensor, weight: Tensor, case: Tensor) -> None:
        """Fits all but the base rates to rows that the modalities' own networks were not trained on.

        The posterior is maximised under normal priors around where the join began (of the worths for their logarithms).
        Their common standard deviation is the one of four with the lowest loss in cross-validation by case, so that few
        rows move the join little.

        Args:
            outputs: Of shape (N, M, C).
            observed: Presence, (N, M).
            target: As the task has it.
            weight: How much each row counts, (N,); those of one case add up to one.
            case: Which case each row is of, integers (N,).
        """
        rows = (outputs.double(), observed, target, weight.double())
        began = [part.double() for part in (self.scale, self.offset, self.worth.log())]
        error = 1.0
        if task_kind(self.kind).one_value:  # squared errors become nats by the variance of what is left over
            error = float((self._losses(began, rows).sum() / rows[3].sum()).clamp_min(1e-6))
        fold = case % _FOLDS
        losses = []
        for spread in _SPREADS:
            parts = [[part[fold != i] for part in rows] for i in range(_FOLDS)]
            held = [[part[fold == i] for part in rows] for i in range(_FOLDS)]
            found = (self._fitted(began, rest, spread, error) for rest in parts)
            losses.append(float(torch.stack([self._losses(f, h).sum() for f, h in zip(found, held)]).sum()))
        best = self._fitted(began, rows, _SPREADS[losses.index(min(losses))], error)
        for buffer, part in zip((self.scale, self.offset, self.worth), (*best[:2], best[2].exp())):
            buffer.copy_(part)

    def _losses(self, parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
        """Weighted losses (N,) of rows (outputs, presence, target, weight) under a scale, an offset and log worths."""
        outputs, observed, target, weight = rows
        scale, offset, log_worth = parts
        joined = self._joined(outputs, observed, self.base.double(), scale, offset, log_worth.exp())
        return weight * task_kind(self.kind).nats(joined, target)

    def _fitted(self, began: Sequence[Tensor], rows: Sequence[Tensor], spread: float, error: float) -> list[Tensor]:
        """Scale, offset and log worths of the largest posterior density."""
        with torch.enable_grad():
            parts = [part.clone().requires_grad_() for part in began]
            optimiser = torch.optim.LBFGS(parts, max_iter=60, line_search_fn="strong_wolfe")

            def cost() -> Tensor:
                optimiser.zero_grad()
                away = torch.stack([(part - start).square().sum() for part, start in zip(parts, began)]).sum()
                loss = self._losses(parts, rows).sum() / error + 0.5 * away / spread**2
                loss.backward()
                return loss

            optimiser.step(cost)
        return [part.detach() for part in parts]
