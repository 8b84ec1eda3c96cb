"""DRIM: shared codes that agree across modalities, and unique codes that a critic cannot link to them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch, rows_where
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.losses.contrast import soft_contrast
from amodal.losses.masked import connected_zero, mean_over_observed
from amodal.method import LossTerms, NetworkMethod, OptimiserSettings
from amodal.options import Positive, Share, Size, Weight
from amodal.schema import Schema

__all__ = ["DRIM"]


class DRIM(NetworkMethod):
    r"""A shared and a unique code of each modality, and attention over those that are present.

    Both codes, :math:`s_m` and :math:`u_m`, have length one. A fusion reads the shared codes, a second one the unique
    codes and what the first one gave; an absent modality is no token of either. Two optimisers share a forward pass:

    .. math::
        L_{main} = L_{task} + \alpha \, L_{shared} + \gamma \sum_m \overline{-\log D_m(s_m, u_m)}, \qquad
        L_{critic} = \sum_m \overline{-\log D_m(s'_m, u_m)} + \overline{-\log(1 - D_m(s_m, u_m))}

    :math:`L_{shared}` is the supervised contrast over all present codes of the batch, with a case's other modalities as
    positives. The critic :math:`D_m` tells pairs of one case from pairs of two (:math:`s'_m` is another case's code);
    unique codes should not let it. Shared codes are constants there.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        copies: Whether unique codes come from encoders of their own, which double the cost, or from a second network on
            the same encoder's vector.
        hidden: Width of the codes.
        heads: Attention heads of both fusions.
        head_width: Width of each head.
        softmax: What attention divides by: one more than the sum of exponentials ("exact", as the paper says), or, as
            its code, one more than their sum after the largest was divided out ("released").
        temperature: Of the contrast.
        w_shared: Weight :math:`\alpha`.
        w_unique: Weight :math:`\gamma`.
        dropout: Dropout of networks, fusions and critics.

    Source:
        :cite:`robinet2024drim` and its code. Deviations: cases with one modality train too; the contrast is averaged
        over codes that have a positive; another case is drawn at random.
    """

    title = "DRIM: shared, unique"
    summary = "shared codes that agree across modalities, unique ones that a critic cannot link to them, attention"
    references = ("robinet2024drim",)
    couples_rows = True
    uses_unlabelled = True
    optimisers: Mapping[str, OptimiserSettings] = {
        "main": OptimiserSettings(),
        "critic": OptimiserSettings(kind="adamw", learning_rate=1e-3, weight_decay=3e-4),
    }

    PRESETS: ClassVar = {"paper": {"copies": True, "hidden": 128, "heads": 16, "head_width": 64, "dropout": 0.2}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        copies: bool = False,
        hidden: Size = 64,
        heads: Size = 4,
        head_width: Size = 32,
        softmax: Literal["exact", "released"] = "exact",
        temperature: Positive = 0.07,
        w_shared: Weight = 1.0,
        w_unique: Weight = 0.8,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.temperature, self.weights = temperature, {"shared": w_shared, "unique": w_unique}
        self.encoders = encoders_for(schema, encoders)
        self.own_encoders = copy.deepcopy(self.encoders) if copies else None
        width = width_of(self.encoders)
        self.shared, self.unique = (
            PerModality({name: _layers(width, hidden, hidden, dropout=dropout) for name in self.encoders})
            for _ in range(2)
        )
        fusions = [QuietFusion(hidden, heads, head_width, dropout=dropout, softmax=softmax) for _ in range(2)]
        self.shared_fusion, self.unique_fusion = fusions
        self.head = nn.Linear(hidden, schema.task.n_outputs)
        self.critics = PerModality(
            {name: _layers(2 * hidden, 8 * hidden, 2 * hidden, 1, dropout=dropout) for name in self.encoders}
        )

    def codes(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Shared and unique codes, each (B, M, H) and of length one, and presence (B, M); meaningless where absent."""
        features, observed = encode_pooled(self.encoders, batch)
        own = features if self.own_encoders is None else encode_pooled(self.own_encoders, batch)[0]
        shared, unique = (
            functional.normalize(torch.stack([net(x[:, m]) for m, (_, net) in enumerate(nets.items())], dim=1), dim=-1)
            for nets, x in ((self.shared, features), (self.unique, own))
        )
        return shared, unique, observed

    def read(self, shared: Tensor, unique: Tensor, observed: Tensor) -> Tensor:
        """Outputs (B, C) of codes."""
        fused = self.shared_fusion(shared, observed)
        tokens = torch.cat([unique, fused[:, None]], dim=1)
        valid = torch.cat([observed, torch.ones_like(observed[:, :1])], dim=1)
        return self.head(self.unique_fusion(tokens, valid))

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C); see `NetworkMethod.outputs`."""
        return self.read(*self.codes(batch))

    def parameters_of(self, optimiser: str) -> list[nn.Parameter]:
        """The critics' parameters, or all others; see `Method.parameters_of`."""
        critics = {id(p) for p in self.critics.parameters()}
        return [p for p in self.parameters() if p.requires_grad and (id(p) in critics) == (optimiser == "critic")]

    def objectives(self, batch: Batch, generator: torch.Generator) -> dict[str, LossTerms]:
        """Task, contrast and what the critics find, and the critics' own loss; see `Method.objectives`."""
        shared, unique, observed = self.codes(batch)
        linked, critic = self._linked(shared, unique, observed, generator)
        terms = {
            "task": self.task_term(self.read(shared, unique, observed), batch),
            "shared": self._contrast(shared, observed),
            "unique": linked,
        }
        return {"main": LossTerms(terms, self.weights), "critic": LossTerms({"critic": critic})}

    def _contrast(self, shared: Tensor, observed: Tensor) -> Tensor:
        """Mean over codes with a positive: a scalar."""
        (places,) = rows_where(observed.flatten())
        codes = shared.flatten(0, 1)[places]  # (n, H): what is absent is neither anchor nor candidate
        case = places // observed.shape[1]
        positive = (case[:, None] == case).to(codes.dtype)
        others = ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
        values, anchors = soft_contrast(codes, codes, positive, temperature=self.temperature, counted=others)
        return mean_over_observed(values, anchors)

    def _linked(
        self, shared: Tensor, unique: Tensor, observed: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Losses of the unique codes and of the critics, each a sum over the modalities of two or more rows."""
        ours, theirs = [connected_zero(unique)], [connected_zero(*self.critics.parameters())]
        found = rows_where(*observed.unbind(1))
        for m, (rows, (_, critic)) in enumerate(zip(found, self.critics.items())):
            if len(rows) < 2:
                continue
            s, u = shared[rows, m].detach(), unique[rows, m]
            other = s[draw_others(len(rows), generator)]
            ours.append(_nats(critic(torch.cat([s, u], dim=1)), True))
            joint, product = torch.cat([s, u.detach()], dim=1), torch.cat([other, u.detach()], dim=1)
            theirs.append(_nats(critic(product), True) + _nats(critic(joint), False))
        return torch.stack(ours).sum(), torch.stack(theirs).sum()

    def monitor(self, batch: Batch) -> dict[str, float]:
        """The critics' accuracy on pairs of one and of two cases: one half where they learn nothing."""
        shared, unique, observed = self.codes(batch)
        right = []
        for m, (_, critic) in enumerate(self.critics.items()):
            s, u = shared[observed[:, m], m], unique[observed[:, m], m]
            right += [critic(torch.cat([s, u], dim=1)) < 0, critic(torch.cat([s.roll(1, 0), u], dim=1)) > 0]
        return {"critic_accuracy": float(torch.cat(right).float().mean())} if observed.any() else {}


def draw_others(n: int, generator: torch.Generator) -> Tensor:
    """For each of n rows another row, each taken once: a random cycle through all of them, (n,).

    Example:
        >>> others = draw_others(5, torch.Generator().manual_seed(0))
        >>> sorted(others.tolist()), bool((others == torch.arange(5)).any())
        ([0, 1, 2, 3, 4], False)
    """
    order = torch.randperm(n, generator=generator, device=generator.device)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


class QuietFusion(nn.Module):
    """One layer of attention of a class token to itself and the valid tokens, which may attend to nothing.

    Args:
        width: Width H of the tokens.
        heads: Attention heads.
        head_width: Width of each.
        dropout: Dropout of the feed-forward part.
        softmax: As in `quiet_softmax`.
    """

    def __init__(self, width: int, heads: int, head_width: int, *, dropout: float, softmax: str):
        super().__init__()
        self.heads, self.softmax = heads, softmax
        self.first = nn.Parameter(0.02 * torch.randn(width))
        self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, heads * head_width, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head_width, width)
        self.feedforward = nn.Sequential(nn.LayerNorm(width), _layers(width, width, width, dropout=dropout))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens (B, L, H), never read where not valid (B, L), to the class token's state (B, H)."""
        first = self.first.expand(len(tokens), 1, -1).to(tokens.dtype)
        valid = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        states = self.norm(torch.where(valid[..., None], torch.cat([first, tokens], dim=1), 0.0))
        query, key, value = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, L or 1, D)
            for linear, x in ((self.query, states[:, :1]), (self.key, states), (self.value, states))
        )
        scores = query @ key.mT / math.sqrt(query.shape[-1])  # (B, heads, 1, L + 1)
        attended = (quiet_softmax(scores, valid[:, None, None], self.softmax) @ value).transpose(1, 2).flatten(2)
        state = first[:, 0] + self.out(attended[:, 0])
        return self.last_norm(state + self.feedforward(state))


def quiet_softmax(scores: Tensor, valid: Tensor, kind: str = "exact") -> Tensor:
    r"""Weights :math:`e^{x_i} / (1 + \sum_j e^{x_j})` over the last axis, which may all be near zero.

    Args:
        scores: Of shape (…, L).
        valid: Which of them count, bool, broadcastable.
        kind: "exact", or "released": the largest is subtracted before one is added, so that weights add up to at least
            one half.

    Returns:
        Weights of the shape of `scores`, zero where not valid.

    Example:
        >>> valid = torch.tensor([True, True])
        >>> quiet_softmax(torch.tensor([0.0, 0.0]), valid), quiet_softmax(torch.tensor([-9.0, -9.0]), valid)
        (tensor([0.3333, 0.3333]), tensor([0.0001, 0.0001]))
    """
    scores = torch.where(valid, scores, -math.inf)
    top = scores.amax(-1, keepdim=True)
    top = top.clamp_min(0.0) if kind == "exact" else torch.where(top.isfinite(), top, 0.0)
    top = top.detach()
    exponentials = (scores - top).exp()
    one = (-top).exp() if kind == "exact" else torch.ones_like(top)
    return exponentials / (one + exponentials.sum(-1, keepdim=True))


def _layers(*widths: int, dropout: float) -> nn.Sequential:
    """Linear maps between these widths, with GELU and dropout after all but the last."""
    parts: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        parts += [nn.GELU(), nn.Dropout(dropout)] if i else []
        parts.append(nn.Linear(before, after))
    return nn.Sequential(*parts)


def _nats(logits: Tensor, label: bool) -> Tensor:
    """Mean binary cross-entropy of logits (n, 1) with one label."""
    return functional.softplus(-logits if label else logits).mean()
