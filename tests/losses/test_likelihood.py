import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, log_softmax

from amodal.losses.likelihood import target_nats

DRAW = torch.Generator().manual_seed(0)


def test_classes():
    outputs, target = torch.randn(3, 4, 5, generator=DRAW), torch.tensor([0, 4, 2, 2])
    expected = -log_softmax(outputs.numpy(), axis=-1)[:, np.arange(4), target.numpy()]
    np.testing.assert_allclose(target_nats(outputs, target, "multiclass").numpy(), expected, rtol=1e-5)


def test_labels_are_independent_and_unknown_ones_left_out():
    outputs = torch.randn(3, 2, 2, generator=DRAW)
    target = torch.tensor([[1.0, 0.0], [torch.nan, 1.0]])
    p = expit(outputs.numpy())
    first = -stats.bernoulli.logpmf(1, p[:, 0, 0]) - stats.bernoulli.logpmf(0, p[:, 0, 1])
    second = -stats.bernoulli.logpmf(1, p[:, 1, 1])
    expected = np.stack([first, second], axis=1)
    np.testing.assert_allclose(target_nats(outputs, target, "multilabel").numpy(), expected, rtol=1e-5)


def test_regression_is_normal_with_unit_variance():
    outputs, target = torch.randn(3, 4, 1, generator=DRAW), torch.randn(4, generator=DRAW)
    expected = -stats.norm.logpdf(target.numpy(), outputs[..., 0].numpy()) - 0.5 * np.log(2 * np.pi)
    found = target_nats(outputs, target, "regression").numpy()
    assert found == pytest.approx(expected, abs=1e-5)
