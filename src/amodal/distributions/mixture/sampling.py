r"""Gradients through draws from a Gaussian mixture.

The choice of a component is discrete, so the usual reparameterisation has no gradient to the weights, and averaging one
draw of each component (as the released CM2 code does) is no draw from the mixture at all. Two ways that are:

*Implicit.* The conditional distribution functions :math:`S_j(z_j \mid z_{<j})` map a draw smoothly to independent
uniforms, whatever component it came from. Holding the uniforms fixed,

.. math::
    \frac{dz}{d\theta} = -\Bigl(\frac{\partial S}{\partial z}\Bigr)^{-1} \frac{\partial S}{\partial\theta},

a triangular system, whose right side autograd gives. Unbiased, for means, scales, factors and weights alike; its
variance grows as components draw apart, since a draw must then be carried across an almost empty gap.

*Relaxed.* A straight-through Gumbel-softmax choice: the value of a hard choice, the gradient of a soft one. Biased.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.distributions.normal import LOG_ROOT_TWO_PI, normal_log_tails

__all__ = ["attach_implicitly", "choose_relaxed"]


def choose_relaxed(perturbed: Tensor, temperature: float) -> Tensor:
    """One-hot choice of the largest, with the gradient of a softmax.

    Args:
        perturbed: Log weights plus Gumbel noise, shape (…, K).
        temperature: Of the softmax.

    Returns:
        Shape (…, K), exactly one-hot in value.
    """
    hard = torch.nn.functional.one_hot(perturbed.argmax(-1), perturbed.shape[-1]).to(perturbed.dtype)
    if not (torch.is_grad_enabled() and perturbed.requires_grad):
        return hard
    soft = torch.softmax(perturbed / temperature, -1)
    return hard + (soft - soft.detach())


def attach_implicitly(z: Tensor, log_weights: Tensor, means: Tensor, scales: Tensor, factors: Tensor | None) -> Tensor:
    """The same draws, with implicit gradients to the parameters of the mixture they came from.

    Args:
        z: Draws without a graph, shape (…, n, D).
        log_weights: Shape (…, K).
        means: Shape (…, K, D).
        scales: Shape (…, K, D).
        factors: Shape (…, K, D, R), or None.

    Returns:
        Shape (…, n, D).
    """
    z = z.detach()
    parts = (log_weights, means, scales) if factors is None else (log_weights, means, scales, factors)
    if not any(p.requires_grad for p in parts):
        return z
    whitening = None if factors is None else _whitening(scales, factors)
    value, weights, tails, y = _conditional_cdf(z, log_weights, means, scales, whitening)
    with torch.no_grad():
        jacobian = _jacobian(weights, tails, y, scales, whitening)
    change = (value - value.detach()).unsqueeze(-1)  # zero, but for its graph
    return z - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)


def _whitening(scales: Tensor, factors: Tensor) -> Tensor:
    """Inverse Cholesky factors of the covariances, shape (…, 1, K, D, D)."""
    covariance = torch.diag_embed(scales**2) + factors @ factors.mT
    unit = torch.eye(scales.shape[-1], dtype=scales.dtype, device=scales.device)
    cholesky = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(cholesky, unit.expand_as(cholesky), upper=False).unsqueeze(-4)


def _conditional_cdf(
    z: Tensor, log_weights: Tensor, means: Tensor, scales: Tensor, whitening: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""S, the component weights given the earlier coordinates, :math:`\Phi(y)` and the residuals y."""
    difference = z.unsqueeze(-2) - means.unsqueeze(-3)  # (…, n, K, D)
    if whitening is None:
        y = difference / scales.unsqueeze(-3)
        log_step = -torch.log(scales).unsqueeze(-3)
    else:
        y = (whitening @ difference.unsqueeze(-1)).squeeze(-1)
        log_step = torch.log(whitening.diagonal(dim1=-2, dim2=-1))
    log_density = log_step - 0.5 * y * y - LOG_ROOT_TWO_PI
    earlier = log_density.cumsum(-1) - log_density  # of the coordinates before each
    weights = torch.softmax(log_weights.unsqueeze(-2).unsqueeze(-1) + earlier, -2)
    tails = torch.exp(normal_log_tails(y)[0])
    return (weights * tails).sum(-2), weights, tails, y


def _jacobian(weights: Tensor, tails: Tensor, y: Tensor, scales: Tensor, whitening: Tensor | None) -> Tensor:
    r""":math:`\partial S_j / \partial z_i`, lower triangular, shape (…, n, D, D)."""
    density = torch.exp(-0.5 * y * y - LOG_ROOT_TWO_PI)
    spread = weights * (tails - (weights * tails).sum(-2, keepdim=True))  # how S_j moves with the weights
    if whitening is None:
        slope = -y / scales.unsqueeze(-3)  # of the log density of coordinate i in component k
        lower = torch.einsum("...kj,...ki->...ji", spread, slope).tril(-1)
        return lower + torch.diag_embed((weights * density / scales.unsqueeze(-3)).sum(-2))
    each = -(y.unsqueeze(-1) * whitening)  # (…, n, K, D, D): of the log density of coordinate j in z_i
    earlier = each.cumsum(-2) - each
    through_weights = torch.einsum("...kj,...kji->...ji", spread, earlier)
    return (through_weights + torch.einsum("...kj,...kji->...ji", weights * density, whitening)).tril()
