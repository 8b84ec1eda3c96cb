r"""Gaussians with diagonal covariance and their mixtures: divergences without sampling, draws by reparameterisation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = [
    "DiagonalGaussian",
    "DiagonalMixture",
    "kl_from_standard_nats",
    "kl_nats",
    "kl_of_mixtures_nats",
    "kl_to_mixture_nats",
]


class DiagonalGaussian(NamedTuple):
    """Means and log variances of independent coordinates, both of shape (…, Z)."""

    mean: Tensor
    log_var: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        r""":math:`\mu + \sigma \varepsilon` for standard normal noise that broadcasts against (…, Z)."""
        return self.mean + (0.5 * self.log_var).exp() * noise


class DiagonalMixture(NamedTuple):
    """Log weights of shape (…, K) that exponentiate to one in sum, and K Gaussians: means, log variances (…, K, Z)."""

    log_weights: Tensor
    mean: Tensor
    log_var: Tensor

    @property
    def components(self) -> DiagonalGaussian:
        """The Gaussians, of shape (…, K, Z)."""
        return DiagonalGaussian(self.mean, self.log_var)

    def rows(self, rows: slice) -> DiagonalMixture:
        """Those of some entries along the first axis."""
        return DiagonalMixture(*(part[rows] for part in self))

    def detached(self) -> DiagonalMixture:
        """The same, without a gradient."""
        return DiagonalMixture(*(part.detach() for part in self))

    def draw(self, uniform: Tensor, noise: Tensor) -> Tensor:
        """Draws: a uniform number chooses the component, normal noise the place in it.

        Args:
            uniform: In [0, 1), of shape (S, …) that broadcasts against (S, …) with the mixture's leading axes.
            noise: Standard normal, of a shape that broadcasts against (S, …, Z).

        Returns:
            Of shape (S, …, Z); differentiable in the component's mean and variance, not in the weights.

        Example:
            >>> import torch
            >>> two = DiagonalMixture(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[[-1.0], [1.0]]]),
            ...     torch.zeros(1, 2, 1))
            >>> two.draw(torch.tensor([[0.2], [0.3]]), torch.zeros(2, 1, 1)).flatten()
            tensor([-1.,  1.])
        """
        return self.draw_weighted(uniform, noise)[0]

    def draw_weighted(self, uniform: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """As `draw`, with the log weights (S, …) of the components chosen, which are differentiable."""
        leading = self.log_weights.shape[:-1]
        edges = self.log_weights.detach().exp().cumsum(-1)[..., :-1]
        chosen = (uniform[..., None] >= edges).sum(-1)[..., None]  # (S, …, 1)
        index = chosen[..., None].expand(*chosen.shape, self.mean.shape[-1])
        draws = chosen.shape[: chosen.ndim - 1 - len(leading)]
        mean, log_var = (part.expand(*draws, *part.shape).gather(-2, index).squeeze(-2) for part in self[1:])
        log_weight = self.log_weights.expand(*draws, *self.log_weights.shape).gather(-1, chosen).squeeze(-1)
        return DiagonalGaussian(mean, log_var).draw(noise), log_weight


def kl_nats(one: DiagonalGaussian, other: DiagonalGaussian) -> Tensor:
    r"""Divergence of one Gaussian from another, summed over the last axis.

    .. math::
        \mathrm{KL}(N(\mu_1, \sigma_1^2) \,\|\, N(\mu_2, \sigma_2^2)) = \tfrac12 \sum_i \Big[ \log \sigma_{2i}^2
        - \log \sigma_{1i}^2 + \frac{\sigma_{1i}^2 + (\mu_{1i} - \mu_{2i})^2}{\sigma_{2i}^2} - 1 \Big]

    Args:
        one: The Gaussian that the expectation is over, of shape (…, Z).
        other: The Gaussian it is compared with, of a shape that broadcasts.

    Returns:
        Nats, of shape (…).

    Example:
        >>> import torch
        >>> unit = DiagonalGaussian(torch.zeros(2), torch.zeros(2))
        >>> kl_nats(DiagonalGaussian(torch.tensor([1.0, 2.0]), torch.zeros(2)), unit)
        tensor(2.5000)
    """
    ratio = (one.log_var - other.log_var).exp() + (one.mean - other.mean).square() * (-other.log_var).exp()
    return 0.5 * (other.log_var - one.log_var + ratio - 1.0).sum(-1)


def kl_from_standard_nats(mixture: DiagonalMixture) -> Tensor:
    """Upper bound on the divergence of a mixture from N(0, I): the mean of its components' (exact for one component).

    Args:
        mixture: With leading axes (…).

    Returns:
        Nats, of shape (…).
    """
    one = mixture.components
    each = 0.5 * (one.log_var.exp() + one.mean.square() - one.log_var - 1.0).sum(-1)  # (…, K)
    return (mixture.log_weights.exp() * each).sum(-1)


def kl_to_mixture_nats(one: DiagonalGaussian, mixture: DiagonalMixture) -> Tensor:
    r"""Upper bound on the divergence of a Gaussian from a mixture, exact for one component.

    .. math:: \mathrm{KL}(q \,\|\, \sum_j w_j p_j) \le -\log \sum_j w_j \exp(-\mathrm{KL}(q \,\|\, p_j))

    Args:
        one: Of shape (…, Z).
        mixture: With leading axes (…).

    Returns:
        Nats, of shape (…).

    Source:
        :cite:`hershey2007approximating`, section 7, whose variational bound this is for one Gaussian.

    Example:
        >>> import torch
        >>> two = DiagonalMixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([[-9.0], [9.0]]), torch.zeros(2, 1))
        >>> kl_to_mixture_nats(DiagonalGaussian(torch.tensor([9.0]), torch.zeros(1)), two)  # log 2
        tensor(0.6931)
    """
    each = kl_nats(DiagonalGaussian(one.mean[..., None, :], one.log_var[..., None, :]), mixture.components)
    return -(mixture.log_weights - each).logsumexp(-1)


def kl_of_mixtures_nats(one: DiagonalMixture, other: DiagonalMixture) -> Tensor:
    r"""Variational approximation of the divergence of one mixture from another, exact for one component each.

    .. math::
        \sum_i \pi_i \log \frac{\sum_k \pi_k \exp(-\mathrm{KL}(p_i \,\|\, p_k))}
        {\sum_j w_j \exp(-\mathrm{KL}(p_i \,\|\, p'_j))}

    It is zero for equal mixtures, and as a function of the second mixture it differs from an upper bound of the
    divergence by a constant.

    Args:
        one: The mixture that the expectation is over, with leading axes (…).
        other: The mixture it is compared with.

    Returns:
        Nats, of shape (…).

    Source:
        :cite:`hershey2007approximating`, equation 20.
    """
    against = kl_to_mixture_nats(one.components, _beside(other))  # (…, K)
    within = kl_to_mixture_nats(one.components, _beside(one))
    return (one.log_weights.exp() * (against - within)).sum(-1)


def _beside(mixture: DiagonalMixture) -> DiagonalMixture:
    """With an axis of one in front of the components, to be compared with every component of another mixture."""
    log_weights, mean, log_var = mixture
    return DiagonalMixture(log_weights[..., None, :], mean[..., None, :, :], log_var[..., None, :, :])
