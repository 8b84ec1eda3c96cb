"""Alignment of predicted with present features given the context, over all modalities of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from amodal.losses.characteristic_function.kernel_weights import (
    Bandwidth,
    Distance,
    neighbour_weights,
    squared_distances,
)
from amodal.losses.characteristic_function.loss import (
    Form,
    conditional_cf_rows,
    marginal_cf_loss,
    random_directions,
    random_frequencies,
)
from amodal.losses.characteristic_function.radial_kernel import radial_kernel
from amodal.losses.masked import connected_zero, mean_over_terms
from amodal.options import Positive

__all__ = ["ContextAlignment", "KernelWidth", "kernel_settings"]

KernelWidth = Positive | Literal["per_dimension", "median"]
"""The option of methods for the kernel on contexts, see `kernel_settings`."""


def kernel_settings(width: float | str) -> dict[str, Any]:
    """The arguments of `ContextAlignment` for a kernel on contexts.

    Args:
        width: A width on contexts as they are, "per_dimension" for one that grows with the square root of their number
            of dimensions, or "median" for the median distance.

    Example:
        >>> kernel_settings("per_dimension"), kernel_settings(2.0)
        ({'bandwidth': 1.0, 'distance': 'per_dimension'}, {'bandwidth': 2.0})
    """
    if width == "per_dimension":
        return {"bandwidth": 1.0, "distance": "per_dimension"}
    return {"bandwidth": width}


@dataclass(frozen=True)
class ContextAlignment:
    r"""The conditional characteristic function loss, averaged over rows that lack a modality, then over modalities.

    .. math::
        L_{CF} = \frac{1}{|\mathcal M|} \sum_{m \in \mathcal M} \frac{1}{|B_m^c|} \sum_{i \in B_m^c} \ell_i^{(m)},
        \qquad \mathcal M = \{m : B_m \ne \emptyset, B_m^c \ne \emptyset\}

    Args:
        bandwidth: Width of the kernel on contexts, or "median".
        distance: "raw", or "per_dimension" to divide squared distances of contexts by their width.
        detach_weights: Whether the kernel's weights are constants.
        detach_observed: Whether the observed side is constant.
        form: How directions and frequencies are averaged; see `amodal.losses.characteristic_function.loss`.
        directions: Number of random directions drawn for each batch, unless the form is "radial".
        frequencies: Number of random frequencies drawn for each batch, unless the form is "radial".
        conditional: False compares the two samples as wholes, without a context.

    Source:
        :cite:`choi2025cepa`, eqs. 9 to 12. The paper does not say what eq. 12 is averaged over.

    Example:
        >>> alignment = ContextAlignment(directions=4, frequencies=2)
        >>> features, observed = torch.randn(6, 2, 8), torch.rand(6, 2) < 0.5
        >>> alignment(features, features, features.mean(1), observed, torch.Generator()).shape
        torch.Size([])
    """

    bandwidth: Bandwidth = 1.0
    distance: Distance = "raw"
    detach_weights: bool = True
    detach_observed: bool = True
    form: Form = "products"
    directions: int = 128
    frequencies: int = 64
    conditional: bool = True

    def __call__(
        self,
        features: Tensor,
        predicted: Tensor,
        context: Tensor,
        observed: Tensor,
        generator: torch.Generator,
        *,
        contexts_without: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            features: Features of the present modalities, of shape (B, M, D), never read where absent.
            predicted: Features predicted for the absent ones, of shape (B, M, D), never read where present.
            context: Contexts, of shape (B, E).
            observed: Presence, bool, of shape (B, M).
            generator: Source of directions and frequencies, on the features' device.
            contexts_without: For each modality contexts computed without it, of shape (B, M, E), to be used for the
                rows that have it; rows that have nothing else do not count then. None: `context`.

        Returns:
            A scalar; zero, connected to the graph, if no modality is present for some rows and absent for others.
        """
        if self._at_once and contexts_without is None:
            return self._of_all_modalities(features, predicted, context, observed)
        how: dict[str, Any] = {"form": self.form}
        if self.form != "radial":
            like = {"generator": generator, "device": features.device}
            how["directions"] = random_directions(features.shape[2], self.directions, **like)
            how["frequencies"] = random_frequencies(self.frequencies, **like)
        several = observed.sum(1) > 1
        values, counted = {}, {}
        for m in range(observed.shape[1]):
            if not self.conditional:
                h, seen = features[:, m].detach() if self.detach_observed else features[:, m], observed[:, m]
                values[str(m)] = marginal_cf_loss(h[seen], predicted[~seen, m], **how).expand(len(h))
                counted[str(m)] = ~seen & seen.any()
                continue
            values[str(m)], counted[str(m)], _ = conditional_cf_rows(
                features[:, m],
                predicted[:, m],
                context,
                observed[:, m],
                self.bandwidth,
                reference_context=None if contexts_without is None else contexts_without[:, m],
                reference=None if contexts_without is None else several,
                detach_observed=self.detach_observed,
                distance=self.distance,
                detach_weights=self.detach_weights,
                **how,
            )
        return mean_over_terms(values, counted)

    @property
    def _at_once(self) -> bool:
        """Whether all modalities can share one matrix of distances and one evaluation of the kernel."""
        return self.conditional and self.form == "radial" and self.bandwidth != "median"

    def _of_all_modalities(self, features: Tensor, predicted: Tensor, context: Tensor, observed: Tensor) -> Tensor:
        """The radial form of the loss for all modalities at a time; what `conditional_cf_rows` gives one by one."""
        seen = observed.mT  # (M, B)
        references = seen.any(1) & ~seen.all(1)  # (M,)
        if not bool(references.any()):
            return connected_zero(features, predicted, context)
        queries = ~seen & references[:, None]
        fixed = features.detach() if self.detach_observed else features
        dtype = torch.promote_types(torch.promote_types(fixed.dtype, predicted.dtype), torch.float32)
        both = torch.where(observed[..., None], fixed, predicted).transpose(0, 1).to(dtype)  # (M, B, D)
        with torch.autocast(both.device.type, enabled=False):
            weights = self._signed_weights(context, seen, queries).to(dtype)  # (M, B, B)
            centred = both - both.detach().mean(1, keepdim=True)
            lengths = centred.square().sum(2)
            squared = torch.baddbmm(lengths[:, :, None] + lengths[:, None], centred, centred.mT, alpha=-2).clamp_min(0)
            kernel = radial_kernel(squared, both.shape[2])
            values = (torch.bmm(weights, kernel) * weights).sum((1, 2))  # (M,)
        return (values / queries.sum(1).clamp_min(1)).sum() / references.sum()

    def _signed_weights(self, context: Tensor, seen: Tensor, queries: Tensor) -> Tensor:
        """Weights of all rows around each query, minus on the predicted side and zero around the other rows."""
        squared = squared_distances(
            *(2 * [context.detach() if self.detach_weights else context]), distance=self.distance
        )
        modality, row = queries.nonzero().unbind(1)  # (Q,)
        squared, having = squared[row], seen[modality]  # (Q, B)
        nearest = squared.detach().masked_fill(~having, math.inf).amin(1, keepdim=True)
        shift = torch.where(having, nearest, squared.detach().masked_fill(having, math.inf).amin(1, keepdim=True))
        kernel = torch.exp((shift - squared) / (2 * self.bandwidth) / self.bandwidth)  # type: ignore[operator]
        around, among = torch.where(having, kernel, 0.0), torch.where(having, 0.0, kernel)
        signed = around / around.sum(1, keepdim=True) - among / among.sum(1, keepdim=True)
        empty = signed.new_zeros(queries.numel(), len(context))
        return empty.index_copy(0, modality * len(context) + row, signed).view(*queries.shape, -1)

    def weights(self, context: Tensor, observed: Tensor) -> list[Tensor]:
        """Kernel weights (Q, N) of the rows that have a modality around those that lack it, where there are both.

        Args:
            context: Contexts, of shape (B, E).
            observed: Presence, bool, of shape (B, M).
        """
        split = [seen for seen in observed.unbind(1) if bool(seen.any()) and not bool(seen.all())]
        return [
            neighbour_weights(context[seen], context[~seen], self.bandwidth, distance=self.distance)[0]
            for seen in split
        ]
