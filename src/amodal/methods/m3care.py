"""M3Care: features of absent modalities from similar cases, by a graph over the batch and a bank of training cases."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.errors import RunError
from amodal.fusion.network import Head
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Count, Share, Size, Weight, above, below
from amodal.schema import Schema

__all__ = ["M3Care"]

BANDWIDTHS = (0.5, 1.0, 2.0)
"""Widths of the kernels, in units of the mean squared distance."""
Fraction = Annotated[float, above(0), below(1)]


class M3Care(NetworkMethod):
    r"""Auxiliary features from cases that are similar in what both have; they stand in for what is absent.

    Two cases are as similar as a learnt kernel says, on average over the modalities that both have:

    .. math::
        K^m_{ij} = \bigl[(1 - \delta_m) \, k(\phi_m(h_i), \phi_m(h_j)) + \delta_m\bigr] \, k(h_i, h_j), \qquad
        A_{ij} = S_{ij} [S_{ij} > \lambda]

    with S the average of the :math:`K^m`, k a mean of normal kernels of three widths, and gradients through
    :math:`S - \lambda`. Two graph layers over A, to neighbours that have the modality, give an auxiliary feature. An
    absent feature is replaced by it, a present one mixed with it by gates. A transformer reads one token a modality.
    Minimised is the task's loss and :math:`\eta \sum_m | \|\phi_m(H)\| - \|H\| |`.

    In training the neighbours of a case are those of its batch. At prediction they are training cases, a bank that is
    remembered with its similarities' widths, so that a prediction is a function of its row.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        threshold: Where :math:`\lambda`, which is learnt, begins.
        mixing: Where each :math:`\delta_m` begins.
        normalise: Whether a graph layer averages over neighbours or, as published, adds them up.
        bank: Training cases that are remembered, at most; a random choice of more.
        w_norm: Weight :math:`\eta`.
        layers: Layers of the transformer.
        hidden: Width of the head's hidden layer.
        dropout: Dropout of transformer and head.

    Source:
        :cite:`zhang2022m3care` and its code. Deviations: the bank; neighbours must have the modality (in the code the
        rows that lack it are blanked too, so that what is imputed is constant); widths and norms over present rows;
        layer instead of batch normalisation; pooled vectors instead of token sequences.
    """

    title = "M3Care: similar cases"
    summary = "features of absent modalities from similar cases: a graph in the batch, a bank at prediction"
    references = ("zhang2022m3care",)
    couples_rows = True
    uses_unlabelled = True

    PRESETS: ClassVar = {
        "paper": {"threshold": 0.88, "mixing": 0.88, "normalise": False, "bank": 2048, "dropout": 0.5},
    }

    bank_features: Tensor
    bank_observed: Tensor
    bank_keys: Tensor
    bank_first: Tensor
    widths: Tensor
    batch_rows: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        threshold: Fraction = 0.5,
        mixing: Fraction = 0.43,
        normalise: bool = True,
        bank: Size = 1024,
        w_norm: Weight = 1e-7,
        layers: Count = 2,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.normalise, self.bank, self.w_norm = normalise, bank, w_norm
        self.encoders = encoders_for(schema, encoders)
        n, width = len(self.encoders), width_of(self.encoders)
        self.projections = PerModality({name: _three_layers(width) for name in self.encoders})  # phi
        self.norm = nn.LayerNorm(width)
        self.threshold = nn.Parameter(torch.tensor(_logit(threshold)))
        self.mixing = nn.Parameter(torch.full((n,), _logit(mixing)))
        bound = width**-0.5
        self.graph_weight = nn.Parameter(torch.empty(2, n, width, width).uniform_(-bound, bound))
        self.graph_bias = nn.Parameter(torch.empty(2, n, 1, width).uniform_(-bound, bound))
        self.gate_weight = nn.Parameter(torch.empty(2, n, width).uniform_(-bound, bound))  # of auxiliary and own
        self.gate_bias = nn.Parameter(torch.zeros(2, n))
        self.modality = nn.Parameter(0.02 * torch.randn(n, width))
        self.transformer = TransformerTrunk(width, layers=layers, dropout=dropout)
        self.head = Head(n * width, schema.task.n_outputs, hidden=hidden, dropout=dropout)
        self.register_memory("bank_features", torch.zeros(n, width))
        self.register_memory("bank_observed", torch.zeros(n, dtype=torch.bool))
        self.register_memory("bank_keys", torch.zeros(2, n, width))
        self.register_memory("bank_first", torch.zeros(n, width))
        self.register_buffer("widths", torch.ones(2, n))
        self.register_buffer("batch_rows", torch.zeros((), dtype=torch.int64))

    # Similarity --------------------------------------------------------------------------------------------------

    def project(self, features: Tensor) -> Tensor:
        """Projections (B, M, D) of features."""
        return torch.stack([phi(features[:, m]) for m, (_, phi) in enumerate(self.projections.items())], dim=1)

    def keys(self, features: Tensor, projected: Tensor) -> Tensor:
        """What both kernels compare: projections and features, normalised, (B, 2, M, D)."""
        return self.norm(torch.stack([projected.relu(), features], dim=1))

    def similarity(
        self, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], widths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean kernel over the modalities that two rows share.

        Args:
            ours: Keys (B, 2, M, D) and presence (B, M).
            theirs: The same of R rows.
            widths: Mean squared distances (2, M); None: those of these rows, which are then the same rows.

        Returns:
            Similarities in [0, 1], of shape (B, R), 0 where nothing is shared; and the widths.
        """
        (keys, observed), (others, there) = ours, theirs
        total = keys.new_zeros(len(keys), len(others))
        shared, used = torch.zeros_like(total), []
        for m, mixing in enumerate(self.mixing.sigmoid()):
            pairs = observed[:, None, m] & there[:, m]  # (B, R)
            squared = _squared_distances(keys[:, :, m], others[:, :, m])  # (2, B, R)
            width = _mean_distance(squared.detach(), pairs) if widths is None else widths[:, m]
            used.append(width)
            scaled = squared / width[:, None, None]
            deep, plain = torch.stack([(-scaled / b).exp() for b in BANDWIDTHS]).mean(0)  # each (B, R)
            total = total + torch.where(pairs, ((1 - mixing) * deep + mixing) * plain, 0.0)
            shared = shared + pairs
        return total / shared.clamp_min(1), torch.stack(used, dim=1)

    def edges(self, similarity: Tensor) -> Tensor:
        """Similarities above the threshold as they are, others 0; the gradient is that of their difference."""
        threshold = self.threshold.sigmoid()
        return (similarity - threshold).relu() + torch.where(similarity > threshold, threshold.detach(), 0.0)

    # Graph -------------------------------------------------------------------------------------------------------

    def layer(self, index: int, own: tuple[Tensor, Tensor, Tensor], others: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """One graph layer (B, M, D).

        Args:
            index: 0 or 1.
            own: States (B, M, D), presence (B, M) and the weight (B,) of the edge to oneself.
            others: States (R, M, D), presence (R, M) and edges (B, R); an edge to oneself among them is 0.
        """
        states, observed, loop = own
        theirs, there, edges = others
        weights = torch.where(there.T[:, None], edges, 0.0)  # (M, B, R): neighbours must have the modality
        self_weights = torch.where(observed.T, loop, 0.0)[..., None]  # (M, B, 1)
        total = weights @ theirs.movedim(1, 0) + self_weights * states.movedim(1, 0)
        if self.normalise:
            total = total / (weights.sum(-1, keepdim=True) + self_weights).clamp_min(1e-6)
        return (total @ self.graph_weight[index] + self.graph_bias[index]).relu().movedim(0, 1)

    def among(self, features: Tensor, observed: Tensor, edges: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Both layers, each (B, M, D), of rows that are one another's neighbours; edges (B, B) to others are scaled."""
        loop = edges.diagonal()
        apart = scale * (edges - torch.diag_embed(loop))
        first = self.layer(0, (features, observed, loop), (features, observed, apart))
        return first, self.layer(1, (first, observed, loop), (first, observed, apart))

    def read(self, features: Tensor, observed: Tensor, auxiliary: Tensor) -> Tensor:
        """Outputs (B, C): auxiliary features where absent, gated mixtures where present, transformer, head."""
        gates = [
            ((x * w).sum(-1) + b).sigmoid()  # (B, M)
            for x, w, b in zip((auxiliary, features), self.gate_weight, self.gate_bias)
        ]
        share = (gates[0] / (gates[0] + gates[1]))[..., None]
        tokens = torch.where(observed[..., None], share * auxiliary + (1 - share) * features, auxiliary)
        states = self.transformer(tokens + self.modality, torch.ones_like(observed))
        return self.head(states.flatten(1))

    # Training ----------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss with neighbours in the batch, and the difference of norms; see `Method.objective`."""
        features, observed = encode_pooled(self.encoders, batch)
        projected = self.project(features)
        rows = self.keys(features, projected), observed
        edges = self.edges(self.similarity(rows, rows)[0])
        outputs = self.read(features, observed, self.among(features, observed, edges)[1])
        if self.training:
            self.batch_rows.clamp_(min=len(batch))
        norms = [
            torch.where(observed[..., None], x, 0.0).movedim(1, 0).flatten(1).norm(dim=1) for x in (projected, features)
        ]
        terms = {"task": self.task_term(outputs, batch), "norm": (norms[0] - norms[1]).abs().sum()}
        return LossTerms(terms, {"norm": self.w_norm})

    def monitor(self, batch: Batch) -> dict[str, float]:
        """The threshold, and how many others a row of the batch has for neighbours."""
        features, observed = encode_pooled(self.encoders, batch)
        rows = self.keys(features, self.project(features)), observed
        degree = (self.edges(self.similarity(rows, rows)[0]) > 0).sum(1) - 1
        return {"threshold": float(self.threshold.detach().sigmoid()), "mean_degree": float(degree.float().mean())}

    # Prediction --------------------------------------------------------------------------------------------------

    def remember(self, batches: Iterable[Batch]) -> None:
        """Stores the bank: features, keys, first graph layer, widths; see `Method.remember`."""
        generator = torch.Generator().manual_seed(0)
        features, observed = torch.zeros_like(self.bank_features[:0]), self.bank_observed[:0]
        places = torch.zeros(0)
        for batch in batches:  # the rows with the smallest random numbers, over all batches
            more, present = encode_pooled(self.encoders, batch)
            features, observed = torch.cat([features, more.float()]), torch.cat([observed, present])
            places = torch.cat([places, torch.rand(len(batch), generator=generator)])
            chosen = places.argsort()[: self.bank].sort().values
            places, chosen = places[chosen], chosen.to(features.device)
            features, observed = features[chosen], observed[chosen]
        keys = self.keys(features, self.project(features))
        similarity, widths = self.similarity((keys, observed), (keys, observed))
        self.bank_features, self.bank_observed, self.bank_keys = features, observed, keys
        self.widths.copy_(widths)
        self.bank_first = self.among(features, observed, self.edges(similarity), self._scale())[0]

    def _scale(self) -> float:
        """Factor on edges to the bank: as many neighbours in expectation as in a training batch."""
        return (int(self.batch_rows) - 1) / len(self.bank_features) if self.batch_rows > 1 else 1.0

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C) with the bank's rows as neighbours; see `NetworkMethod.outputs`.

        Raises:
            RunError: If there is no bank.
        """
        if not len(self.bank_features):
            raise RunError(
                "m3care has no bank of training cases to predict with",
                hint="amodal.fit stores it; call remember(batches) on a method that is trained otherwise.",
            )
        features, observed = encode_pooled(self.encoders, batch)
        ours = self.keys(features, self.project(features)), observed
        similarity, _ = self.similarity(ours, (self.bank_keys, self.bank_observed), self.widths)
        edges, there = self._scale() * self.edges(similarity), self.bank_observed
        loop = self.edges(torch.ones_like(edges[:, 0]))
        first = self.layer(0, (features, observed, loop), (self.bank_features, there, edges))
        auxiliary = self.layer(1, (first, observed, loop), (self.bank_first, there, edges))
        return self.read(features, observed, auxiliary)


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances (2, B, R) of keys (B, 2, D) and (R, 2, D), each pair by itself: no threshold may flip."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(one.movedim(1, 0), other.movedim(1, 0), compute_mode=mode).square()


def _mean_distance(squared: Tensor, pairs: Tensor) -> Tensor:
    """Mean over the pairs of different rows (R, R) of squared distances (2, R, R): (2,), never near zero."""
    apart = pairs & ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
    return (torch.where(apart, squared, 0.0).sum((1, 2)) / apart.sum().clamp_min(1)).clamp_min(1e-3)


def _three_layers(width: int) -> nn.Sequential:
    first, second, third = (nn.Linear(width, width) for _ in range(3))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
