"""MUSE: a graph of cases and modalities with features on its edges; contrasts make it blind to lost edges."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion.pooling import MeanOfPresent, track_mean
from amodal.losses.contrast import agreement_contrast, info_nce, label_agreement
from amodal.losses.masked import mean_over_observed, mean_over_rows
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Positive, Share, Size, Weight
from amodal.patterns import draw_strict_subset
from amodal.schema import Schema

__all__ = ["MUSE"]

FORGET = 0.95
"""Decay of the running means of messages, a step."""


class MUSE(NetworkMethod):
    r"""A bipartite graph: an edge where a case has a modality, with the modality's feature on it.

    In each layer a node averages messages over its edges, :math:`\mathrm{ReLU}(W_m [x_j; e_{j \to i}])`, and updates
    itself, :math:`x_i \leftarrow \mathrm{ReLU}(W_u [\bar m_i; x_i])`; between layers edges see both ends,
    :math:`e_{j \to i} \leftarrow \mathrm{ReLU}(W_e [x_j; x_i; e_{j \to i}])`. Case nodes begin at ones, modality nodes
    are learnt. A second view of the batch lacks some edges. With u and u' the projected embeddings of both views,
    minimised is

    .. math::
        L_{task} + a \, \mathrm{InfoNCE}(u, u') + b \, \tfrac12 \bigl[\ell(u u^\top) + \ell(u u'^\top)\bigr]

    where :math:`\ell` is the binary cross-entropy of similarities with the agreement of labels, over rows that have
    one: the same class, shared labels over labels of either, or a normal kernel of the values.

    From the second layer on a case hears of the others through the modality nodes. In training these are the rows of
    the batch; predictions use running means, over training, of what the modality nodes hear, and are functions of their
    row.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        hidden: Width of nodes and edges.
        layers: Layers of the graph network.
        edge_drop: Share of cases that lose a random number of their edges, but not all, in the second view.
        temperature: Of both contrasts.
        w_unsupervised: Weight a.
        w_supervised: Weight b.
        dropout: Dropout of features, of nodes between layers and of the classifier.

    Source:
        :cite:`wu2024muse` and its code. Deviations: predictions use running means; agreement of several labels and of
        values.
    """

    title = "MUSE: graph of cases"
    summary = "a graph of cases and modalities, with contrasts that make the embedding blind to lost edges"
    references = ("wu2024muse",)
    couples_rows = True
    uses_unlabelled = True

    PRESETS: ClassVar = {"paper": {"dropout": 0.25}}

    message_sum: Tensor
    message_count: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        hidden: Size = 128,
        layers: Size = 2,
        edge_drop: Share = 0.5,
        temperature: Positive = 0.07,
        w_unsupervised: Weight = 0.5,
        w_supervised: Weight = 0.5,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.edge_drop, self.temperature = edge_drop, temperature
        self.weights = {"unsupervised": w_unsupervised, "supervised": w_supervised}
        self.encoders = encoders_for(schema, encoders)
        n, width = len(self.encoders), width_of(self.encoders)
        self.features = PerModality({name: nn.Linear(width, hidden) for name in self.encoders})
        self.nodes = nn.Parameter(torch.randn(n, hidden))
        self.layers = nn.ModuleList(GraphLayer(n, hidden, last=i == layers - 1) for i in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())
        self.classifier = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, schema.task.n_outputs)
        )
        self.register_buffer("message_sum", torch.zeros(layers - 1, n, hidden))
        self.register_buffer("message_count", torch.zeros(1, n, 1))

    def edges(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What stands on the edges (B, M, H), and which there are (B, M)."""
        pooled, observed = encode_pooled(self.encoders, batch)
        features = torch.stack([f(pooled[:, m]) for m, (_, f) in enumerate(self.features.items())], dim=1)
        return self.dropout(torch.where(observed[..., None], features, 0.0)), observed

    def embed(self, edges: Tensor, observed: Tensor, heard: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Embeddings of cases.

        Args:
            edges: Of shape (B, M, H).
            observed: Which there are, bool, of shape (B, M).
            heard: Mean messages to the modality nodes, (layers − 1, M, H); None: those of these rows.

        Returns:
            Embeddings (B, H), and the messages to the modality nodes (B, M, H) in each layer but the last.
        """
        cases, nodes = torch.ones_like(edges[:, 0]), self.nodes
        to_case = to_node = edges  # equal in the first layer, apart after it
        told = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, GraphLayer)
            from_nodes = layer.messages(nodes.expand_as(to_case), to_case)
            mean = layer.mean(from_nodes, observed)  # (B, H); zero without an edge
            before, cases = cases, layer.update(mean, cases)
            if layer.edge is None:
                break
            messages = layer.messages(before[:, None].expand_as(to_node), to_node)
            told.append(messages)
            nodes = layer.update(_mean_of_rows(messages, observed) if heard is None else heard[i], nodes)
            cases, nodes = self.dropout(cases), self.dropout(nodes)
            spread, own = nodes.expand_as(to_case), cases[:, None].expand_as(to_case)
            to_case, to_node = layer.turn(spread, own, to_case), layer.turn(own, spread, to_node)
        return cases, told

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C), with the modality nodes as training left them; see `NetworkMethod.outputs`."""
        heard = self.message_sum / self.message_count.clamp(min=1e-12)
        return self.classifier(self.embed(*self.edges(batch), heard)[0])

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Task and both contrasts; see `Method.objective`."""
        edges, observed = self.edges(batch)
        cases, told = self.embed(edges, observed)
        if self.training and told:
            keep = observed[:, None, :, None]
            track_mean(self.message_sum, self.message_count, torch.stack(told, dim=1).detach(), keep, FORGET)
        loses = torch.rand(len(observed), 1, generator=generator, device=observed.device) < self.edge_drop
        kept = torch.where(loses, draw_strict_subset(observed, generator), observed)
        one, other = (functional.normalize(self.projection(x), dim=1) for x in (cases, self.embed(edges, kept)[0]))
        terms = {
            "task": self.task_term(self.classifier(cases), batch),
            "unsupervised": mean_over_rows(info_nce(one, other, temperature=self.temperature)),
            "supervised": self._supervised(one, other, batch.labels),
        }
        return LossTerms(terms, self.weights)

    def _supervised(self, one: Tensor, other: Tensor, target: Tensor) -> Tensor:
        """Contrast of labels within the first view and between both, over rows with a label: a scalar."""
        agreement, known = label_agreement(target, self.schema.task.kind)
        values = [
            agreement_contrast(one, x, agreement, temperature=self.temperature, counted=known) for x in (one, other)
        ]
        return mean_over_observed(0.5 * (values[0] + values[1]), known)

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Share of the embedding's coordinates that are zero for every row: the last layer ends in a ReLU."""
        cases, _ = self.embed(*self.edges(batch))
        return {"dead_coordinates": float((cases <= 0).all(0).float().mean())}


class GraphLayer(nn.Module):
    """One layer of the graph network, with the same weights in both directions; the last one leaves edges alone."""

    def __init__(self, n_modalities: int, width: int, *, last: bool):
        super().__init__()
        self.mean = MeanOfPresent(n_modalities, width)
        self.message, self.node = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.edge = None if last else nn.Linear(3 * width, width)

    def messages(self, source: Tensor, edge: Tensor) -> Tensor:
        """Messages along edges (…, H)."""
        return self.message(torch.cat([source, edge], dim=-1)).relu()

    def update(self, mean: Tensor, state: Tensor) -> Tensor:
        """New states of nodes (…, H) from their mean message."""
        return self.node(torch.cat([mean, state], dim=-1)).relu()

    def turn(self, source: Tensor, target: Tensor, edge: Tensor) -> Tensor:
        """New edges (…, H), the source first."""
        assert self.edge is not None
        return self.edge(torch.cat([source, target, edge], dim=-1)).relu()


def _mean_of_rows(messages: Tensor, observed: Tensor) -> Tensor:
    """Mean of messages (B, M, H) over each modality's edges: (M, H), zero without one."""
    total = torch.where(observed[..., None], messages, 0.0).sum(0)
    return total / observed.sum(0)[:, None].clamp(min=1)
