r"""The joint law of the vectors of several modalities: mixtures for the margins, a copula for what joins them.

The joint distribution function of a vector is no argument of a copula (it is not uniform), and
:math:`\prod_m f_m(z_m)\, c(F_1(z_1), …, F_M(z_M))` does not integrate to one. Any *scalar* statistic with a known law
will do; each variant in ``variants`` and ``common`` says which it takes. All keep the margins :math:`f_m` exactly, and
leave out the modalities that a row lacks. Tensors have the modalities first, (M, B, D).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from amodal.distributions.copula import Archimedean, Copula, Elliptical, GaussianCopula, copula_family
from amodal.distributions.copula.points import full_precision, open_uniform, without_autocast
from amodal.distributions.joint.normal_completion import NormalCompletion, normal_completion
from amodal.distributions.mixture.fit import expectation_maximisation
from amodal.distributions.mixture.gaussian_mixture import GaussianMixture
from amodal.distributions.mixture.running import RunningFit
from amodal.distributions.normal import normal_log_tails, normal_score
from amodal.distributions.quasirandom import spread_uniform
from amodal.errors import ConfigurationError, ShapeError

__all__ = ["CompletionNoise", "JointLaw", "choose_relaxed", "of_choice"]

_TEMPERATURE = 0.5  # of the relaxed choice of a component


@dataclass(frozen=True)
class CompletionNoise:
    """The randomness of S completions of R rows (R = 1: the same for every row), the modalities first.

    Attributes:
        uniform: Ranks for the copula, inside (0, 1), of shape (M, S, R, D), or (M, S, R, 1) where it joins scalars.
        gumbel: Which component an absent modality comes from, of shape (M, S, R, K).
        normal: Where in that component, of shape (M, S, R, D).
        pick: Which components the observed ones came from, inside (0, 1), of shape (S, R).
        order: In which order the modalities are drawn, each given those before.
        kept: How many of the first in that order are the same in all draws.
    """

    uniform: Tensor
    gumbel: Tensor
    normal: Tensor
    pick: Tensor
    order: tuple[int, ...]
    kept: int = 0

    def keeping(self, kept: Sequence[int]) -> CompletionNoise:
        """The same, with the first draw's noise for some modalities, which are drawn before all others."""
        if not kept:
            return self
        parts = {}
        for name in ("uniform", "gumbel", "normal"):
            part = getattr(self, name).clone()
            part[list(kept)] = part[list(kept), :1]
            parts[name] = part
        order = (*kept, *(m for m in range(len(self.uniform)) if m not in kept))
        return CompletionNoise(**parts, pick=self.pick[:1].expand_as(self.pick), order=order, kept=len(kept))

    def of_rows(self, rows: Tensor) -> CompletionNoise:
        """The noise of some rows, by index; noise that all rows share stays as it is."""
        if self.pick.shape[1] == 1:
            return self
        parts = (part.index_select(2, rows) for part in (self.uniform, self.gumbel, self.normal))
        return CompletionNoise(*parts, pick=self.pick[:, rows], order=self.order, kept=self.kept)


class JointLaw(nn.Module, ABC):
    """Joint law of M vectors of D coordinates.

    Args:
        modalities: Number of modalities M, at least 1; with one there is nothing to join.
        dim: Number of coordinates D.
        components: Components K of each modality's mixture.
        family: A copula family by name; "independence" joins nothing.
        tau: Kendall's tau to start from; not at a boundary, where gradients vanish.
        shared: Where each coordinate has a copula, whether all have the same.
        scale_floor: Least standard deviation of a component.
        learnable_margins: Whether the mixtures learn by gradients; otherwise by `refit`, and the copula alone does.

    Raises:
        UnknownNameError: If the family is not known; says which is nearest.
        ConfigurationError: If a number is out of range.

    Attributes:
        conditional: Whether completions can be drawn given what is observed.
        joins_scalars: Whether one copula joins a scalar of each modality; else each coordinate has one.
        one_component: Whether all modalities of a case come from the same component.
    """

    conditional: ClassVar[bool] = True
    joins_scalars: ClassVar[bool] = True
    one_component: ClassVar[bool] = False

    def __init__(
        self,
        modalities: int,
        dim: int,
        *,
        components: int = 3,
        family: str = "gaussian",
        tau: float = 0.1,
        shared: bool = False,
        scale_floor: float = 0.05,
        learnable_margins: bool = True,
    ):
        super().__init__()
        if modalities < 1:
            raise ConfigurationError("a joint law has too few modalities", expected="1 or more", got=modalities)
        self.modalities, self.dim, self.shared = modalities, dim, shared
        kind = copula_family(family)
        settings = {"batch_shape": (modalities,), "scale_floor": scale_floor, "learnable": learnable_margins}
        self.mixture = GaussianMixture(components, dim, **settings)
        self.running = None if learnable_margins else RunningFit(self.mixture)
        self.copula: Copula | None = None
        if modalities > 1 and family.lower() != "independence":
            shape = () if self.joins_scalars or shared else (dim,)
            self.copula = kind.from_kendall_tau(torch.full(shape, float(tau)), modalities, learnable=True)

    # Densities ---------------------------------------------------------------------------------------------------

    def log_density(self, z: Tensor, observed: Tensor) -> Tensor:
        """Log density of what each row observes.

        Args:
            z: Vectors, of shape (M, B, D); anything where absent.
            observed: Presence, bool, of shape (M, B).

        Returns:
            Of shape (B,), in nats; 0 for a row with nothing observed.

        Raises:
            ShapeError: If the two do not fit the law.
        """
        with without_autocast(z):
            margins, joined = self._parts(self._blanked(z, observed), observed)
            return torch.where(observed, margins, 0.0).sum(0) + joined

    def dependence(self, z: Tensor, observed: Tensor) -> Tensor:
        r"""The part of the log density that joins the modalities, :math:`\log p(z_O) - \sum_{m \in O} \log f_m(z_m)`.

        Its mean under the law is the mutual information of the modalities (total correlation where there are more than
        two); 0 where fewer than two are observed.

        Args:
            z: Vectors, of shape (M, B, D).
            observed: Presence, bool, of shape (M, B).

        Returns:
            Of shape (B,), in nats.
        """
        if self.copula is None and not self.one_component:
            return z.new_zeros(z.shape[1])
        with without_autocast(z):
            return self._parts(self._blanked(z, observed), observed)[1]

    def forward(self, z: Tensor, observed: Tensor) -> Tensor:
        """The same as :meth:`dependence`."""
        return self.dependence(z, observed)

    @abstractmethod
    def _parts(self, z: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities of the modalities alone, (M, B), and the dependence of those observed, (B,)."""

    def _blanked(self, z: Tensor, observed: Tensor) -> Tensor:
        """Vectors in full precision, zero where absent."""
        expected = (self.modalities, *z.shape[1:-1], self.dim)
        if z.ndim != 3 or z.shape != expected or observed.dtype != torch.bool or observed.shape != z.shape[:2]:
            raise ShapeError(
                "vectors and presence do not fit the joint law",
                expected=f"({self.modalities}, B, {self.dim}) and bool ({self.modalities}, B)",
                got=f"{tuple(z.shape)} and {observed.dtype} {tuple(observed.shape)}",
            )
        return torch.where(observed.unsqueeze(-1), full_precision(z), 0.0)

    # Completions -------------------------------------------------------------------------------------------------

    def noise(self, draws: int, rows: int, generator: torch.Generator, like: Tensor) -> CompletionNoise:
        """The randomness of some completions, spread evenly; with ``rows`` 1 it serves any number of rows alike."""
        full, size = torch.empty((), dtype=torch.float32, device=like.device), self.modalities
        # Of each modality: ranks, the choice of a component, the place in it; and of all: which they came from.
        widths = (1 if self.joins_scalars else self.dim, self.mixture.components, self.dim)
        each = size * sum(widths)
        if rows == 1:
            points = spread_uniform((draws, 1, each + 1), generator, full)
        else:  # rows with noise of their own need no common spread
            points = open_uniform((draws, rows, each + 1), full, generator)
        uniform, gumbel, normal = points[..., :each].unflatten(-1, (size, -1)).movedim(2, 0).split(widths, -1)
        gumbel = -(-gumbel.log()).log()
        return CompletionNoise(uniform, gumbel, torch.special.ndtri(normal), points[..., each], tuple(range(size)))

    def complete(self, z: Tensor, observed: Tensor, noise: CompletionNoise, *, given: bool = True) -> Tensor:
        """Draws of what is absent.

        Args:
            z: Vectors, of shape (M, B, D); anything where absent.
            observed: Presence, bool, of shape (M, B). Rows with nothing observed are drawn from the law itself.
            noise: Of S draws, for B rows or one for all.
            given: Whether the draws depend on what is observed; else they come from the modality's own mixture.

        Returns:
            Of shape (M, S, B, D): the same vectors where observed, draws elsewhere. Differentiable in the law's
            parameters (mixture weights too) and in what is observed.

        Raises:
            ConfigurationError: If the variant has no conditional law.
        """
        if given and not self.conditional:
            raise ConfigurationError(
                f"{type(self).__name__} has no conditional law to draw completions from",
                hint='Draw them from the margins (completion="marginal"), or take another variant.',
            )
        with without_autocast(z):
            z = self._blanked(z, observed)
            whole = z.unsqueeze(1).expand(-1, noise.pick.shape[0], -1, -1)
            rows = (~observed).any(0).nonzero(as_tuple=True)[0]
            if not len(rows):
                return whole
            joined = given and (self.copula is not None or self.one_component)
            drawn = self._draw(z[:, rows], observed[:, rows], noise.of_rows(rows), joined)  # (M, S, B', D)
            absent = ~observed[:, None, rows, None]
            return whole.index_copy(2, rows, torch.where(absent, drawn, whole[:, :, rows]))

    @abstractmethod
    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        """Vectors (M, S, B, D), right where absent; with ``joined``, given what is observed."""

    def _component(self, perturbed: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales (M, S, R, D) of the components chosen by log weights plus Gumbel noise, (M, S, R, K)."""
        choice = choose_relaxed(perturbed)
        return of_choice(choice, self.mixture.means), of_choice(choice, self.mixture.scales)

    def _from_margins(self, noise: CompletionNoise) -> Tensor:
        """Draws from each modality's own mixture, (M, S, R, D)."""
        mean, scale = self._component(self.mixture.log_weights[:, None, None] + noise.gumbel)
        return mean + scale * noise.normal

    def _complete_logs(
        self, lower: Tensor, upper: Tensor, observed: Tensor, noise: CompletionNoise
    ) -> tuple[Tensor, Tensor]:
        """Both logarithms of the copula's arguments, (M, S, B, E), absent ones drawn given the observed.

        Args:
            lower: Logarithms of the observed arguments, of shape (M, S or 1, B, E).
            upper: Of one less the arguments, the same shape.
            observed: Presence, of shape (M, B).
            noise: Where to draw from.
        """
        assert self.copula is not None
        shape = (*noise.uniform.shape[:2], *lower.shape[2:])
        if isinstance(self.copula, GaussianCopula) and lower.shape[1] == 1:
            every = torch.cartesian_prod(*(torch.arange(n, device=lower.device) for n in (shape[0], shape[2])))
            drawn = self._normal_completion(lower[:, 0], upper[:, 0], observed, noise).at(*every.unbind(1))
            return normal_log_tails(drawn.unflatten(0, (shape[0], shape[2])).transpose(1, 2))
        parts = lower.expand(shape), upper.expand(shape), noise.uniform.expand(shape)
        seen = observed[:, None, :, None]
        if not self.joins_scalars:
            return self.copula.complete_margins_first(parts[0], parts[1], seen, parts[2], noise.order)
        lower, upper, uniform, seen = (part.squeeze(-1) for part in (*parts, seen))
        first, second = self.copula.complete_margins_first(lower, upper, seen, uniform, noise.order)
        return first.unsqueeze(-1), second.unsqueeze(-1)

    def _normal_completion(
        self, lower: Tensor, upper: Tensor, observed: Tensor, noise: CompletionNoise
    ) -> NormalCompletion:
        """The scores of absent arguments under a Gaussian copula; logarithms of shape (M, B, E)."""
        assert isinstance(self.copula, GaussianCopula)
        correlation = self.copula.correlation
        correlation = correlation.unsqueeze(0) if correlation.ndim == 2 else correlation
        ranks = normal_score(torch.log(noise.uniform), torch.log1p(-noise.uniform))
        scores = torch.where(observed.unsqueeze(-1), normal_score(lower, upper), 0.0)
        return normal_completion(correlation, scores, observed, ranks, noise.order)

    # Learning ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start_at_rows(self, z: Tensor, observed: Tensor, generator: torch.Generator) -> None:
        """Places the components at data, apart from one another.

        Where all modalities of a case come from the same component, the components are those of a few steps of
        expectation and maximisation on what the rows observe; else each mixture is placed by itself. A modality that no
        row has stays where it is.

        Args:
            z: Vectors, of shape (M, N, D).
            observed: Presence, bool, of shape (M, N).
            generator: Source of randomness.
        """
        mixture = self.mixture
        if self.one_component and bool(observed.any()):
            weights, means, scales = expectation_maximisation(
                z.to(mixture.means), observed, mixture.components, generator
            )
            mixture.assign(weights.expand(self.modalities, -1), means, scales.clamp_min(2 * mixture.scale_floor))
            return
        parts = [part[seen] for part, seen in zip(z, observed, strict=True)]
        most = max(len(part) for part in parts)
        if not most:
            return
        rows, before = torch.arange(most), [p.clone() for p in (mixture.means, mixture.raw_scales)]
        points = [part[rows % len(part)] if len(part) else part.new_zeros(most, self.dim) for part in parts]
        mixture.start_at(torch.stack(points).to(mixture.means), generator=generator)
        for m, part in enumerate(parts):
            if not len(part):
                mixture.means[m], mixture.raw_scales[m] = before[0][m], before[1][m]

    @torch.no_grad()
    def refit(self, z: Tensor, observed: Tensor, *, memory: float = 0.0, steps: int = 1) -> None:
        """Fits the margins by expectation maximisation: a step on a batch, or several on all there is.

        The copula, which is not fitted here, enters where it says which component a row comes from.

        Args:
            z: Vectors, of shape (M, B, D); anything where absent.
            observed: Presence, bool, of shape (M, B).
            memory: Rows after which earlier ones are forgotten; 0: at once.
            steps: Number of steps.
        """
        assert self.running is not None
        z = self._blanked(z, observed)
        for _ in range(steps):
            self.running.update(self.mixture, z, observed, self._shares(z, observed), memory=memory)

    def _shares(self, z: Tensor, observed: Tensor) -> Tensor:
        """Probabilities of the components of each vector, (M, B, K, 1), or coordinate, (M, B, K, D)."""
        terms = self.mixture.component_log_density(z) + self.mixture.log_weights.unsqueeze(1)
        return torch.softmax(terms, -1).unsqueeze(-1)

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Statistics to monitor: mean Kendall's tau over pairs, its mean size, the parameter, how far components are
        apart (least distance of two means of a mixture, over the mean scale, for each coordinate)."""
        values: dict[str, float] = {}
        mixture = self.mixture
        if mixture.components > 1:
            pairs = torch.triu_indices(mixture.components, mixture.components, 1)
            apart = (mixture.means[:, pairs[0]] - mixture.means[:, pairs[1]]).norm(dim=-1)
            values["components_apart"] = float(apart.min() / mixture.scales.mean() / math.sqrt(self.dim))
        if self.copula is None:
            return {"tau": 0.0, "tau_size": 0.0} | values
        tau = self.copula.kendall_tau()
        if isinstance(self.copula, Elliptical):
            above = torch.triu_indices(self.modalities, self.modalities, 1)
            tau = tau[..., above[0], above[1]]
            values["correlation"] = float(self.copula.correlation[..., above[0], above[1]].mean())
        elif isinstance(self.copula, Archimedean):
            values["theta"] = float(self.copula.theta.mean())
        return {"tau": float(tau.mean()), "tau_size": float(tau.abs().mean())} | values


def choose_relaxed(perturbed: Tensor) -> Tensor:
    """One-hot choice of the largest entry (…, K), with the gradient of a softmax: straight-through Gumbel-softmax."""
    hard = nn.functional.one_hot(perturbed.argmax(-1), perturbed.shape[-1]).to(perturbed.dtype)
    if not (torch.is_grad_enabled() and perturbed.requires_grad):
        return hard
    soft = torch.softmax(perturbed / _TEMPERATURE, -1)
    return hard + (soft - soft.detach())


def of_choice(choice: Tensor, part: Tensor) -> Tensor:
    """The chosen components' part of (M, K, D), of shape (M, S, R, D); a choice (S, R, K) is the same for all M."""
    return torch.einsum("msrk,mkd->msrd" if choice.ndim == 4 else "srk,mkd->msrd", choice, part)
