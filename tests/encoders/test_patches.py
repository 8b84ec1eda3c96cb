"""Patches: each token from its own pixels, in the order of the grid, for images of any size."""

import pytest
import torch
from torch import nn

from amodal.encoders.patches import PatchNet
from amodal.schema import Modality


def encoder_of(shape, **options):
    torch.manual_seed(0)
    return PatchNet(Modality("m", "image", shape), width=8, dropout=0.0, **options).eval()


@pytest.mark.parametrize(
    ("shape", "patch", "grid"),
    [
        ((1, 4, 4), 2, (2, 2)),
        ((3, 28, 28), 7, (4, 4)),
        ((1, 9, 7), 3, (3, 3)),
        ((1, 1, 1), 2, (1, 1)),
        ((1, 40, 10), 10, (4, 1)),
    ],
)
def test_at_most_four_patches_a_side(shape, patch, grid):
    encoder = encoder_of(shape)
    assert (encoder.patch, encoder.grid, encoder.n_tokens) == (patch, grid, grid[0] * grid[1])
    tokens, valid, pooled = encoder(torch.randn(2, *shape))
    assert tokens.shape == (2, encoder.n_tokens, 8)
    assert valid.all()
    assert pooled.shape == (2, 8)


def test_a_patch_of_two_pixels_is_a_linear_map_of_them():
    """Without convolutions, the token before its residual block by hand: rows and columns are not mixed up."""
    encoder = encoder_of((2, 4, 6), patch=2)
    encoder.block = nn.Identity()
    image = torch.randn(1, 2, 4, 6)
    tokens, _ = encoder.embed(image)
    for row in range(2):
        for column in range(3):
            pixels = image[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
            expected = encoder.token(pixels) + encoder.position[3 * row + column]
            torch.testing.assert_close(tokens[0, 3 * row + column], expected)


@pytest.mark.parametrize("shape", [(1, 9, 7), (2, 28, 28)])
def test_each_token_reads_its_own_patch(shape):
    encoder = encoder_of(shape)
    image = torch.randn(1, *shape, requires_grad=True)
    tokens, _ = encoder.embed(image)
    for at in range(encoder.n_tokens):
        (gradient,) = torch.autograd.grad(tokens[:, at].square().sum(), image, retain_graph=True)
        row, column = at // encoder.grid[1] * encoder.patch, at % encoder.grid[1] * encoder.patch
        inside = gradient[..., row : row + encoder.patch, column : column + encoder.patch]
        assert inside.any()
        inside.zero_()
        assert not gradient.any()
