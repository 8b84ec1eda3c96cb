"""Late fusion: predictions joined instead of features, by their average or by a regression on them and presence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.errors import ShapeError
from amodal.kinds import task_kind

__all__ = ["JoinedPredictions", "average_predictions"]

_SPREAD = 0.5  # standard deviation of what a join learns around where it begins


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

    def learn(self, outputs: Tensor, observed: Tensor, target: Tensor, weight: Tensor) -> None:
        """Fits all but the base rates to rows that the modalities' own networks were not trained on.

        The posterior is maximised under normal priors around where the join began, of standard deviation 0.5 (of the
        worths for their logarithms), so that few rows move it little.

        Args:
            outputs: Of shape (N, M, C).
            observed: Presence, (N, M).
            target: As the task has it.
            weight: How much each row counts, (N,); those of one case add up to one.
        """
        traits, z, w = task_kind(self.kind), outputs.double(), weight.double()
        began = [part.double() for part in (self.scale, self.offset, self.worth.log())]
        error = 1.0
        if traits.one_value:  # squared errors become nats by the variance of what is left over
            with torch.no_grad():
                left = traits.loss(self._joined(z, observed, self.base.double(), *began[:2], began[2].exp()), target)
                error = float(((w * left).sum() / w.sum()).clamp_min(1e-6))
        with torch.enable_grad():
            parts = [part.clone().requires_grad_() for part in began]
            optimiser = torch.optim.LBFGS(parts, max_iter=100, line_search_fn="strong_wolfe")

            def cost() -> Tensor:
                optimiser.zero_grad()
                scale, offset, log_worth = parts
                joined = self._joined(z, observed, self.base.double(), scale, offset, log_worth.exp())
                loss = (w * traits.nats(joined, target)).sum() / error
                away = torch.stack([(part - start).square().sum() for part, start in zip(parts, began)]).sum()
                loss = loss + 0.5 * away / _SPREAD**2
                loss.backward()
                return loss

            optimiser.step(cost)
        for buffer, part in zip((self.scale, self.offset, self.worth), (*parts[:2], parts[2].exp())):
            buffer.copy_(part.detach())
