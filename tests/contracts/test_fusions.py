"""What every fusion promises, over the whole registry."""

import copy
import inspect
import math
import re

import pytest
import torch
from safetensors.torch import load, save

from amodal.citation import bibliography
from amodal.fusion import FUSIONS, Concatenate, Fusion, build_fusion

N, D = 3, 8
CHOICES = [
    *({"name": name} for name in FUSIONS),
    {"name": "concatenate", "fill": "mean"},
    {"name": "concatenate", "fill": "learned"},
    {"name": "transformer", "absent": "learned"},
    {"name": "lstm", "hidden": 5, "layers": 2},
]
every_fusion = pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(map(str, c.values())))
HIDDEN = (0.0, 1e30, math.nan, math.inf)
PATTERNS = torch.tensor([[bool(code >> m & 1) for m in range(N)] for code in range(1, 2**N)])  # all but nothing


def make(choice: dict, seed: int = 0) -> Fusion:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fusion = build_fusion(choice, N, D)
        if getattr(fusion, "fill", "") == "mean":
            fusion(torch.randn(16, N, D), torch.ones(16, N, dtype=torch.bool))
    for module in fusion.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return fusion


def features(rows: int = len(PATTERNS), seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, N, D, generator=torch.Generator().manual_seed(seed))


@every_fusion
def test_shape_is_as_promised(choice):
    fusion = make(choice)
    fused = fusion(features(), PATTERNS)
    assert fused.shape == (len(PATTERNS), fusion.out_width)
    assert fused.isfinite().all()


@every_fusion
@pytest.mark.parametrize("training", [True, False])
def test_absent_features_are_never_read(choice, training):
    """Bitwise equal outputs, gradients and buffers, whatever absent slots hold; nothing flows into them."""
    results = []
    for hidden in HIDDEN:
        fusion = make(choice).train(training)
        given = torch.where(PATTERNS[..., None], features(), hidden).requires_grad_()
        fused = fusion(given, PATTERNS)
        (fused * torch.linspace(-1, 1, fused.numel()).view(fused.shape)).sum().backward()
        assert given.grad is not None
        assert not given.grad[~PATTERNS].any()
        results.append([fused, given.grad, *fusion.buffers(), *(p.grad for p in fusion.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@every_fusion
def test_nothing_present_is_finite(choice):
    fusion = make(choice)
    given = features(2).requires_grad_()
    fused = fusion(given, torch.tensor([[False] * N, [True] * N]))
    fused.square().sum().backward()
    assert fused.isfinite().all()
    assert all(p.grad.isfinite().all() for p in (given, *fusion.parameters()) if p.grad is not None)


@every_fusion
def test_gradients_reach_parameters_and_present_features(choice):
    fusion = make(choice)
    given = features().requires_grad_()
    fused = fusion(given, PATTERNS)
    (fused * torch.linspace(-1, 1, fused.numel()).view(fused.shape)).sum().backward()
    assert given.grad is not None
    assert given.grad[PATTERNS].any(1).all()
    assert all(p.grad is not None and p.grad.any() for p in fusion.parameters())


@every_fusion
def test_rows_do_not_influence_one_another(choice):
    fusion = make(choice).eval()
    together = fusion(features(), PATTERNS)
    for row, pattern in enumerate(PATTERNS):
        alone = fusion(features()[row : row + 1], pattern[None])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


@every_fusion
def test_state_is_saved_and_loaded(choice):
    fusion, other = make(choice, seed=1).eval(), make(choice, seed=2).eval()
    other.load_state_dict(load(save(fusion.state_dict())))
    assert torch.equal(other(features(), PATTERNS), fusion(features(), PATTERNS))
    assert torch.equal(copy.deepcopy(fusion)(features(), PATTERNS), fusion(features(), PATTERNS))


@every_fusion
def test_bfloat16_is_finite_and_near(choice):
    fusion = make(choice).eval()
    expected = fusion(features(), PATTERNS)
    for given in (features(), features().bfloat16()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = fusion(given, PATTERNS)
        torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


@every_fusion
def test_order_of_modalities_matters_as_documented(choice):
    """A mean does not know which modality is which; every other fusion does."""
    fusion = make(choice).eval()
    whole = torch.ones(4, N, dtype=torch.bool)
    swapped = fusion(features(4)[:, [1, 0, 2]], whole)
    same = torch.allclose(swapped, fusion(features(4), whole), atol=1e-6)
    assert same == (choice["name"] == "mean")


@pytest.mark.parametrize("name", list(FUSIONS))
def test_is_documented(name):
    fusion = FUSIONS[name]
    text = inspect.getdoc(fusion) or ""
    assert not (set(fusion.references) | set(re.findall(r":cite:`([^`]+)`", text))) - set(bibliography())
    parameters = list(inspect.signature(fusion).parameters)
    documented = re.findall(r"(?m)^    (\w+):", text.split("Args:")[1].split("\n\n")[0])
    assert documented == parameters
    assert parameters[:2] == ["n_modalities", "width"]


def test_every_concrete_fusion_is_registered():
    found = {cls for cls in Fusion.__subclasses__() if not inspect.isabstract(cls)}
    assert found == set(FUSIONS.values())
    assert next(iter(FUSIONS.values())) is Concatenate
