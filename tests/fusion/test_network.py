"""The network that several methods share, by hand."""

import pytest
import torch

from amodal.errors import UnknownNameError
from amodal.fusion import Concatenate, FusionTransformer, MeanOfPresent, build_fusion
from amodal.fusion.network import FusionNetwork, Head


def test_a_head_without_hidden_layer_is_linear():
    head = Head(3, 2, hidden=0, dropout=0.9)
    x = torch.randn(5, 3)
    (linear,) = head.layers
    assert torch.equal(head(x), torch.nn.functional.linear(x, linear.weight, linear.bias))


def test_a_head_with_a_hidden_layer():
    head = Head(3, 2, hidden=7, dropout=0.5).eval()
    first, _, _, last = head.layers
    x = torch.randn(5, 3)
    expected = torch.nn.functional.gelu(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(head(x), expected)


def test_the_head_reads_presence_beside_the_fused_vector():
    network = FusionNetwork(MeanOfPresent(2, 3), 1, hidden=0)
    (linear,) = network.head.layers
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0, 20000.0]]))
        linear.bias.zero_()
    features = torch.tensor([[[1.0, 2.0, 3.0], [9.0, 9.0, 9.0]]])
    assert network(features, torch.tensor([[True, False]])).item() == 1 + 20 + 300 + 1000
    assert network(features, torch.tensor([[True, True]])).item() == 5 + 55 + 600 + 21000


def test_fusions_by_name_with_options():
    assert isinstance(build_fusion("transformer", 2, 8), FusionTransformer)
    learned = build_fusion({"name": "concatenate", "fill": "learned"}, 2, 8)
    assert isinstance(learned, Concatenate)
    assert learned.learned.shape == (2, 8)
    assert build_fusion("concatenate", 2, 8, fill="mean").fill == "mean"
    assert build_fusion({"fill": "zero"}, 2, 8).fill == "zero"


def test_unknown_fusions_and_options_are_errors():
    with pytest.raises(UnknownNameError, match=r"unknown fusion 'transfomer'.*Did you mean 'transformer'"):
        build_fusion("transfomer", 2, 8)
    with pytest.raises(UnknownNameError, match="unknown option of fusion 'transformer' 'layer'.*Did you mean 'layers'"):
        build_fusion({"name": "transformer", "layer": 2}, 2, 8)
    with pytest.raises(UnknownNameError, match="unknown option of fusion 'mean' 'fill'"):
        build_fusion("mean", 2, 8, fill="zero")
