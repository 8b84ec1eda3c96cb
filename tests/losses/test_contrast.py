"""Contrasts against loops in numpy, torch's losses and scikit-learn's Jaccard index."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import jaccard_score
from torch.nn import functional

from amodal.errors import ShapeError
from amodal.losses.contrast import (
    agreement_contrast,
    domain_classification,
    info_nce,
    label_agreement,
    margin_ranking,
    soft_contrast,
)


def vectors(n, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_soft_contrast_is_a_loop_over_anchors():
    anchors, candidates = vectors(4), vectors(7, seed=1)
    draw = torch.Generator().manual_seed(2)
    weights = torch.rand(4, 7, generator=draw, dtype=torch.float64)
    counted = torch.rand(4, 7, generator=draw) < 0.6
    counted[3] = False
    counted[:3, 0] = True
    values, some = soft_contrast(anchors, candidates, weights, temperature=0.3, counted=counted)
    expected = np.zeros(4)
    for i in range(3):
        keep = counted[i].numpy()
        logs = log_softmax((candidates.numpy() @ anchors[i].numpy() / 0.3)[keep])
        w = weights[i].numpy()[keep]
        expected[i] = -(w * logs).sum() / w.sum()
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert some.tolist() == [True, True, True, False]


def test_soft_contrast_of_equal_codes_counts_the_candidates():
    codes = torch.ones(12, 3)
    others = ~torch.eye(12, dtype=torch.bool)
    positive = others & (torch.arange(12)[:, None] % 4 == torch.arange(12) % 4)
    values, _ = soft_contrast(codes, codes, positive.float(), temperature=0.07, counted=others)
    torch.testing.assert_close(values, torch.full((12,), math.log(11)))


def test_what_is_not_counted_cannot_matter_and_gets_no_gradient():
    """Not even NaN: an anchor without candidates, and candidates that nobody is compared with."""
    codes = vectors(5).requires_grad_()
    counted = torch.ones(5, 5, dtype=torch.bool)
    counted[4], counted[:, 4] = False, False
    values, some = soft_contrast(codes, codes, torch.ones(5, 5), temperature=0.1, counted=counted)
    (slope,) = torch.autograd.grad(values.sum(), codes)
    assert torch.isfinite(slope).all()
    assert not slope[4].any()
    assert not some[4]


def test_info_nce_is_torchs_cross_entropy_in_both_directions():
    one, other = vectors(6), vectors(6, seed=1)
    logits, own = one @ other.T / 0.07, torch.arange(6)
    expected = 0.5 * (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own))
    torch.testing.assert_close(info_nce(one, other, temperature=0.07).mean(), expected)
    counted = torch.tensor([True, False, True, True, False, True])
    some = info_nce(one, other, temperature=0.07, counted=counted)
    torch.testing.assert_close(some[counted], info_nce(one[counted], other[counted], temperature=0.07))
    assert not some[~counted].any()


def test_one_row_has_nothing_to_be_told_from():
    assert info_nce(vectors(1), vectors(1, seed=1), temperature=0.03).item() == 0.0


def test_agreement_contrast_is_torchs_binary_cross_entropy():
    one, other, target = vectors(6), vectors(6, seed=1), vectors(6, 6, seed=2).sigmoid()
    logits = one @ other.T / 0.5
    expected = functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(agreement_contrast(one, other, target, temperature=0.5).mean(), expected)
    counted = torch.arange(6) < 4
    some = agreement_contrast(one, other, target, temperature=0.5, counted=counted)
    part = functional.binary_cross_entropy_with_logits(logits[:4, :4], target[:4, :4])
    torch.testing.assert_close(some[counted].mean(), part)
    assert not some[4:].any()
    assert agreement_contrast(one, other, target, temperature=0.5, counted=counted & False).tolist() == [0.0] * 6


def test_agreement_of_labels_is_scikit_learns_jaccard_index():
    labels = (vectors(8, 4) > 0).double()
    labels[0] = 0.0
    found, known = label_agreement(labels, "multilabel")
    expected = [[jaccard_score(a, b, zero_division=1.0) for b in labels.numpy()] for a in labels.numpy()]
    np.testing.assert_allclose(found, expected)
    assert known.all()
    labels[1, 2:], labels[2] = torch.nan, torch.nan
    found, known = label_agreement(labels, "multilabel")
    assert found[1, 3].item() == jaccard_score(labels[1, :2], labels[3, :2], zero_division=1.0)
    assert not found[2].any()
    assert known.tolist() == [True, True, False, *[True] * 5]


def test_agreement_of_classes_and_values():
    found, _ = label_agreement(torch.tensor([0, 2, 0]), "multiclass")
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    soft, _ = label_agreement(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), "binary")
    assert soft.tolist() == [[0.5, 0.5], [0.5, 1.0]]
    near, known = label_agreement(torch.tensor([0.0, 2.0, torch.nan]), "regression")
    torch.testing.assert_close(near[0], torch.tensor([1.0, math.exp(-2.0), 0.0]))
    assert known.tolist() == [True, True, False]


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_margin_ranking_is_torchs(margin):
    one, other = vectors(9, 1)[:, 0], vectors(9, 1, seed=1)[:, 0]
    loss = torch.nn.MarginRankingLoss(margin=margin, reduction="none")
    torch.testing.assert_close(margin_ranking(one, other, margin=margin), loss(other, one, torch.ones(9)))


def test_domain_classification_is_torchs_cross_entropy_of_the_position():
    logits = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0))
    observed = torch.tensor([[True, True, True], [True, False, True], [False, False, True]] + [[True, True, False]] * 2)
    found = domain_classification(logits, observed)
    expected = functional.cross_entropy(logits[observed], observed.nonzero()[:, 1], reduction="none")
    torch.testing.assert_close(found[observed], expected)
    assert not found[~observed].any()
    assert domain_classification(torch.zeros(2, 3, 3), observed[:2])[0, 0].item() == pytest.approx(math.log(3))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="weights do not fit"):
        soft_contrast(vectors(3), vectors(4), torch.ones(3, 3), temperature=1.0)
    with pytest.raises(ShapeError, match="logits of modalities"):
        domain_classification(torch.zeros(2, 3, 2), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ShapeError, match="to be ranked"):
        margin_ranking(torch.zeros(2), torch.zeros(3))
