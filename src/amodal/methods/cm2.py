"""CM2: Gaussian-mixture laws of latent vectors, joined by a copula, with completions drawn from the joint law."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from amodal.batch import Batch
from amodal.distributions.copula import FAMILIES
from amodal.distributions.joint.law import CompletionNoise, JointLaw
from amodal.distributions.joint.variants import JOINT_LAWS, joint_law
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.errors import ConfigurationError
from amodal.fusion import FusionChoice, build_fusion
from amodal.fusion.late import average_predictions
from amodal.fusion.network import FusionNetwork
from amodal.losses.alignment import cosine_alignment, kl_alignment
from amodal.losses.masked import mean_over_rows
from amodal.method import LossTerms, SamplingMethod
from amodal.options import Count, Share, Size, Weight, at_least, one_of
from amodal.patterns import draw_removal
from amodal.schema import Schema

__all__ = ["CM2"]

CHUNK = 2**22
"""Numbers of completions in work at a time (16 MiB in single precision)."""

Variant = Annotated[str, one_of(JOINT_LAWS)]
Family = Annotated[str, one_of((*FAMILIES, "independence"))]

SOME_ROWS = 5000
"""Training rows that the law is fitted to before and after training."""


SCALE_FLOORS = {"layer": 0.05, "sphere": 1e-3, "none": 0.05}
"""Least standard deviation of a component, by `normalise`: the likelihood is unbounded as one goes to zero."""

WARMUP = 100
"""Steps over which the weight of an alignment that moves the encoders alone rises from zero."""

LAW_RATE = 5.0
"""Factor on the learning rate of the copula's parameters, which have to follow the encoders."""

EM_STEPS = 20
"""Steps of expectation maximisation before and after training."""

MEMORY = 200.0
"""Rows that the law's margins remember at first; as many over what is left of the training, later."""


class CM2(SamplingMethod):
    r"""Latent vectors with Gaussian-mixture margins joined by a copula; what is absent is drawn from that joint law.

    Each encoder's feature is projected to a vector :math:`z_m` of one latent space and normalised. The joint law
    :math:`p(z_1, …, z_M)` has a Gaussian mixture :math:`f_m` for each modality and a copula between them. An absent
    modality's vector is drawn from :math:`p(z_m \mid z_O)`, given the vectors of the observed modalities O; the fusion
    always reads what was drawn, and a head predicts. Minimised is the mean over rows of

    .. math::
        -\log \tfrac1S \sum_s p(y \mid z_O, \tilde z_s)
        - \tfrac1D \log p(\bar z_O)
        - \tfrac{w}{D} \Bigl[\log \bar p(z_O) - \sum_{m \in O} \log \bar f_m(z_m)\Bigr],

    where the bar holds fixed: the second term fits the copula to the vectors, the third one, the alignment, moves the
    encoders to make the modalities dependent under the law (its mean is their mutual information). Only what a row
    observes enters. The margins are fitted to the vectors of every step by expectation maximisation, and the task does
    not move the law: it is to be the law of its vectors. With `removal`, the completions replace random further
    modalities too, so that every pattern of presence is met; likelihood and alignment see all that the row has.

    The default's law joins coordinate by coordinate (`variant`): its completions follow every coordinate of what is
    observed, and carry unbiased gradients; the method's page compares. The formula as printed in the paper takes the
    joint distribution function of a vector as an argument of the copula and is no density; the variant "printed" keeps
    it, and ``preset="paper"`` uses it.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        variant: What the copula joins: "coordinatewise", "common", "kendall", "projection" or "printed"; see
            `amodal.distributions.joint.variants`.
        family: "gaussian", "student_t", "gumbel", "clayton", "frank", "joe", or "independence" for no copula.
        components: Gaussians K in each modality's mixture.
        latent: Width D of the vectors.
        normalise: "layer" (mean 0 and variance 1 over a vector's coordinates), "sphere" (length 1) or "none".
        completion: "conditional" (given what is observed), "marginal" (from the modality's own mixture), or "none":
            the fusion gets the presence and replaces what is absent in its own way.
        sample_gradient: Whether gradients of the task pass through completions, to what is observed (and with
            `alignment="likelihood"` to the law): "reparameterised", as the paper says, or "detached", as its code does.
        alignment: Term that moves the encoders in addition to the task's: "copula" (the term above), "likelihood" (the
            whole log likelihood, margins included, as in the paper, with one learning rate for all), "cosine", "kl" or
            "none".
        w_alignment: Weight w of the alignment. It rises from zero over 100 steps, but not that of "likelihood".
        fusion: A name in `amodal.fusion.FUSIONS`, or {"name": …, option: …}.
        hidden: Width of the head's hidden layer; 0: a linear head.
        dropout: Dropout of the head.
        removal: Whether random further modalities are removed in the task's term.
        training_draws: Completions S that the likelihood of the target is averaged over.
        prediction_draws: Completions that a prediction averages over.

    Raises:
        ConfigurationError: If completions are asked for that the variant does not have.

    Source:
        :cite:`wu2025cm2`. Deviations of the default: proper densities; completions given what is observed; loss per
        dimension; margins fitted by expectation maximisation, whose likelihood does not move the encoders (it could
        be raised without bound by making all vectors alike); the head also reads the presence; mixture weights are
        parameters, as in the paper's code, not the output of a network.
    """

    title = "CM2: copula draws"
    summary = "mixtures joined by a copula; absent modalities are drawn given the present ones"
    uses_unlabelled = True
    references = ("wu2025cm2",)
    accepts_empty = True

    PRESETS: ClassVar = {
        "paper": {
            "variant": "printed",
            "family": "gumbel",
            "latent": 256,
            "normalise": "sphere",
            "completion": "marginal",
            "alignment": "likelihood",
            "w_alignment": 256e-6,  # 1e-6 a vector
            "fusion": {"name": "lstm", "layers": 2, "hidden": 512},
            "hidden": 0,
            "removal": False,
        },
    }

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        variant: Variant = "coordinatewise",
        family: Family = "gaussian",
        components: Size = 3,
        latent: Annotated[int, at_least(2)] = 32,
        normalise: Literal["layer", "sphere", "none"] = "layer",
        completion: Literal["conditional", "marginal", "none"] = "conditional",
        sample_gradient: Literal["reparameterised", "detached"] = "reparameterised",
        alignment: Literal["copula", "likelihood", "cosine", "kl", "none"] = "copula",
        w_alignment: Weight = 0.01,
        fusion: FusionChoice = "concatenate",
        hidden: Count = 128,
        dropout: Share = 0.1,
        removal: bool = True,
        training_draws: Size = 1,
        prediction_draws: Size = 64,
    ):
        super().__init__(schema)
        self.completion, self.alignment, self.normalise = completion, alignment, normalise
        self.sample_gradient, self.removal, self.w_alignment = sample_gradient, removal, w_alignment
        self.meets_all_patterns = removal
        self.training_draws, self.prediction_draws = training_draws, prediction_draws

        self.encoders = encoders_for(schema, encoders)
        n, width = len(schema.names), width_of(self.encoders)
        self.projections = nn.ModuleList(nn.Linear(width, latent) for _ in range(n))
        self.law: JointLaw | None = None
        self._latest: tuple[Tensor, Tensor] | None = None  # vectors and presence of the present step
        if completion != "none" or alignment in ("copula", "likelihood"):
            settings = {"components": components, "family": family, "scale_floor": SCALE_FLOORS[normalise]}
            settings["learnable_margins"] = alignment == "likelihood"
            self.law = joint_law(variant, n, latent, **settings)
            if completion == "conditional" and not self.law.conditional:
                raise ConfigurationError(
                    f'the variant "{variant}" has no conditional law to draw completions from',
                    expected='completion="marginal" or "none"',
                    got='completion="conditional"',
                )
        self.network = FusionNetwork(
            build_fusion(fusion, n, latent), schema.task.n_outputs, hidden=hidden, dropout=dropout
        )

    # Training ----------------------------------------------------------------------------------------------------

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Places the components at training rows, apart from one another, and fits them; see `Method.prepare`."""
        if self.law is None:
            return
        training = self.training
        self.eval()
        z, observed = self._some_vectors(batches)
        self.law.start_at_rows(z, observed, torch.Generator(z.device).manual_seed(0))
        if self.law.running is not None:
            self.law.refit(z, observed, steps=EM_STEPS)
        self.train(training)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Fits the law's margins to the vectors of the best weights; see `Method.remember`."""
        if self.law is not None and self.law.running is not None:
            self.law.refit(*self._some_vectors(batches), steps=EM_STEPS)

    @torch.no_grad()
    def _some_vectors(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Vectors (M, N, D) and presence (M, N) of some rows."""
        parts, rows = [], 0
        for batch in batches:
            parts.append(self.vectors(batch))
            rows += len(batch)
            if rows >= SOME_ROWS:
                break
        z, observed = (torch.cat(part) for part in zip(*parts))  # (N, M, D), (N, M)
        return z.movedim(1, 0), observed.T

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Task, the law's likelihood and alignment, the first over the rows with a label; see `Method.objective`."""
        z, observed = self.vectors(batch)
        self._latest = z.detach(), observed
        remaining = draw_removal(observed, generator) if self.removal else observed
        noise = None
        if self.law is not None and self.completion != "none":
            noise = self.law.noise(self.training_draws, len(batch), generator, z)
        # Task: the mean prediction over completions of what is absent or removed (section 3.4).
        outputs = self._outputs(z, remaining, noise).movedim(0, 1)  # (B, S, C)
        every_draw = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
        mean = average_predictions(outputs, every_draw, self.schema.task.kind)
        terms = {"task": self.task_term(mean, batch)}
        weights: dict[str, float] = {}
        if self.law is not None:
            # Likelihood: mixtures of equation 1 joined by the copula (section 3.2; its sign in the printed bound is
            # wrong). It fits the law to vectors held fixed, or, as printed, moves the encoders too.
            first, seen = z.movedim(1, 0), observed.T  # (M, B, D), (M, B)
            whole = self.alignment == "likelihood"
            log_density = self.law.log_density(first if whole else first.detach(), seen)
            terms["likelihood"] = mean_over_rows(-log_density / self.law.dim)
            weights["likelihood"] = self.w_alignment if whole else 1.0
        # Alignment: the copula term of the bound alone (section 3.3), or one of the two it is compared with (table 4).
        if self.alignment in ("copula", "cosine", "kl") and len(self.schema.names) > 1:
            terms["alignment"] = mean_over_rows(self._alignment(z, observed))
            weights["alignment"] = self._weight()
        return LossTerms(terms, weights)

    def after_step(self) -> None:
        """Takes the step's vectors into the law's margins; see `Method.after_step`."""
        if self._latest is not None and self.law is not None and self.law.running is not None:
            z, observed = self._latest
            self.law.refit(z.movedim(1, 0), observed.T, memory=MEMORY / (1.1 - self.clock.progress))
        self._latest = None

    def learning_rate_scale(self, parameter_name: str) -> float:
        """The copula's parameters learn faster than the others, unless one likelihood moves law and encoders."""
        faster = parameter_name.startswith("law.") and self.alignment != "likelihood"
        return LAW_RATE if faster else 1.0

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Kendall's tau, the parameter, the spread of the components, the vectors' correlation, and the law's fit.

        `law_over_normal` is the law's negative log likelihood of the vectors less that of independent normal
        coordinates, of mean zero and the variance that `normalise` gives, in nats a coordinate.
        """
        if self.law is None:
            return {}
        with torch.no_grad():
            z, observed = self.vectors(batch)
            found = self.law.describe() | {"latent_correlation": _mean_correlation(z, observed)}
            variance = {"layer": 1.0, "sphere": 1.0 / self.law.dim}.get(self.normalise)
            if variance is not None and bool(observed.any()):
                count = int(observed.sum()) * self.law.dim
                normal = 0.5 * math.log(2 * math.pi * variance) + 0.5 * float((z * z).sum()) / variance / count
                own = -float(self.law.log_density(z.movedim(1, 0), observed.T).sum()) / count
                found["law_over_normal"] = own - normal
            return found

    def _weight(self) -> float:
        """The alignment's weight at this step."""
        return self.w_alignment * min(1.0, self.clock.step / WARMUP)

    def _alignment(self, z: Tensor, observed: Tensor) -> Tensor:
        """Alignment of the vectors (B,): minus the dependence under the law, held fixed, or a distance."""
        if self.alignment == "copula":
            assert self.law is not None
            fixed = {name: parameter.detach() for name, parameter in self.law.named_parameters()}
            return -functional_call(self.law, fixed, (z.movedim(1, 0), observed.T)) / self.law.dim
        vectors = dict(zip(self.schema.names, z.unbind(1)))
        present = dict(zip(self.schema.names, observed.unbind(1)))
        return cosine_alignment(vectors, present) if self.alignment == "cosine" else kl_alignment(vectors, present)

    # Prediction --------------------------------------------------------------------------------------------------

    def draw_outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Outputs (S, B, C) for completions of what is absent; see `SamplingMethod`.

        Args:
            batch: B rows.
            draws: Number of draws S.
            generator: Source of the draws, on the batch's device.
            vary: Modalities whose completion varies; the others are drawn first, and once. None: all.
        """
        self.schema.check_names(list(vary or ()))
        z, observed = self.vectors(batch)
        outputs = self._outputs(z, observed, None).expand(draws, -1, -1)
        lacking = (~observed.all(1)).nonzero().squeeze(1)  # rows that lack nothing have one prediction under all draws
        if self.law is None or self.completion == "none" or not len(lacking):
            return outputs
        z, observed = z[lacking], observed[lacking]
        noise = self.law.noise(draws, 1, generator, z)
        if vary is not None:
            noise = noise.keeping([m for m, name in enumerate(self.schema.names) if name not in vary])
        step = max(1, CHUNK // (draws * z.shape[1] * z.shape[2]))
        parts = [self._outputs(z[i : i + step], observed[i : i + step], noise) for i in range(0, len(z), step)]
        return outputs.index_copy(1, lacking, torch.cat(parts, dim=1))

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latent vectors (B, M, D), zero where absent, and presence (B, M)."""
        features, observed = encode_pooled(self.encoders, batch)
        projected = [projection(feature) for projection, feature in zip(self.projections, features.unbind(1))]
        z = self._normalised(torch.stack(projected, dim=1))
        return torch.where(observed[..., None], z, 0.0), observed

    def complete(self, z: Tensor, observed: Tensor, noise: CompletionNoise) -> Tensor:
        """Vectors (S, B, M, D): those of `vectors` where observed, normalised draws from the law elsewhere."""
        assert self.law is not None
        with self._law_held():
            drawn = self.law.complete(z.movedim(1, 0), observed.T, noise, given=self.completion == "conditional")
        drawn = drawn.movedim(0, 2)
        if self.sample_gradient == "detached":
            drawn = drawn.detach()
        return torch.where(observed[..., None], z, self._normalised(drawn).to(z.dtype))

    @contextmanager
    def _law_held(self) -> Iterator[None]:
        """The copula fixed, so that the task does not make it another one than that of the vectors."""
        assert self.law is not None
        learning = [p for p in self.law.parameters() if p.requires_grad and self.law.running is not None]
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)

    def _outputs(self, z: Tensor, observed: Tensor, noise: CompletionNoise | None) -> Tensor:
        """Outputs (S, B, C); (1, B, C) without completions."""
        if noise is None:
            return self.network(z, observed)[None]
        completed = self.complete(z, observed, noise)  # (S, B, M, D)
        flat = completed.flatten(0, 1)  # (S * B, M, D), all present for the fusion
        fused = self.network.fusion(flat, torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device))
        flags = observed.to(fused.dtype).repeat(len(completed), 1)  # (S * B, M)
        return self.network.head(torch.cat([fused, flags], dim=1)).unflatten(0, completed.shape[:2])

    def _normalised(self, z: Tensor) -> Tensor:
        """Vectors (…, D) on one scale; see `normalise`."""
        if self.normalise == "layer":
            return functional.layer_norm(z, z.shape[-1:])
        return functional.normalize(z, dim=-1) if self.normalise == "sphere" else z


def _mean_correlation(z: Tensor, observed: Tensor) -> float:
    """Mean over pairs of modalities and coordinates of the correlation over the rows that have both; 0 if none do."""
    correlations = []
    for m in range(z.shape[1]):
        for n in range(m):
            both = observed[:, m] & observed[:, n]
            if int(both.sum()) < 3:
                continue
            a, b = (z[both, i] - z[both, i].mean(0) for i in (m, n))
            correlations.append(functional.cosine_similarity(a, b, dim=0).mean())
    return float(torch.stack(correlations).mean()) if correlations else 0.0
