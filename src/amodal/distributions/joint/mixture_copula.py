r"""Vectors with Gaussian-mixture laws, joined by a copula: three proper joint densities.

The joint distribution function of a vector is no argument of a copula (it is not uniform), and
:math:`\prod_m f_m(z_m)\, c(F_1(z_1), …, F_M(z_M))` does not integrate to one. Any *scalar* statistic with a known law
will do:

* :func:`kendall_log_density`: the Kendall transform of the joint distribution function, nearest to :cite:`wu2025cm2`;
* :func:`coordinatewise_log_density`: each coordinate with a copula of its own across modalities;
* :func:`projection_log_density`: one learned projection of each modality.

All keep the margins :math:`f_m` exactly, and leave out the modalities that a row lacks. Tensors have the modalities
first, (M, B, D), as a mixture with ``batch_shape=(M,)`` takes them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from amodal.distributions.copula.abstract import Copula
from amodal.distributions.copula.elliptical_families import GaussianCopula
from amodal.distributions.copula.points import full_precision, without_autocast
from amodal.distributions.mixture.gaussian_mixture import GaussianMixture
from amodal.distributions.mixture.kendall_transform import kendall_logs, kendall_score_slope
from amodal.distributions.mixture.margins import component_gradients, component_sums, mixture_margins
from amodal.errors import ShapeError

__all__ = [
    "component_tuples",
    "coordinatewise_log_density",
    "kendall_log_density",
    "projection_log_density",
    "tuple_log_terms",
]


def _prepare(mixture: GaussianMixture, copula: Copula, z: Tensor, observed: Tensor | None) -> Tensor:
    """Check the shapes, and blank what is absent."""
    expected = (copula.dim, mixture.dim)
    if z.ndim != 3 or (z.shape[0], z.shape[2]) != expected or tuple(mixture.batch_shape) != (copula.dim,):
        raise ShapeError(
            "modalities, copula and mixtures do not fit",
            expected=f"z of shape ({expected[0]}, B, {expected[1]}), a mixture with batch_shape ({expected[0]},)",
            got=f"{tuple(z.shape)} and batch_shape {tuple(mixture.batch_shape)}",
        )
    if observed is None:
        return z
    if observed.dtype != torch.bool or observed.shape != z.shape[:2]:
        raise ShapeError(
            "observed must say for each modality which rows have it",
            expected=f"bool of shape {tuple(z.shape[:2])}",
            got=f"{observed.dtype} of shape {tuple(observed.shape)}",
        )
    return torch.where(observed.unsqueeze(-1), z, 0.0)


@lru_cache(maxsize=32)
def component_tuples(modalities: int, components: int) -> Tensor:
    """Each modality's component in each tuple of components: shape (M, K^M)."""
    return torch.cartesian_prod(*[torch.arange(components)] * modalities).reshape(-1, modalities).T


@lru_cache(maxsize=32)
def _tuples(modalities: int, components: int) -> Tensor:
    """For each modality and each tuple of components, the row of (modality, component): shape (M K^M,)."""
    offsets = components * torch.arange(modalities).unsqueeze(1)
    return (component_tuples(modalities, components) + offsets).reshape(-1)


def kendall_log_density(mixture: GaussianMixture, copula: Copula, z: Tensor, observed: Tensor | None = None) -> Tensor:
    r"""Modalities joined by one copula of their Kendall transforms.

    .. math::
        \log p(z) = \log\sum_{k_1 … k_M} \Bigl[\prod_m \pi_{m k_m} N_{m k_m}(z_m)\Bigr] c(u_{1 k_1}, …, u_{M k_M}),
        \qquad u_{mk} = P\Bigl(\mathrm{Gamma}(D, 1) > -\sum_j \log\Phi(t_{mkj})\Bigr)

    Args:
        mixture: Diagonal mixtures with ``batch_shape`` (M,).
        copula: Of M margins, without a batch shape.
        z: Points, shape (M, B, D).
        observed: Presence, bool (M, B); entries of absent modalities may hold anything.

    Returns:
        Shape (B,): the log density of what each row observes.

    Raises:
        ShapeError: If the three do not fit each other.
    """
    z = _prepare(mixture, copula, z, observed)
    index = _tuples(z.shape[0], mixture.components).to(z.device)
    if observed is None and torch.is_grad_enabled() and not mixture.rank:
        fast = _fast_kendall(mixture, copula, z, index)
        if fast is not None:
            return fast
    return torch.logsumexp(tuple_log_terms(mixture, copula, z, observed)[0], 0)


def tuple_log_terms(
    mixture: GaussianMixture, copula: Copula, z: Tensor, observed: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    r"""The logarithm of each term of the sum in :func:`kendall_log_density`; their softmax is the tuples' posterior.

    Args:
        mixture: Diagonal mixtures with ``batch_shape`` (M,).
        copula: Of M margins, without a batch shape.
        z: Points, shape (M, B, D), finite where absent too.
        observed: Presence, bool (M, B). An absent modality enters by the weight of its component alone.

    Returns:
        The terms, of shape (K^M, B), in the order of :func:`component_tuples`; and :math:`\log u_{mk}` and
        :math:`\log(1 - u_{mk})`, each of shape (M, B, K).
    """
    modalities, rows = z.shape[:2]
    index = _tuples(modalities, mixture.components).to(z.device)
    density, *logs = mixture.kendall_logs(z)  # (M, B, K)
    if observed is not None:
        density = torch.where(observed.unsqueeze(-1), density, 0.0)
    density = density + mixture.log_weights.unsqueeze(-2)
    parts = torch.stack([density, *logs]).mT.reshape(3, -1, rows)  # (3, M K, B)
    density, lower, upper = parts.index_select(1, index).reshape(3, modalities, -1, rows).unbind(0)  # (M, K^M, B)
    log_c = copula.log_density_margins_first(lower, upper, None if observed is None else observed.unsqueeze(1))
    return density.sum(0) + log_c, (logs[0], logs[1])


def _fast_kendall(mixture: GaussianMixture, copula: Copula, z: Tensor, index: Tensor) -> Tensor | None:
    """The whole density as one node, where the copula has a kernel: its tensors are too small to pay for a graph."""
    with without_autocast(z):
        z = full_precision(z)
        inputs = z, mixture.log_weights, mixture.means, mixture.scales
        on_scores = isinstance(copula, GaussianCopula)  # which takes the Kendall scores as they are
        with torch.no_grad():
            density, log_cdf, *saved = component_sums(z, inputs[2].unsqueeze(1), inputs[3].unsqueeze(1))
            dim = z.shape[-1]
            margins, slopes = (
                ((x,) for x in kendall_score_slope(log_cdf, dim)) if on_scores else kendall_logs(log_cdf, dim)
            )
            parts = torch.stack([density + inputs[1].unsqueeze(1), *margins]).mT.reshape(
                1 + len(margins), -1, z.shape[1]
            )
            density, *margins = parts.index_select(1, index).reshape(len(parts), len(z), -1, z.shape[1]).unbind(0)
        found = copula.score_kernel(margins[0]) if on_scores else copula.kernel(margins[0], margins[1])
        if found is None:
            return None
        state = density.sum(0), margins, index, (*saved, *slopes)
        return cast(Tensor, _KendallJoint.apply(state, found[1], *inputs, *found[2]))


class _KendallJoint(torch.autograd.Function):
    """Everything up to the tuples of components is computed before, to know whether the kernel can be used."""

    @staticmethod
    def forward(ctx, state, kernel, z, log_weights, means, scales, *parameters):  # type: ignore[override]
        density, margins, index, saved = state
        log_c, slopes = kernel(*margins, *parameters)
        joint = density.add_(log_c)  # (K^M, B)
        total = torch.logsumexp(joint, 0)
        ctx.shapes = z.shape, means.unsqueeze(1).shape, scales.unsqueeze(1).shape
        ctx.parameters, ctx.given = [p.shape for p in parameters], [s is not None for s in slopes]
        ctx.margins = len(margins)
        ctx.save_for_backward(*saved, index, joint.sub_(total).exp_(), *(s for s in slopes if s is not None))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        of_margins, rest = ctx.saved_tensors[3 : 3 + ctx.margins], ctx.saved_tensors[3 + ctx.margins :]
        index, shares, *present = rest
        given = iter(present)
        slopes = [next(given) if there else None for there in ctx.given]
        modalities, rows = ctx.shapes[0][:2]
        weight = shares * grad  # (K^M, B)
        used = [(m, s) for m, s in zip(of_margins, slopes, strict=False) if s is not None]
        source = torch.cat([weight.expand(modalities, -1, -1), *(weight * s for _, s in used)], -1).flatten(0, 1)
        sums = source.new_zeros(modalities * ctx.shapes[1][-2], source.shape[1]).index_add_(0, index, source)
        in_density, *in_margins = (
            sums.reshape(modalities, -1, 1 + len(used), rows).movedim(-1, 1).unbind(-1)
        )  # (M, B, K)
        in_log_cdf = torch.zeros_like(in_density)
        for (of_margin, _), in_margin in zip(used, in_margins, strict=True):
            in_log_cdf.addcmul_(of_margin, in_margin)
        in_z, in_mean, in_scale = component_gradients(ctx.saved_tensors[:3], in_density, in_log_cdf, ctx.shapes)
        pairs = zip(slopes[ctx.margins :], ctx.parameters, strict=True)
        in_parameters = [None if s is None else (weight * s).sum_to_size(shape) for s, shape in pairs]
        return None, None, in_z, in_density.sum(1), in_mean.squeeze(1), in_scale.squeeze(1), *in_parameters


def coordinatewise_log_density(
    mixture: GaussianMixture, copula: Copula, z: Tensor, observed: Tensor | None = None
) -> Tensor:
    r"""Modalities joined coordinate by coordinate.

    .. math::
        \log p(z) = \sum_j \Bigl[\sum_m \log f_{mj}(z_{mj}) + \log c\bigl(F_{1j}(z_{1j}), …, F_{Mj}(z_{Mj})\bigr)\Bigr]

    with univariate mixtures :math:`f_{mj}` that share their weights over j.

    Args:
        mixture: Mixtures with ``batch_shape`` (M,).
        copula: Of M margins; its parameters may have the shape (D,), one for each coordinate.
        z: Points, shape (M, B, D).
        observed: Presence, bool (M, B); entries of absent modalities may hold anything.

    Returns:
        Shape (B,).

    Raises:
        ShapeError: If the three do not fit each other.
    """
    z = _prepare(mixture, copula, z, observed)
    log_f, lower, upper = mixture.marginal_logs(z)  # (M, B, D)
    seen = None
    if observed is not None:
        log_f = torch.where(observed.unsqueeze(-1), log_f, 0.0)
        seen = observed.unsqueeze(-1)
    log_c = copula.log_density_margins_first(lower, upper, seen)
    return (log_f.sum(0) + log_c).sum(-1)


def projection_log_density(
    mixture: GaussianMixture,
    copula: Copula,
    direction: Tensor,
    z: Tensor,
    observed: Tensor | None = None,
) -> Tensor:
    r"""Modalities joined by the laws of one projection of each.

    .. math::
        \log p(z) = \sum_m \log f_m(z_m) + \log c\bigl(G_1(w_1^\top z_1), …, G_M(w_M^\top z_M)\bigr)

    Args:
        mixture: Mixtures with ``batch_shape`` (M,), of any rank.
        copula: Of M margins, without a batch shape.
        direction: w, shape (M, D); its length does not matter.
        z: Points, shape (M, B, D).
        observed: Presence, bool (M, B); entries of absent modalities may hold anything.

    Returns:
        Shape (B,).

    Raises:
        ShapeError: If they do not fit each other.
    """
    z = _prepare(mixture, copula, z, observed)
    log_f = mixture.log_density(z)  # (M, B)
    weights, means, scales = (x.unsqueeze(1) for x in mixture.projected(direction))
    _, lower, upper = mixture_margins((z * direction.unsqueeze(1)).sum(-1, keepdim=True), weights, means, scales)
    if observed is not None:
        log_f = torch.where(observed, log_f, 0.0)
    log_c = copula.log_density_margins_first(lower.squeeze(-1), upper.squeeze(-1), observed)
    return log_f.sum(0) + log_c
