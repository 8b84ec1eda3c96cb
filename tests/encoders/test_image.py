"""Image encoders: MultiBench's LeNet against its published sizes, and the small network on any size."""

import pytest
import torch
from torch import nn

from amodal.encoders.image import ConvNet, LeNet
from amodal.errors import ConfigurationError
from amodal.schema import Modality

VISION, AUDIO = Modality("v", "image", (1, 28, 28)), Modality("a", "image", (1, 112, 112))


def convolutions(encoder: nn.Module) -> list[int]:
    return [m.weight.numel() for m in encoder.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("modality", "channels", "weights", "sides"),
    [
        (VISION, 6, [150, 648, 2_592, 10_368], [14, 7, 3, 1]),
        (AUDIO, 6, [150, 648, 2_592, 10_368, 41_472, 165_888], [56, 28, 14, 7, 3, 1]),
        (VISION, 3, [75, 162, 648, 2_592], [14, 7, 3, 1]),
        (AUDIO, 3, [75, 162, 648, 2_592, 10_368, 41_472], [56, 28, 14, 7, 3, 1]),
    ],
)
def test_lenet_has_multibench_s_layers(modality, channels, weights, sides):
    """Kernel sizes of the stored encoders (c = 3) and of the scripts (c = 6), and the maps they give."""
    encoder = LeNet(modality, width=128, channels=channels)
    assert convolutions(encoder) == weights
    assert all(m.bias is None for m in encoder.modules() if isinstance(m, nn.Conv2d))
    stage_map, _ = encoder.begin(torch.randn(1, *modality.shape))
    for i, (stage, side) in enumerate(zip(encoder.blocks, sides)):
        # published with ReLU before the maximum, which is the same function (the next test) for four times the work
        assert [type(part).__name__ for part in stage] == ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
        stage_map = encoder.run_stage(i, stage_map, None)
        assert stage_map.shape == (1, channels * 2**i, side, side)
    assert encoder.stage_widths[-1] == (8 if modality is VISION else 32) * channels
    assert encoder.n_tokens == 1
    assert encoder.project.weight.shape == (128, encoder.stage_widths[-1])


def test_lenet_is_the_published_chain_written_out():
    encoder = LeNet(VISION, width=5).eval()
    images = torch.randn(3, 1, 28, 28)
    x = images
    for i, block in enumerate(encoder.blocks):
        conv, norm = block[0], block[1]
        x = nn.functional.conv2d(x, conv.weight, padding=2 if i == 0 else 1)
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        x = (x - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        x = nn.functional.max_pool2d(x.relu(), 2)
    expected = encoder.project(x.flatten(1))
    torch.testing.assert_close(encoder(images).pooled, expected, rtol=1e-5, atol=1e-5)


def test_lenet_starts_kaiming_uniform():
    encoder = LeNet(VISION, width=64)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = (6 / module.weight[0].numel()) ** 0.5
            assert 0.8 * bound < module.weight.abs().max() <= bound


def test_lenet_batch_statistics_see_present_rows_only():
    """Rows that lack the image must not move the running mean towards their placeholder."""
    from amodal.batch import Batch
    from amodal.encoders import encode_present

    images, observed = torch.randn(6, 1, 28, 28) + 5, torch.tensor([True, False] * 3)
    encoder, other = LeNet(VISION, width=4).train(), LeNet(VISION, width=4).train()
    other.load_state_dict(encoder.state_dict())
    encode_present(encoder, Batch({"v": images}, {"v": observed}), "v")
    other(images[observed])
    assert torch.equal(encoder.blocks[0][1].running_mean, other.blocks[0][1].running_mean)
    assert encoder.blocks[0][1].running_mean.any()


def test_lenet_with_fewer_blocks_has_a_token_for_each_cell():
    encoder = LeNet(VISION, width=4, additional_layers=1).eval()
    tokens, _, pooled = encoder(torch.randn(2, 1, 28, 28))
    assert tokens.shape == (2, 49, 4)
    assert encoder.n_tokens == 49
    torch.testing.assert_close(pooled, tokens.mean(1))


@pytest.mark.parametrize("side", [2, 3, 4, 5, 9, 17])
def test_lenet_trains_on_one_small_image(side):
    encoder = LeNet(Modality("v", "image", (1, side, side)), width=4).train()
    encoder(torch.randn(1, 1, side, side)).pooled.sum().backward()


def test_lenet_refuses_images_that_are_too_small():
    with pytest.raises(ConfigurationError, match=r"images of modality 'v' are too small .*expected sides of 2 or more"):
        LeNet(Modality("v", "image", (1, 1, 9)), width=4)
    with pytest.raises(ConfigurationError, match=r"expected sides of 64 or more, got 28×28.*convnet"):
        LeNet(VISION, width=4, additional_layers=5)
    with pytest.raises(ConfigurationError, match=r"additional_layers of LeNet is out of range .*got -1"):
        LeNet(VISION, width=4, additional_layers=-1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (1, 4, 4), (3, 5, 3), (2, 9, 32), (1, 28, 28), (3, 112, 60)])
def test_convnet_takes_any_size(shape):
    encoder = ConvNet(Modality("v", "image", shape), width=16)
    tokens, valid, pooled = encoder(torch.randn(2, *shape))
    assert tokens.shape == (2, encoder.n_tokens, 16)
    assert encoder.n_tokens <= 16
    assert valid.all()
    assert pooled.shape == (2, 16)


def test_convnet_for_a_quadrant_of_a_digit_is_tiny():
    encoder = ConvNet(Modality("v", "image", (1, 4, 4)), width=64)
    assert sum(p.numel() for p in encoder.parameters()) < 100_000


@pytest.mark.parametrize(("side", "cells"), [(28, 28), (55, 55), (56, 28), (112, 28), (224, 28), (300, 38)])
def test_convnet_works_on_few_cells_of_large_images(side, cells):
    """The first convolution strides, so that cost does not grow with the pixels."""
    encoder = ConvNet(Modality("v", "image", (1, side, side)), width=8)
    first = encoder.stem[0]
    assert first(torch.zeros(1, 1, side, side)).shape[2:] == (cells, cells)
    assert encoder.n_tokens <= 16


def test_convnet_refuses_no_channels():
    with pytest.raises(ConfigurationError, match=r"channels of ConvNet is out of range .*got 0"):
        ConvNet(VISION, width=8, channels=0)
