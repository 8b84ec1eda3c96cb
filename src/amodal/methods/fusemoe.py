"""FuseMoE: layers of sparse experts, chosen by their distance to each modality's stream, that mix the modalities."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.errors import ConfigurationError
from amodal.fusion.experts import ExpertPool, Router, Routing, squared_variation
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Positive, Share, Size, Weight
from amodal.schema import Schema

__all__ = ["ExpertLayer", "FuseMoE", "entropy_term"]


class FuseMoE(NetworkMethod):
    r"""A transformer's layers whose mixing of modalities is a sparse mixture of experts.

    Each modality has a stream, its pooled vector with an embedding of its kind or, where it is absent, a learned vector
    Z. In a layer, with the gates g of the k experts nearest to a stream x and LN a layer's normalisation,

    .. math::
        z^m \leftarrow z^m + \sum_{n} \sum_{e} g^{n}_{e} \, E_e(\mathrm{LN} z^{n})_m, \qquad
        g^{n} = \operatorname{softmax}_{\text{top } k}\bigl(-\lVert \mathrm{LN} z^{n} - w^{n}_{e} \rVert_2 / T\bigr)

    where an expert writes to all streams, so that the modalities interact; then a feed-forward part for each. The
    streams are read side by side. In training the gates are noisy, and two terms are added to the task's loss: that
    all experts are used alike, and that each modality is sure of its experts while modalities use different ones.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        router: "per_modality": each stream chooses from one pool; "disjoint": from a pool of its own, an equal part of
            the experts; "joint": all streams together choose experts that read all of them.
        gate: What an expert's gate falls with: "laplace", the distance to its centre; "gaussian", the squared distance;
            or "softmax": no distance, a dot product.
        layers: Number of layers.
        experts: Number of experts E.
        top_k: Number k of experts that a stream is sent to.
        temperature: T.
        w_balance: Weight of the squared coefficients of variation of the experts' gates and loads.
        w_entropy: Weight of the entropies of the modalities' gates; only with the router "per_modality".
        hidden: Width of the experts' hidden layers.
        dropout: Dropout of experts, branches and read-out.

    Raises:
        ConfigurationError: If a pool has fewer experts than are to be chosen.

    Source:
        :cite:`han2024fusemoe`, with the noise and the balance of :cite:`shazeer2017outrageously`. Deviations: a stream
        is one pooled vector, so that there is no attention over time; experts' results are added, not their
        exponentials; the centres start at the scale of the normalised streams, and the noise small; predictions are
        without noise.
    """

    title = "FuseMoE: sparse experts"
    summary = "layers of sparse experts, chosen by their distance to each modality's stream"
    references = ("han2024fusemoe", "shazeer2017outrageously")
    couples_rows = True
    uses_unlabelled = True
    PRESETS: ClassVar = {"paper": {"layers": 3, "experts": 16, "top_k": 4, "hidden": 512}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        router: Literal["per_modality", "disjoint", "joint"] = "per_modality",
        gate: Literal["laplace", "gaussian", "softmax"] = "laplace",
        layers: Size = 2,
        experts: Size = 8,
        top_k: Size = 2,
        temperature: Positive = 1.0,
        w_balance: Weight = 0.01,
        w_entropy: Weight = 0.01,
        hidden: Size = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        m = len(schema.names)
        in_pool = experts // m if router == "disjoint" else experts
        if top_k > in_pool:
            raise ConfigurationError("fewer experts than are to be chosen", expected=f"top_k ≤ {in_pool}", got=top_k)
        self.loss_weights = {"balance": w_balance, "entropy": w_entropy}
        self.router = router
        self.encoders = encoders_for(schema, encoders)
        width = width_of(self.encoders)
        self.kinds = nn.Parameter(0.02 * torch.randn(m, width))
        self.absent = nn.Parameter(0.02 * torch.randn(m, width))
        routing = {"gate": gate, "top_k": top_k, "temperature": temperature}
        self.layers = nn.ModuleList(
            ExpertLayer(m, width, router, in_pool, hidden=hidden, dropout=dropout, **routing) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        together = m * width
        self.residual = nn.Sequential(
            nn.Linear(together, together), nn.ReLU(), nn.Dropout(dropout), nn.Linear(together, together)
        )
        self.head = nn.Linear(together, schema.task.n_outputs)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C), without noise."""
        return self.routed(batch, None)[0]

    def routed(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, list[list[Routing]]]:
        """Outputs (B, C), and where each layer's routers sent the streams, with noise from a generator or without."""
        features, observed = encode_pooled(self.encoders, batch)
        streams = torch.where(observed[..., None], features + self.kinds, self.absent)  # (B, M, D)
        routings = []
        for layer in self.layers:
            streams, routing = layer(streams, generator)
            routings.append(routing)
        together = self.norm(streams).flatten(1)
        return self.head(together + self.residual(together)), routings

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss, and the balance and entropy of the gates over the batch; see `Method.objective`."""
        outputs, routings = self.routed(batch, generator)
        balance = [squared_variation(r.gates.sum(0)) + squared_variation(r.load) for layer in routings for r in layer]
        terms = {"task": self.task_term(outputs, batch), "balance": torch.stack(balance).sum()}
        if self.router == "per_modality":
            usage = [torch.stack([r.probabilities.mean(0) for r in layer]) for layer in routings]
            terms["entropy"] = torch.stack([entropy_term(part) for part in usage]).mean()
        return LossTerms(terms, {name: weight for name, weight in self.loss_weights.items() if name in terms})


class ExpertLayer(nn.Module):
    """One layer: the experts' mixture of the streams, then a feed-forward part for each, both as branches.

    Args:
        n_modalities: Number of streams M.
        width: Their width D.
        router: As of `FuseMoE`.
        in_pool: Number of experts in a pool.
        hidden: Width of the experts' hidden layers.
        dropout: Dropout.
        **routing: Options of `Router`.
    """

    def __init__(
        self, n_modalities: int, width: int, router: str, in_pool: int, *, hidden: int, dropout: float, **routing: Any
    ):
        super().__init__()
        joint = router == "joint"
        in_width = n_modalities * width if joint else width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_modalities))
        self.routers = nn.ModuleList(Router(in_width, in_pool, **routing) for _ in range(1 if joint else n_modalities))
        self.pools = nn.ModuleList(
            ExpertPool(in_pool, in_width, n_modalities * width, hidden=hidden, dropout=dropout)
            for _ in range(n_modalities if router == "disjoint" else 1)
        )
        self.feedforward = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(4 * width, width),
            )
            for _ in range(n_modalities)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, streams: Tensor, generator: torch.Generator | None) -> tuple[Tensor, list[Routing]]:
        """Streams (B, M, D) to streams, and where each router sent them."""
        inputs = torch.stack([norm(z) for norm, z in zip(self.norms, streams.unbind(1))], dim=1)
        if len(self.routers) < inputs.shape[1]:
            inputs = inputs.flatten(1)[:, None]  # one input of all streams
        routings = [router(x, generator) for router, x in zip(self.routers, inputs.unbind(1))]
        gates = torch.stack([routing.gates for routing in routings], dim=1)  # (B, inputs, E)
        if len(self.pools) == 1:
            mixed = self.pools[0](inputs.flatten(0, 1), gates.flatten(0, 1)).view(*gates.shape[:2], -1).sum(1)
        else:
            parts = [pool(x, g) for pool, x, g in zip(self.pools, inputs.unbind(1), gates.unbind(1))]
            mixed = torch.stack(parts).sum(0)  # (B, M · D)
        streams = streams + self.dropout(mixed.view_as(streams))
        moved = torch.stack([part(z) for part, z in zip(self.feedforward, streams.unbind(1))], dim=1)
        return streams + self.dropout(moved), routings


def entropy_term(usage: Tensor) -> Tensor:
    r"""Mean entropy of the modalities' distributions over experts less the entropy of their mean, in nats.

    .. math:: \frac1M \sum_m H(\bar p_m) - H\Bigl(\frac1M \sum_m \bar p_m\Bigr)

    Args:
        usage: Each modality's mean distribution over experts, of shape (M, E).

    Returns:
        From −log M, where modalities are sure of different experts, to 0, where all use the same.

    Example:
        >>> entropy_term(torch.eye(2))
        tensor(-0.6931)
    """
    return torch.special.entr(usage).sum(1).mean() - torch.special.entr(usage.mean(0)).sum()
