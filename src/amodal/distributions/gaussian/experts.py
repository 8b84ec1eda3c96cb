"""Products and mixtures of Gaussian experts on one latent, some of them absent."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from amodal.distributions.gaussian.diagonal import DiagonalGaussian
from amodal.errors import ShapeError

__all__ = ["laplace_noise", "log_laplace_nats", "log_normal_nats", "log_uniform_mixture_nats", "product_of_experts"]


def product_of_experts(experts: DiagonalGaussian, observed: Tensor) -> DiagonalGaussian:
    r"""Product of Gaussian experts and a standard normal prior.

    .. math::
        \sigma^{-2} = 1 + \sum_m r_m \sigma_m^{-2}, \qquad \mu = \sigma^2 \sum_m r_m \sigma_m^{-2} \mu_m

    Args:
        experts: Means and log variances, of shape (B, M, Z). What stands where nothing is observed does not matter.
        observed: Presence :math:`r`, bool, of shape (B, M).

    Returns:
        Of shape (B, Z); the prior for rows without any expert.

    Raises:
        ShapeError: If experts and presence disagree in B or M.

    Source:
        :cite:`wu2018mvae`, section 2.2.

    Example:
        >>> one = DiagonalGaussian(torch.tensor([[[2.0]]]), torch.zeros(1, 1, 1))
        >>> mean, log_var = product_of_experts(one, torch.tensor([[True]]))
        >>> mean.item(), log_var.exp().item()
        (1.0, 0.5)
    """
    _check(experts, observed)
    seen = observed[..., None]
    log_precision = torch.where(seen, -experts.log_var, -math.inf)  # (B, M, Z)
    log_var = -torch.logaddexp(log_precision.logsumexp(1), torch.zeros_like(experts.log_var[:, 0]))
    share = torch.where(seen, (log_var[:, None] - torch.where(seen, experts.log_var, 0.0)).exp(), 0.0)
    return DiagonalGaussian((share * torch.where(seen, experts.mean, 0.0)).sum(1), log_var)


def log_normal_nats(z: Tensor, gaussian: DiagonalGaussian) -> Tensor:
    """Log density of Gaussians (…, Z) at places that broadcast against them, summed over the last axis."""
    away = (z - gaussian.mean).square() * (-gaussian.log_var).exp()
    return -0.5 * (away + gaussian.log_var + math.log(2 * math.pi)).sum(-1)


def log_laplace_nats(z: Tensor, law: DiagonalGaussian) -> Tensor:
    r"""Log density of Laplace distributions of given means and log variances; otherwise as `log_normal_nats`.

    .. math:: - \log \sqrt{2} \sigma - \sqrt{2} \, |z - \mu| / \sigma

    Example:
        >>> log_laplace_nats(torch.zeros(1, 1), DiagonalGaussian(torch.zeros(1, 1), torch.zeros(1, 1))).exp()  # 1 / √2
        tensor([0.7071])
    """
    away = math.sqrt(2.0) * (z - law.mean).abs() * (-0.5 * law.log_var).exp()
    return -(away + 0.5 * law.log_var + 0.5 * math.log(2.0)).sum(-1)


def laplace_noise(uniform: Tensor) -> Tensor:
    """Draws of the Laplace distribution of mean zero and variance one, from draws of the uniform one on [0, 1).

    Example:
        >>> laplace_noise(torch.tensor([0.25, 0.75]))  # quartiles: ∓ log 2 / √2
        tensor([-0.4901,  0.4901])
    """
    centred = uniform - 0.5
    smallest = 0.5 * torch.finfo(uniform.dtype).eps  # of 1 - 2 |u|, which is 0 where a draw is
    return -centred.sign() * (1.0 - 2.0 * centred.abs()).clamp(min=smallest).log() / math.sqrt(2.0)


def log_uniform_mixture_nats(
    z: Tensor,
    experts: DiagonalGaussian,
    observed: Tensor,
    log_density: Callable[[Tensor, DiagonalGaussian], Tensor] = log_normal_nats,
) -> Tensor:
    r"""Log density of the uniform mixture of the observed experts.

    .. math:: \log \frac{1}{|O|} \sum_{m \in O} N(z; \mu_m, \sigma_m^2)

    Args:
        z: Places, of shape (K, B, Z).
        experts: Means and log variances, of shape (B, M, Z).
        observed: Presence, bool, of shape (B, M), at least one in each row.
        log_density: That of one expert: `log_normal_nats` or `log_laplace_nats`.

    Returns:
        Nats, of shape (K, B).

    Raises:
        ShapeError: If experts and presence disagree in B or M.

    Source:
        :cite:`shi2019mmvae`, section 3.

    Example:
        >>> two = DiagonalGaussian(torch.tensor([[[0.0], [9.0]]]), torch.zeros(1, 2, 1))
        >>> log_uniform_mixture_nats(torch.zeros(1, 1, 1), two, torch.tensor([[True, False]]))  # one of them alone
        tensor([[-0.9189]])
    """
    _check(experts, observed)
    each = log_density(z[:, :, None], experts)  # (K, B, M)
    each = torch.where(observed, each, -math.inf)
    return each.logsumexp(-1) - observed.sum(1).to(each.dtype).log()


def _check(experts: DiagonalGaussian, observed: Tensor) -> None:
    if experts.mean.ndim != 3 or experts.mean.shape != experts.log_var.shape:
        raise ShapeError("experts must be (B, M, Z)", got=f"{experts.mean.shape} and {experts.log_var.shape}")
    if observed.dtype != torch.bool or observed.shape != experts.mean.shape[:2]:
        raise ShapeError("presence does not fit the experts", expected=f"bool {tuple(experts.mean.shape[:2])}",
                         got=f"{observed.dtype} {tuple(observed.shape)}")  # fmt: skip
