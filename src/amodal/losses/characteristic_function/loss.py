"""Matching of characteristic functions: of two samples, and of two samples given a context.

The features that are predicted for the rows that lack a modality should be distributed like the features of the rows
that have it, not overall (:func:`marginal_cf_loss`) but among rows in similar contexts
(:func:`conditional_cf_loss`, the loss of CEPA). :func:`conditional_cf_rows` applies the latter to a batch in which
some rows have the modality and others do not.

**Three forms** compute the same loss. ``"products"`` takes two matrix products and is the default. ``"gram"`` writes
the loss as :math:`v_i^\\top G v_i` with the Gram matrix of the cosines and sines; it is plain tensor operations, and
differentiable in the frequencies too. ``"radial"`` puts the expectation over directions and frequencies in the place of
their sample: no randomness, and no directions to pass.

**The floor.** Two finite samples of the same distribution do not match exactly. With independent features the expected
value under a perfect predictor is :math:`(1 - \\bar g)(\\sum_j w_{ij}^2 + \\sum_{i'} \\hat w_{ii'}^2)`, where
:math:`\\bar g` is the mean of :func:`.radial_kernel` between independent features (about
0.18 for layer-normalised features and frequencies up to 5). The loss does not reach zero, and its values at different
batch sizes do not compare: at 11 and 5 rows with uniform weights the floor is 0.23.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from amodal.batch import rows_where
from amodal.errors import ConfigurationError, ShapeError, UnknownNameError
from amodal.losses.characteristic_function.frequency_features import weighted_cf_difference
from amodal.losses.characteristic_function.kernel_weights import (
    Bandwidth,
    Distance,
    effective_sample_size,
    kernel_weights,
    median_bandwidth,
    neighbour_weights,
)
from amodal.losses.characteristic_function.projections import random_directions, random_frequencies
from amodal.losses.characteristic_function.radial_kernel import radial_kernel
from amodal.losses.masked import connected_zero, select

__all__ = [
    "ConditionalCF",
    "Form",
    "conditional_cf_loss",
    "conditional_cf_rows",
    "effective_sample_size",
    "kernel_weights",
    "marginal_cf_loss",
    "median_bandwidth",
    "radial_kernel",
    "random_directions",
    "random_frequencies",
]

Form = Literal["products", "gram", "radial"]


def conditional_cf_loss(
    observed_features: Tensor,
    predicted_features: Tensor,
    observed_context: Tensor,
    predicted_context: Tensor,
    bandwidth: Bandwidth = 1.0,
    *,
    directions: Tensor | None = None,
    frequencies: Tensor | None = None,
    distance: Distance = "raw",
    detach_weights: bool = True,
    form: Form = "products",
    max_frequency: float = 5.0,
    chunk: int | None = None,
) -> Tensor:
    r"""Squared difference of the two sides' characteristic functions, given the context of each query.

    .. math::
        \ell_i = \frac{1}{PF} \sum_{p, k} \Bigl| \sum_{j} w_{ij} \, e^{i \tau_k a_p^\top h_j}
        - \sum_{i'} \hat w_{ii'} \, e^{i \tau_k a_p^\top \hat h_{i'}} \Bigr|^2

    with the kernel weights of :func:`.kernel_weights`, normalised over the rows that have
    the modality (:math:`w`) and over those that lack it, the query among them (:math:`\hat w`). It is a squared
    maximum mean discrepancy between kernel-weighted samples, lies in [0, 4], and is computed in float32 at least, also
    under autocast.

    The defaults are the equations read literally. Choices that the text leaves open are the caller's: pass
    ``observed_features.detach()`` if the observed side is a target (otherwise shrinking both sides to a point is a
    perfect match), and pass contexts of the observed rows that leave the modality out if the two sides' contexts are to
    mean the same thing.

    Args:
        observed_features: Features :math:`h_j` of the rows that have the modality, of shape (n, D).
        predicted_features: Features :math:`\hat h_i` predicted for the rows that lack it, of shape (n', D).
        observed_context: Contexts of the rows that have it, of shape (n, E).
        predicted_context: Contexts of the rows that lack it, of shape (n', E). They are the queries.
        bandwidth: Width :math:`\sigma` of the kernel, or ``"median"`` for the median distance. Infinity gives the
            unconditional loss.
        directions: Unit columns :math:`a_p`, of shape (D, P). Needed unless the form is ``"radial"``.
        frequencies: Frequencies :math:`\tau_k`, of shape (F,). Needed unless the form is ``"radial"``.
        distance: ``"raw"`` squared distances, or ``"per_dimension"`` to divide them by E.
        detach_weights: Whether the weights are constants. Otherwise contexts learn to choose their neighbours, which
            is a way to make the loss small without predicting better.
        form: ``"products"``, ``"gram"`` or ``"radial"``, see the module's page. The Gram form may come out below
            zero by a rounding error.
        max_frequency: Largest frequency of the radial form.
        chunk: Number of directions that the products work on at once; None chooses by the room they take.

    Returns:
        One value for each query, of shape (n',). Zeros, connected to the graph, if nobody has the modality: there is
        nothing to match; an empty tensor if nobody lacks it.

    Raises:
        ShapeError: If sizes disagree.
        ConfigurationError: If an option cannot be used, or directions or frequencies are missing.
        DataError: If a context is not finite.

    Source:
        :cite:`choi2025cepa`, eqs. 9 to 12.

    Example:
        >>> import torch
        >>> h, h_hat, c = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 3)
        >>> A, f = torch.tensor([[1.0], [0.0]]), torch.tensor([3.141592653589793])
        >>> conditional_cf_loss(h, h_hat, c, c, directions=A, frequencies=f)  # 2 - 2 cos(π)
        tensor([4.])
    """
    _check_features(observed_features, predicted_features)
    _check_lengths(observed_features, observed_context, "observed")
    _check_lengths(predicted_features, predicted_context, "predicted")
    how = _Matching(directions, frequencies, form, max_frequency, chunk)
    sides = _weights(observed_context, predicted_context, bandwidth, distance, detach_weights)
    return how.difference(observed_features, predicted_features, *sides)


def marginal_cf_loss(
    observed_features: Tensor,
    predicted_features: Tensor,
    *,
    directions: Tensor | None = None,
    frequencies: Tensor | None = None,
    form: Form = "products",
    max_frequency: float = 5.0,
    chunk: int | None = None,
) -> Tensor:
    r"""Squared difference of two samples' empirical characteristic functions, without a context.

    .. math::
        \ell = \frac{1}{PF} \sum_{p, k} \Bigl| \frac1n \sum_{j} e^{i \tau_k a_p^\top h_j}
        - \frac1{n'} \sum_{i} e^{i \tau_k a_p^\top \hat h_{i}} \Bigr|^2

    It is what :func:`conditional_cf_loss` gives to every query as the bandwidth goes to infinity. Being a statistic of
    two samples it has one value and not one for each row.

    Args:
        observed_features: Features of the rows that have the modality, of shape (n, D).
        predicted_features: Features predicted for the rows that lack it, of shape (n', D).
        directions: Unit columns, of shape (D, P). Needed unless the form is ``"radial"``.
        frequencies: Frequencies, of shape (F,). Needed unless the form is ``"radial"``.
        form: As in :func:`conditional_cf_loss`.
        max_frequency: Largest frequency of the radial form.
        chunk: As in :func:`conditional_cf_loss`.

    Returns:
        A scalar in [0, 4], shape (). Zero, connected to the graph, if one of the samples is empty.

    Raises:
        ShapeError: If sizes disagree.
        ConfigurationError: If an option cannot be used, or directions or frequencies are missing.

    Source:
        The two-sample reading of "EP" in :cite:`choi2025cepa`, section 3.1.

    Example:
        >>> import torch
        >>> h, A = torch.tensor([[0.0], [2.0]]), torch.ones(1, 1)
        >>> marginal_cf_loss(h, h.flip(0), directions=A, frequencies=torch.tensor([1.0, 2.0])).item()
        0.0
    """
    _check_features(observed_features, predicted_features)
    n, m = len(observed_features), len(predicted_features)
    like = _computed_type(observed_features, predicted_features)
    uniform = [predicted_features.new_full((1, k), 1 / max(k, 1), dtype=like) for k in (n, m)]
    how = _Matching(directions, frequencies, form, max_frequency, chunk)
    return how.difference(observed_features, predicted_features, *uniform)[0]


class ConditionalCF(NamedTuple):
    """The conditional loss of one modality, row by row of a batch.

    Attributes:
        value: Equation 12 for the rows that lack the modality, zero for the others, of shape (B,).
        counted: Rows that lack it while there are rows to compare with, bool, of shape (B,). Reduce with
            :func:`~amodal.losses.masked.mean_over_terms`.
        effective_sample_size: Of the observed side's weights around each counted row, zero elsewhere, of shape (B,).
    """

    value: Tensor
    counted: Tensor
    effective_sample_size: Tensor


def conditional_cf_rows(
    features: Tensor,
    predicted: Tensor,
    context: Tensor,
    observed: Tensor,
    bandwidth: Bandwidth = 1.0,
    *,
    directions: Tensor | None = None,
    frequencies: Tensor | None = None,
    reference_context: Tensor | None = None,
    reference: Tensor | None = None,
    detach_observed: bool = True,
    distance: Distance = "raw",
    detach_weights: bool = True,
    form: Form = "products",
    max_frequency: float = 5.0,
    chunk: int | None = None,
) -> ConditionalCF:
    r"""Conditional loss of one modality in a batch where some rows have it and others do not.

    Rows that lack the modality are the queries, rows that have it the references. Entries of ``features`` in rows that
    lack it, and of ``predicted`` in rows that have it, are never read.

    Args:
        features: Features of the modality, of shape (B, D); arbitrary where it is absent.
        predicted: Predicted features of the modality, of shape (B, D); arbitrary where it is present.
        context: Contexts, of shape (B, E).
        observed: Presence of the modality, bool, of shape (B,).
        bandwidth: As in :func:`conditional_cf_loss`.
        directions: As in :func:`conditional_cf_loss`.
        frequencies: As in :func:`conditional_cf_loss`.
        reference_context: Contexts for the rows in their role as references, of shape (B, E); None takes ``context``.
            A context computed without this modality makes both sides' contexts mean the same thing, whereas the
            context of a row that has the modality otherwise contains it.
        reference: Rows that may be references, bool, of shape (B,), to leave out those that have nothing but this
            modality and so no context without it. None allows all.
        detach_observed: Whether the observed side is a constant target.
        distance: As in :func:`conditional_cf_loss`.
        detach_weights: As in :func:`conditional_cf_loss`.
        form: As in :func:`conditional_cf_loss`.
        max_frequency: As in :func:`conditional_cf_loss`.
        chunk: As in :func:`conditional_cf_loss`.

    Returns:
        Values, the rows that count, and effective sample sizes. If nobody has the modality, or nobody lacks it, no
        row counts and the values are zeros connected to the graph.

    Raises:
        ShapeError: If sizes disagree.
        ConfigurationError: If an option cannot be used, or directions or frequencies are missing.
        DataError: If a context that is used is not finite.

    Source:
        :cite:`choi2025cepa`, eqs. 9 to 12, averaged over the queries of the batch.

    Example:
        >>> import torch
        >>> h, c, observed = torch.randn(4, 8), torch.randn(4, 2), torch.tensor([True, True, False, True])
        >>> A, f = random_directions(8, 16), random_frequencies(4)
        >>> conditional_cf_rows(h, h, c, observed, directions=A, frequencies=f).counted
        tensor([False, False,  True, False])
    """
    for name, rows in (("predicted", predicted), ("context", context)):
        _check_lengths(features, rows, name)
    select(features, observed)  # checks the type and the shape of presence
    having = observed if reference is None else observed & reference
    lacking = ~observed
    own = context if reference_context is None else reference_context
    with_it, without_it = rows_where(having, lacking)
    h, h_context = features[with_it], own[with_it]
    if detach_observed:
        h = h.detach()
    _check_features(h, predicted)
    how = _Matching(directions, frequencies, form, max_frequency, chunk)
    sides = _weights(h_context, context[without_it], bandwidth, distance, detach_weights)
    value = how.difference(h, predicted[without_it], *sides)
    size = effective_sample_size(sides[0].detach())
    return ConditionalCF(
        value.new_zeros(observed.shape).index_copy(0, without_it, value),
        lacking if len(h) else torch.zeros_like(lacking),
        size.new_zeros(observed.shape).index_copy(0, without_it, size),
    )


class _Matching(NamedTuple):
    """At which directions and frequencies two weighted samples are compared, and by which of the forms."""

    directions: Tensor | None
    frequencies: Tensor | None
    form: Form
    max_frequency: float
    chunk: int | None

    def difference(self, observed: Tensor, predicted: Tensor, w_observed: Tensor, w_predicted: Tensor) -> Tensor:
        """The loss of features (n, D) and (n', D) with weights (Q, n) and (Q, n'), of shape (Q,)."""
        if self.form not in get_args(Form):
            raise UnknownNameError("form", self.form, get_args(Form))
        dtype = _computed_type(observed, predicted)
        h, h_hat = observed.to(dtype), predicted.to(dtype)
        if 0 in (len(h), len(h_hat)):
            return connected_zero(h, h_hat).expand(len(w_predicted))
        weights = torch.cat([w_observed.to(dtype), -w_predicted.to(dtype)], 1)  # (Q, N)
        with torch.autocast(h.device.type, enabled=False):
            if self.form == "radial":
                features = torch.cat([h, h_hat])
                kernel = radial_kernel(_squared_differences(features), features.shape[1], self.max_frequency)
                return _quadratic(weights, kernel)
            directions, frequencies = self._projections(h)
            if self.form == "gram":
                return _quadratic(weights, _gram(torch.cat([h, h_hat]) @ directions, frequencies))
            if frequencies.requires_grad:
                raise ConfigurationError("this form has no gradient for frequencies", hint="Take form='gram'")
            return weighted_cf_difference(h @ directions, h_hat @ directions, weights, frequencies, self.chunk)

    def _projections(self, features: Tensor) -> tuple[Tensor, Tensor]:
        dim, a, f = features.shape[1], self.directions, self.frequencies
        if a is None or f is None:
            raise ConfigurationError(
                "directions and frequencies are needed",
                hint="Draw them with random_directions and random_frequencies, or take form='radial'",
            )
        if a.dim() != 2 or a.shape[0] != dim or a.shape[1] == 0:
            raise ShapeError("directions do not fit the features", expected=f"({dim}, P)", got=tuple(a.shape))
        if f.dim() != 1 or len(f) == 0:
            raise ShapeError("frequencies must be a vector that is not empty", expected="(F,)", got=tuple(f.shape))
        return a.to(features.dtype), f.to(features.dtype)


def _weights(
    observed_context: Tensor, predicted_context: Tensor, bandwidth: Bandwidth, distance: Distance, detach: bool
) -> tuple[Tensor, Tensor]:
    if detach:
        observed_context, predicted_context = observed_context.detach(), predicted_context.detach()
    return neighbour_weights(observed_context, predicted_context, bandwidth, distance=distance)


def _gram(projected: Tensor, frequencies: Tensor) -> Tensor:
    """Mean over directions and frequencies of cos(τ (u_a - u_b)), (N, N), for projections (N, P)."""
    angles = (projected[:, :, None] * frequencies).flatten(1)  # (N, P F)
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    return waves @ waves.mT / angles.shape[1]


def _quadratic(weights: Tensor, gram: Tensor) -> Tensor:
    return ((weights @ gram) * weights).sum(1)


def _squared_differences(features: Tensor) -> Tensor:
    """Squared distances within one set, differentiable also where they are zero."""
    centred = features - features.detach().mean(0)
    lengths = centred.square().sum(1)
    return (lengths[:, None] + lengths - 2 * centred @ centred.mT).clamp_min(0)


def _computed_type(*features: Tensor) -> torch.dtype:
    dtype = torch.float32
    for each in features:
        dtype = torch.promote_types(dtype, each.dtype)
    return dtype


def _check_features(observed: Tensor, predicted: Tensor) -> None:
    if observed.dim() != 2 or predicted.dim() != 2 or observed.shape[1] != predicted.shape[1]:
        raise ShapeError(
            "observed and predicted features do not fit each other",
            expected="(n, D) and (n', D)",
            got=f"{tuple(observed.shape)} and {tuple(predicted.shape)}",
        )


def _check_lengths(features: Tensor, other: Tensor, name: str) -> None:
    if other.dim() != 2 or len(features) != len(other):
        raise ShapeError(
            f"{name} rows do not fit the features",
            expected=f"a matrix of {len(features)} rows",
            got=tuple(other.shape),
        )
