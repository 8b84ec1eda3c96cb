"""Alignment of predicted with present features given the context, over all modalities of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from amodal.batch import rows_where
from amodal.errors import ConfigurationError
from amodal.losses.characteristic_function.kernel_weights import (
    Bandwidth,
    Distance,
    NeighbourShare,
    neighbour_weights,
    share_widths,
    squared_distances,
    with_itself_as_nearest,
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
from amodal.options import Choice, Positive, above, at_most, resolve_choice

__all__ = [
    "ALIGNMENTS",
    "AlignmentChoice",
    "ContextAlignment",
    "KernelWidth",
    "Neighbours",
    "build_alignment",
    "kernel_settings",
]

KernelWidth = Positive | Literal["neighbours", "per_dimension", "median"]
"""The option of methods for the kernel on contexts, see `kernel_settings`."""

Neighbours = Annotated[float, above(0), at_most(1)]

ContextFrom = Literal["mean", "transformer"]

_MOST_ROWS = 256


def kernel_settings(width: float | str, neighbours: float = 0.1) -> dict[str, Any]:
    """The arguments of `ContextAlignment` for a kernel on contexts.

    Args:
        width: "neighbours" for a width of each query's own at which a share of the rows count, a width on contexts as
            they are, "per_dimension" for one that grows with the square root of their number of dimensions, or "median"
            for the median distance.
        neighbours: That share, as effective sample size.

    Example:
        >>> kernel_settings("per_dimension"), kernel_settings(2.0)
        ({'bandwidth': 1.0, 'distance': 'per_dimension'}, {'bandwidth': 2.0})
    """
    if width == "neighbours":
        return {"bandwidth": NeighbourShare(neighbours)}
    if width == "per_dimension":
        return {"bandwidth": 1.0, "distance": "per_dimension"}
    return {"bandwidth": width}


@dataclass(frozen=True)
class ContextAlignment:
    r"""The conditional characteristic function loss, averaged over rows that lack a modality, then over modalities.

    .. math::
        L_{CF} = \frac{1}{|\mathcal M|} \sum_{m \in \mathcal M} \frac{1}{|B_m^c|} \sum_{i \in B_m^c} \ell_i^{(m)},
        \qquad \mathcal M = \{m : B_m \ne \emptyset, B_m^c \ne \emptyset\}

    A batch of more than 256 rows is aligned in equal parts of at most so many, so that time and memory grow with the
    number of rows and not with its square.

    Args:
        bandwidth: Width of the kernel on contexts, "median", or a `NeighbourShare`.
        distance: "raw", or "per_dimension" to divide squared distances of contexts by their width.
        detach_weights: Whether the kernel's weights are constants.
        detach_observed: Whether the observed side is constant.
        form: How directions and frequencies are averaged; see `amodal.losses.characteristic_function.loss`.
        directions: Number of random directions drawn for each batch, unless the form is "radial".
        frequencies: Number of random frequencies drawn for each batch, unless the form is "radial".
        conditional: False compares the two samples as wholes, without a context.
        diagonal: Whether a row is compared with itself too, as printed. These terms have no gradient, but what is left
            of the weights then repels predictions too little, and the narrower the kernel the more: the loss without
            them, its weights normalised anew, has an expectation of zero at the right law. The form is then "radial".
        with_target: Whether the contexts of rows that have a modality are of that modality too; otherwise the caller
            passes contexts without it.
        context: What the caller makes contexts with.

    Raises:
        ConfigurationError: If the diagonal is to be left out in another form.

    Source:
        :cite:`choi2025cepa`, eqs. 9 to 12. The paper does not say what eq. 12 is averaged over. Without the diagonal
        both sides are U-statistics, as in :cite:`gretton2012mmd`, lemma 6.

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
    diagonal: bool = True
    with_target: bool = True
    context: ContextFrom = "mean"

    def __post_init__(self) -> None:
        if not self.diagonal and not self._at_once:
            raise ConfigurationError(
                "the alignment cannot leave out the diagonal", expected="form='radial'", got=self.form
            )

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
        parts = -(-len(features) // _MOST_ROWS)
        if parts > 1:
            whole = (features, predicted, context, observed, contexts_without)
            split = [[None] * parts if part is None else part.tensor_split(parts) for part in whole]
            return torch.stack(
                [self(*four, generator, contexts_without=without) for *four, without in zip(*split)]  # type: ignore
            ).mean()
        if self._at_once:
            return self._of_all_modalities(features, predicted, context, observed, contexts_without)
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

    def _of_all_modalities(
        self, features: Tensor, predicted: Tensor, context: Tensor, observed: Tensor, without: Tensor | None
    ) -> Tensor:
        """The radial form of the loss for all modalities at a time; what `conditional_cf_rows` gives one by one."""
        seen = observed.mT  # (M, B)
        having = seen if without is None else seen & (observed.sum(1) > 1)  # (M, B)
        references = having.any(1) & ~seen.all(1)  # (M,)
        queries = ~seen & references[:, None]
        (places,) = rows_where(queries.flatten())
        if not len(places):
            return connected_zero(features, predicted, context)
        fixed = features.detach() if self.detach_observed else features
        dtype = torch.promote_types(torch.promote_types(fixed.dtype, predicted.dtype), torch.float32)
        both = torch.where(observed[..., None], fixed, predicted).transpose(0, 1).to(dtype)  # (M, B, D)
        with torch.autocast(both.device.type, enabled=False):
            around, among = (
                w.to(dtype) for w in self._weights(context, having, queries, places, without)
            )  # (M, B, B) each
            centred = both - both.detach().mean(1, keepdim=True)
            lengths = centred.square().sum(2)
            squared = torch.baddbmm(lengths[:, :, None] + lengths[:, None], centred, centred.mT, alpha=-2).clamp_min(0)
            kernel = radial_kernel(squared, both.shape[2])
            pairs, constant = self._pairs(around, among, 1 / queries.sum(1).clamp_min(1))
            values = (pairs * kernel).sum((1, 2)) - constant  # (M,)
        return values.sum() / references.sum()

    def _pairs(self, around: Tensor, among: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """How much the kernel of each pair of rows counts (M, B, B), summed over the queries, and what is subtracted.

        The loss of a query is a quadratic form in the kernel; a sum of such forms is one, so that the kernel is
        multiplied once, and its gradient is this matrix.
        """
        if self.diagonal:
            signed = around - among
            return torch.bmm(signed.mT * share[:, None, None], signed), share.new_zeros(())
        sides, constant = [], share.new_zeros(())
        for side in (around, among):
            alone = side.square().sum(2)  # (M, B), what a row's comparison with itself adds; the kernel is 1 there
            scale = torch.where(alone < 0.999, share[:, None] / (1 - alone).clamp_min(1e-3), 0.0)  # U-statistics
            sides.append(torch.bmm(side.mT * scale[:, None], side))
            constant = constant + (alone * scale).sum(1)  # (M,)
        return sides[0] + sides[1] - 2 * torch.bmm(around.mT * share[:, None, None], among), constant

    def _weights(
        self, context: Tensor, having: Tensor, queries: Tensor, places: Tensor, without: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weights (M, B, B) around each query, zero around other rows: of rows that have the modality, and lack it."""
        size, contexts = len(context), context[None] if without is None else without.transpose(0, 1)  # (1 or M, B, E)
        contexts = contexts.detach() if self.detach_weights else contexts
        every = torch.stack([squared_distances(one, one, distance=self.distance) for one in contexts])
        modality, row = places // size, places % size  # (Q,)
        squared = every[modality if without is not None else torch.zeros_like(modality), row]  # (Q, B)
        around, among = having[modality], queries[modality]  # (Q, B)
        width: Any = self.bandwidth
        if isinstance(width, NeighbourShare):
            width = share_widths(squared, around, width.share)  # (Q, 1)
            itself = row[:, None] == torch.arange(size, device=row.device)
            squared = torch.where(among, with_itself_as_nearest(squared.masked_fill(~among, math.inf), itself), squared)
        sides = []
        for side in (around, among):
            nearest = squared.detach().masked_fill(~side, math.inf).amin(1, keepdim=True)
            gap = torch.where(side, nearest - squared, 0.0)
            kernel = torch.where(side, torch.exp(gap / (2 * width) / width), 0.0)
            empty = squared.new_zeros(queries.numel(), size)
            at = modality * size + row
            sides.append(empty.index_copy(0, at, kernel / kernel.sum(1, keepdim=True)).view(*queries.shape, -1))
        return sides[0], sides[1]

    def weights(self, context: Tensor, observed: Tensor, contexts_without: Tensor | None = None) -> list[Tensor]:
        """Kernel weights (Q, N) of the rows that have a modality around those that lack it, where there are both.

        None if the samples are compared as wholes.

        Args:
            context: Contexts, of shape (B, E).
            observed: Presence, bool, of shape (B, M).
            contexts_without: As in `__call__`.
        """
        every, several = [], observed.sum(1) > 1
        if not self.conditional or self.bandwidth == math.inf:
            return []
        for m, seen in enumerate(observed.unbind(1)):
            having = seen if contexts_without is None else seen & several
            if bool(having.any()) and not bool(seen.all()):
                own = context if contexts_without is None else contexts_without[:, m]
                sides = (own[having], context[~seen])
                every.append(neighbour_weights(*sides, self.bandwidth, distance=self.distance)[0])
        return every


def _conditional(
    *,
    bandwidth: KernelWidth = "neighbours",
    neighbours: Neighbours = 0.1,
    with_target: bool = False,
    diagonal: bool = False,
    form: Form = "radial",
    context: ContextFrom = "mean",
) -> ContextAlignment:
    kernel = kernel_settings(bandwidth, neighbours)
    return ContextAlignment(**kernel, with_target=with_target, diagonal=diagonal, form=form, context=context)


def _marginal(*, diagonal: bool = False) -> ContextAlignment:
    return ContextAlignment(bandwidth=math.inf, diagonal=diagonal, form="radial")


ALIGNMENTS: dict[str, Callable[..., ContextAlignment]] = {"conditional": _conditional, "marginal": _marginal}
_ALIGNMENT = Choice("alignment", ALIGNMENTS)
AlignmentChoice = Annotated[str | Mapping[str, Any], _ALIGNMENT]
"""The option of a method that names an alignment."""


def build_alignment(choice: AlignmentChoice, *, detach_observed: bool) -> ContextAlignment:
    """An alignment by name, with its options.

    Args:
        choice: "conditional" with the options bandwidth ("neighbours"), neighbours (0.1), with_target (False),
            diagonal (False), form ("radial") and context ("mean" of the present vectors, or "transformer" over them,
            which stays as it was initialised), or "marginal", of the two samples as wholes, with the option diagonal;
            as a name or {"name": name, option: value, …}.
        detach_observed: Whether the observed side is constant.

    Raises:
        UnknownNameError: If the alignment or an option is not known.
        ConfigurationError: If an option has a value that cannot be used.

    Example:
        >>> build_alignment({"name": "conditional", "neighbours": 0.2}, detach_observed=True).bandwidth
        NeighbourShare(share=0.2)
    """
    build, options = resolve_choice(choice, _ALIGNMENT)
    return replace(build(**options), detach_observed=detach_observed)
