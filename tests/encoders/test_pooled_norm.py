import copy

import pytest
import torch
from torch import nn

from amodal.encoders.pooled_norm import ConvolutionBlock, normalised_pool


def _norm(channels, *, negative):
    generator = torch.Generator().manual_seed(channels)
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=generator) + 0.2)
        norm.weight[: negative and 2] *= -1
        norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("shape", [(5, 3, 8, 6), (2, 6, 7, 9), (1, 4, 2, 3)])
def test_the_same_as_torch_s_three_layers(shape, negative, layout):
    """Values, gradients, running statistics; in double precision, so that only what is computed can differ."""
    theirs, ours = (_norm(shape[1], negative=negative).double() for _ in range(2))
    maps = (3 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).to(
        memory_format=layout
    )
    above = torch.randn(shape[0], shape[1], shape[2] // 2, shape[3] // 2, dtype=torch.float64)
    results = []
    for norm, function in (
        (theirs, lambda x, norm: nn.functional.max_pool2d(norm(x), 2).relu()),
        (ours, normalised_pool),
    ):
        x = maps.clone().requires_grad_()
        out = function(x, norm)
        out.backward(above)
        results.append([out, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
        assert norm.num_batches_tracked == 1
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_gradient_by_finite_differences():
    norm = _norm(3, negative=True).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normalised_pool(x, norm), (x,))


def test_a_large_mean_costs_no_precision():
    """E[x²] − mean² would be off by a tenth here."""
    maps = 1000 + torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    expected = nn.BatchNorm2d(3).double()(maps.double())
    out = normalised_pool(maps, nn.BatchNorm2d(3))
    torch.testing.assert_close(out.double(), nn.functional.max_pool2d(expected, 2).relu(), rtol=1e-3, atol=1e-3)


def test_of_equal_maxima_one_gets_the_gradient():
    norm = nn.BatchNorm2d(1)
    maps = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]]).permute(1, 0, 2, 3).clone()
    maps.requires_grad_()
    normalised_pool(maps, norm)[0].sum().backward()
    theirs = maps.detach().clone().requires_grad_()
    nn.functional.max_pool2d(nn.BatchNorm2d(1)(theirs), 2)[0].relu().sum().backward()
    assert maps.grad is not None
    assert theirs.grad is not None
    assert maps.grad.sum() == pytest.approx(theirs.grad.sum().item(), abs=1e-6)
    assert maps.grad[0, 0, 1, 0] > 0 > maps.grad[0, 0, 0, 1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_a_block_is_its_layers_one_by_one(training, weight):
    block = ConvolutionBlock(2, 4, 3).train(training)
    nn.init.constant_(block[1].weight[:1], weight)
    plain = nn.Sequential(*copy.deepcopy(list(block))).train(training)
    x = torch.randn(6, 2, 9, 12, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(block(x), plain(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)
    assert list(block.state_dict()) == list(plain.state_dict())


def test_half_precision_runs_torch_s_own_layers():
    block = ConvolutionBlock(1, 2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(torch.randn(3, 1, 8, 8))
    assert out.dtype == torch.bfloat16
    assert block[1].num_batches_tracked == 1
