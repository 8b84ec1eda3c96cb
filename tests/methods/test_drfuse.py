"""DrFuse: the published forward and losses by hand, and what must hold for any number of modalities."""

import itertools
import math

import pytest
import torch
from contracts import cases
from torch.nn import functional

import amodal.methods.drfuse as module
from amodal.losses.masked import mean_over_rows
from amodal.methods.drfuse import DrFuse, mean_of_sigmoids
from amodal.schema import Schema

H = 4


def build(n=2, task="multilabel", **options):
    schema = Schema(cases.MODALITIES["tables"][:n], cases.TASKS[task])
    torch.manual_seed(0)
    return DrFuse(schema, cases.identities(schema), dropout=0.0, **options).eval()


def rows(method, observed, seed=1):
    batch = cases.make_batch(method.schema, observed, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (len(batch), 2), generator=draw).float()
    return type(batch)(batch.values, batch.observed, target=target)


PAIRED = torch.tensor([[True, True], [True, False], [True, True], [True, False], [True, True]])


@torch.no_grad()
def by_hand(method, batch):
    """The published two modalities, of which the second ("image") may be absent; each step as the sheet has it."""
    ehr, image, pair = batch.values["a"], batch.values["b"], batch.observed["b"]
    n = pair.sum()
    shared = [method.projector(x) for x in (ehr, image)]  # encoders are identities: own features are ehr and image
    both = torch.logit((shared[0].sigmoid() + shared[1].sigmoid()) / 2)
    fused = torch.where(pair[:, None], both, shared[0])
    tokens = torch.stack([ehr, image, fused], dim=1)
    maps = tokens @ method.attention.maps.weight.T + method.attention.maps.bias
    q, v, k = maps[..., :H], maps[..., H : 2 * H], maps[..., 2 * H :].reshape(len(ehr), 3, 2, H)
    query = torch.where(pair[:, None], q.mean(1), (q[:, 0] + q[:, 2]) / 2)
    scores = (
        torch.stack([torch.stack([(query * k[:, t, c]).sum(1) for t in range(3)], 1) for c in range(2)], 1) / H**0.5
    )
    scores[~pair, :, 1] = -math.inf
    weights = scores.softmax(2)  # (B, C, 3)
    attended = torch.stack([(weights[:, c, :, None] * v).sum(1) for c in range(2)], dim=1)  # (B, C, H)
    linear = attended @ method.attention.head.weight.T + method.attention.head.bias  # (B, C, C)
    final = linear.diagonal(dim1=1, dim2=2)

    bce = functional.binary_cross_entropy_with_logits
    heads = [method.own_heads["a"](ehr), method.own_heads["b"](image), method.shared_head(fused)]
    p1, p2 = (s.sigmoid() for s in shared)
    m = (p1 + p2) / 2
    jsd = 0.5 * (p1 * (p1 / m).log() + p2 * (p2 / m).log())[pair].sum() / n
    cosine = [functional.cosine_similarity(s, d).abs() for s, d in zip(shared, (ehr, image))]
    each = [bce(head, batch.target, reduction="none") for head in heads]
    ranking = []
    for one, two in ((1, 0), (2, 0), (2, 1)):
        sign = torch.where(each[one] < each[two], 1.0, -1.0)
        terms = (-sign * (weights[..., one] - weights[..., two])).clamp_min(0)[pair]
        ranking.append(terms.sum() / max(1, int((terms > 0).sum())))
    return final, weights, {
        "task": bce(final, batch.target),
        "shared": bce(heads[2], batch.target),
        "own": bce(heads[0], batch.target) + bce(heads[1][pair], batch.target[pair]),
        "alignment": jsd,
        "orthogonal": cosine[0].mean() + cosine[1][pair].mean(),
        "ranking": torch.stack(ranking).mean(),
    }  # fmt: skip


def test_the_published_forward_and_losses():
    method = build()
    batch = rows(method, PAIRED)
    final, weights, losses = by_hand(method, batch)
    parts = method.parts(batch)
    torch.testing.assert_close(parts.outputs, final)
    torch.testing.assert_close(parts.weights, weights)
    terms = method.objective(batch, torch.Generator())
    for name, value in losses.items():
        torch.testing.assert_close(terms.terms[name], value, msg=name)
    assert terms.weights["alignment"] == 0.01


@torch.no_grad()
def test_fusion_of_shared_features():
    """The mean of sigmoids, also of extreme numbers; equal ones and a single one come back."""
    draw = torch.Generator().manual_seed(0)
    for n in (2, 3, 5):
        h = 3 * torch.randn(50, n, 4, generator=draw, dtype=torch.float64)
        every = torch.ones(50, n, dtype=torch.bool)
        torch.testing.assert_close(mean_of_sigmoids(h, every), torch.logit(h.sigmoid().mean(1)))
        torch.testing.assert_close(mean_of_sigmoids(h[:, :1].expand(-1, n, -1), every), h[:, 0])
    only = torch.tensor([[False, True, False]])
    h = torch.tensor([[[math.nan], [-300.0], [math.inf]]])
    torch.testing.assert_close(mean_of_sigmoids(h, only), torch.tensor([[-300.0]]))


@torch.no_grad()
@pytest.mark.parametrize("pattern", list(itertools.product([True, False], repeat=3))[:-1])
def test_attention_is_over_what_is_present(pattern):
    method = build(3)
    batch = rows(method, torch.tensor([pattern] * 4))
    weights = method.parts(batch).weights
    torch.testing.assert_close(weights.sum(2), torch.ones(4, 2))
    assert not weights[..., :3][..., ~torch.tensor(pattern)].any()


@torch.no_grad()
def test_a_batch_without_a_pair_has_no_divergence_and_no_ranking(monkeypatch):
    method = build()
    alone = rows(method, torch.tensor([[True, False], [False, True]] * 3))
    terms = method.objective(alone, torch.Generator()).terms
    assert terms["alignment"] == 0
    assert terms["ranking"] == 0
    # Planted: the sum over all rows divided by the pairs, as in the release.
    monkeypatch.setattr(module, "jensen_shannon", lambda p, seen: p.exp().sum((1, 2)))
    monkeypatch.setattr(module, "mean_over_observed", lambda value, seen: mean_over_rows(value) / (seen.sum() + 1e-6))
    assert method.objective(alone, torch.Generator()).terms["alignment"] > 1e5


@torch.no_grad()
def test_ranking_is_zero_where_the_better_branch_has_the_larger_weight():
    method = build()
    batch = rows(method, torch.ones(4, 2, dtype=torch.bool))
    parts = method.parts(batch)
    sure = (20 * (2 * batch.target - 1))[:, None]
    outputs = torch.cat([sure, 0 * sure, -sure], dim=1)  # the first is right, the last wrong
    weights = torch.tensor([0.6, 0.3, 0.1]).expand(4, 2, 3)
    assert method._ranking(outputs, parts._replace(weights=weights), batch) == 0
    assert method._ranking(outputs, parts._replace(weights=weights.flip(2)), batch) > 0


@torch.no_grad()
def test_an_unknown_label_is_ranked_nowhere():
    method = build()
    batch = rows(method, torch.ones(4, 2, dtype=torch.bool))
    target = batch.target.clone()
    target[:, 1] = torch.nan
    some = type(batch)(batch.values, batch.observed, target=target)
    outputs = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    parts = method.parts(batch)
    zeroed = parts.weights.clone()
    zeroed[:, 1] = 0.0
    moved = parts.weights.clone()
    moved[:, 1] = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    one, two = (method._ranking(outputs, parts._replace(weights=w), some) for w in (parts.weights, moved))
    assert one == two
