"""Masks of a batch: nested, of exact counts, from one generator, with a gradient where it is meant to be."""

import pytest
import torch

from amodal.encoders import Tokens
from amodal.tokens.latent_prediction import LatentPredictor
from amodal.tokens.token_masks import TokenMasks

NAMES, WIDTH = ("image", "series", "table"), 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def masks_of(strategy, objective="cooperative", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        predictor = LatentPredictor(NAMES, WIDTH, layers=1, dropout=0.0)
        network = {"layers": 1, "dropout": 0.0}
        ratios = (0.25, 0.5)
        return TokenMasks(predictor, WIDTH, strategy=strategy, objective=objective, ratios=ratios, **network, **options)


@pytest.fixture
def rows():
    """Sixteen tokens on a grid, eight of which some are padding, and one; some rows lack a modality."""
    draw = generator(3)
    own = {
        "image": torch.ones(6, 16, dtype=torch.bool),
        "series": torch.arange(8) < torch.tensor([[8, 3, 5, 8, 1, 0]]).T,
    }
    own["table"] = torch.tensor([[True], [True], [False], [True], [True], [True]])
    own["image"][3] = False
    clean = {n: Tokens(torch.randn(*v.shape, WIDTH, generator=draw), torch.ones_like(v)) for n, v in own.items()}
    return own, clean


@pytest.mark.parametrize("strategy", ["random", "block", "cross_modal"])
def test_counts_nesting_and_reproducibility(strategy, rows):
    own, clean = rows
    masks = masks_of(strategy)
    assert masks.reads_tokens == (strategy == "cross_modal")
    less, more = ({n: h.detach() > 0.5 for n, h in hide.items()} for hide in masks(own, clean, generator()))
    for name, valid in own.items():
        assert not (less[name] & ~more[name]).any()
        assert not (more[name] & ~valid).any()
    full = own["image"].any(1)
    assert less["image"].sum(1)[full].tolist() == [4] * 5
    assert more["image"].sum(1)[full].tolist() == [8] * 5
    again = masks(own, clean, generator())[1]
    other = masks(own, clean, generator(1))[1]
    assert all(torch.equal(again[n].detach() > 0.5, more[n]) for n in own)
    if strategy != "cross_modal":
        assert any(not torch.equal(other[n], more[n]) for n in own)


def test_whole_modalities_are_hidden_at_random(rows):
    own, clean = rows
    for masks in (masks_of("modality"), masks_of("cross_modal", "frozen", whole=NAMES)):
        less, more = masks(own, clean, generator())
        for name, valid in own.items():
            assert torch.equal(more[name], valid & more[name].any(1, keepdim=True))
            assert not (less[name] & ~more[name]).any()
        left = torch.stack([(own[name] & ~more[name]).any(1) for name in own], 1)
        assert left.any(1).all()


def test_blocks_on_a_square_grid_are_rectangles_and_runs_elsewhere(rows):
    own, _ = rows
    _, more = masks_of("block", on_grid=["image"])(own, None, generator())
    for hide in more["image"][own["image"].any(1)].view(-1, 4, 4):
        down, across = hide.any(1).nonzero()[:, 0], hide.any(0).nonzero()[:, 0]
        assert (down[-1] - down[0] + 1) * (across[-1] - across[0] + 1) <= 12  # 8 cells, trimmed or filled at the rim
    for hide in more["series"][own["series"].sum(1) > 1]:
        at = hide.nonzero()[:, 0]
        assert torch.equal(at, torch.arange(at[0], at[-1] + 1))


def test_the_gradient_reaches_the_scores_straight_through_and_reversed(rows):
    own, clean = rows
    target = {n: torch.randn(v.shape, generator=generator(5)) for n, v in own.items()}
    found = {}
    for objective in ("cooperative", "adversarial", "frozen"):
        masks = masks_of("cross_modal", objective)
        _, more = masks(own, clean, generator())
        if objective == "frozen":
            assert all(hide.dtype == torch.bool for hide in more.values())
            assert not any(p.requires_grad for p in masks.scores.parameters())
            continue
        sum((hide * target[n]).sum() for n, hide in more.items()).backward()
        found[objective] = masks.scores.score.weight.grad
    assert found["cooperative"].any()
    torch.testing.assert_close(found["adversarial"], -found["cooperative"])


def test_clean_tokens_get_no_gradient_from_the_masks(rows):
    own, clean = rows
    clean = {n: Tokens(z.requires_grad_(), valid) for n, (z, valid) in clean.items()}
    less, _ = masks_of("cross_modal")(own, clean, generator())
    sum(hide.sum() for hide in less.values()).backward()
    assert all(z.grad is None for z, _ in clean.values())
