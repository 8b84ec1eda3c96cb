"""Alignment losses against scikit-learn and SciPy, pair by pair, and under every pattern of presence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.metrics import mean_absolute_error
from sklearn.metrics.pairwise import cosine_similarity

from amodal.errors import ConfigurationError, ShapeError
from amodal.losses.alignment import absolute_alignment, cosine_alignment, kl_alignment, pairs_observed
from amodal.losses.masked import mean_over_observed

NAMES = ("ecg", "labs", "notes", "image")
NAN = float("nan")
LOSSES = pytest.mark.parametrize("loss", [cosine_alignment, kl_alignment, absolute_alignment])


def patterns(modalities):
    """Features of one row for each of the 2^M patterns of presence, and that presence."""
    presence = torch.tensor(list(itertools.product([False, True], repeat=modalities)))
    g = torch.Generator().manual_seed(0)
    z = {name: torch.randn(len(presence), 5, generator=g, dtype=torch.float64) for name in NAMES[:modalities]}
    return z, {name: presence[:, m] for m, name in enumerate(NAMES[:modalities])}


def by_pairs(z, observed, pair_value):
    rows = len(next(iter(z.values())))
    out = np.zeros(rows)
    for i in range(rows):
        pairs = [(a, b) for a, b in itertools.combinations(z, 2) if observed[a][i] and observed[b][i]]
        values = [pair_value(z[a][i].numpy(), z[b][i].numpy()) for a, b in pairs]
        out[i] = np.mean(values) if values else 0
    return out


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_cosine_is_scikit_learns_over_the_observed_pairs(modalities):
    z, observed = patterns(modalities)
    expected = by_pairs(z, observed, lambda a, b: 1 - cosine_similarity(a[None], b[None]).item())
    np.testing.assert_allclose(cosine_alignment(z, observed), expected, atol=1e-12)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_absolute_is_scikit_learns_over_the_observed_pairs(modalities):
    z, observed = patterns(modalities)
    expected = by_pairs(z, observed, mean_absolute_error)
    np.testing.assert_allclose(absolute_alignment(z, observed), expected, atol=1e-12)


@pytest.mark.parametrize("modalities", [2, 3, 4])
@pytest.mark.parametrize("direction", ["forward", "reverse", "symmetric"])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_kl_is_scipys_over_the_observed_pairs(modalities, direction, temperature):
    z, observed = patterns(modalities)

    def pair(a, b):
        p, q = special.softmax(a / temperature), special.softmax(b / temperature)
        forward, reverse = stats.entropy(p, q), stats.entropy(q, p)
        return {"forward": forward, "reverse": reverse, "symmetric": (forward + reverse) / 2}[direction]

    ours = kl_alignment(z, observed, temperature=temperature, direction=direction)
    np.testing.assert_allclose(ours, by_pairs(z, observed, pair), rtol=1e-9, atol=1e-12)


def test_the_target_of_kl_is_constant():
    z, observed = patterns(2)
    z = {name: value.requires_grad_() for name, value in z.items()}
    kl_alignment(z, observed).sum().backward()
    assert z["ecg"].grad is None or not z["ecg"].grad.any()
    assert z["labs"].grad[3].any()
    z["labs"].grad = None
    kl_alignment(z, observed, direction="reverse").sum().backward()
    assert z["ecg"].grad[3].any()
    assert not z["labs"].grad[3].any()
    both = {name: value.detach().requires_grad_() for name, value in z.items()}
    kl_alignment(both, observed, detach_target=False).sum().backward()
    assert all(value.grad[3].any() for value in both.values())


@LOSSES
def test_what_stands_in_absent_rows_does_not_matter(loss):
    results = []
    for hidden in (0.0, 1e30, NAN, float("inf")):
        z, observed = patterns(3)
        z = {n: torch.where(observed[n][:, None], v, hidden).requires_grad_() for n, v in z.items()}
        value = loss(z, observed)
        value.sum().backward()
        results.append((value.detach(), *(z[n].grad for n in z)))
        assert not any(z[n].grad[~observed[n]].any() for n in z)
        assert all(tensor.isfinite().all() for tensor in results[-1])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@LOSSES
def test_equal_features_are_aligned_and_order_matters_only_for_one_sided_kl(loss):
    z, observed = patterns(3)
    same = dict.fromkeys(z, z["ecg"])
    np.testing.assert_allclose(loss(same, observed), 0, atol=1e-12)
    turned = {name: z[name] for name in reversed(z)}
    options = {"direction": "symmetric"} if loss is kl_alignment else {}
    torch.testing.assert_close(loss(z, observed, **options), loss(turned, observed, **options))
    if loss is kl_alignment:
        torch.testing.assert_close(loss(z, observed), loss(turned, observed, direction="reverse"))


@LOSSES
def test_gradients_are_finite_differences(loss):
    z, observed = patterns(3)
    options = {"detach_target": False} if loss is kl_alignment else {}
    inputs = tuple(value.requires_grad_() for value in z.values())
    assert torch.autograd.gradcheck(lambda *v: loss(dict(zip(z, v)), observed, **options), inputs)


@LOSSES
def test_rows_with_a_pair_and_batches_without_one(loss):
    z, observed = patterns(3)
    np.testing.assert_array_equal(pairs_observed(observed), sum(observed[n].int() for n in z) >= 2)
    nobody = {name: torch.zeros_like(value) for name, value in observed.items()}
    z = {name: value.requires_grad_() for name, value in z.items()}
    score = mean_over_observed(loss(z, nobody), pairs_observed(nobody))
    score.backward()
    assert score.item() == 0
    one = loss({n: v[-1:] for n, v in z.items()}, {n: v[-1:] for n, v in observed.items()})
    torch.testing.assert_close(one, loss(z, observed)[-1:])
    empty = loss({n: v[:0] for n, v in z.items()}, {n: v[:0] for n, v in observed.items()})
    assert empty.shape == (0,)


def test_low_precision_is_computed_in_float32():
    z, observed = patterns(2)
    half = {name: value.bfloat16() for name, value in z.items()}
    assert kl_alignment(half, observed).dtype == torch.float32


def test_bad_input():
    z, observed = patterns(2)
    with pytest.raises(ShapeError, match=r"two or more, got \['ecg'\]"):
        cosine_alignment({"ecg": z["ecg"]}, observed)
    with pytest.raises(ShapeError, match="presence is not given for every modality"):
        cosine_alignment(z, {"ecg": observed["ecg"]})
    with pytest.raises(ShapeError, match=r"expected \(B, D\) for all, got \{'ecg': \(4, 5\), 'labs': \(4, 3\)\}"):
        kl_alignment(z | {"labs": z["labs"][:, :3]}, observed)
    with pytest.raises(ConfigurationError, match=r"temperature must be positive \(expected > 0, got 0\)"):
        kl_alignment(z, observed, temperature=0)
    with pytest.raises(ConfigurationError, match="'forward', 'reverse' or 'symmetric', got 'both'"):
        kl_alignment(z, observed, direction="both")
