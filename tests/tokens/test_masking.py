"""Masks: counts, nesting, blocks, randomness and the straight-through gradient."""

import itertools

import pytest
import torch

from amodal.errors import ShapeError
from amodal.tokens.masking import (
    block_scores,
    count_hidden,
    hide_tokens,
    hide_top,
    random_scores,
    reverse_gradient,
    straight_through,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def padded(*lengths, size=12):
    return torch.arange(size) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.6, 0.95])
def test_counts_by_hand(ratio):
    lengths = [1, 2, 3, 7, 10, 12]
    expected = [0, *(min(max(1, round(ratio * n)), n - 1) for n in lengths[1:])]
    assert count_hidden(padded(*lengths), ratio).tolist() == expected
    assert count_hidden(padded(1, 0), ratio, torch.tensor([False, False])).tolist() == [1, 0]


@pytest.mark.parametrize("strategy", ["random", "block"])
def test_counts_are_exact_padding_is_never_hidden_and_masks_are_nested(strategy):
    valid = padded(*range(2, 13)).repeat(20, 1)
    if strategy == "random":
        scores = random_scores(valid, generator())
    else:
        scores = block_scores(valid, count_hidden(valid, 0.6), generator())
    less, more = (hide_tokens({"m": scores}, {"m": valid}, ratio)["m"] for ratio in (0.3, 0.6))
    for hidden, ratio in ((less, 0.3), (more, 0.6)):
        assert torch.equal(hidden.sum(1), count_hidden(valid, ratio))
        assert not (hidden & ~valid).any()
    assert not (less & ~more).any()


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_a_block_is_one_run_with_a_uniform_start(ratio):
    valid = padded(10).repeat(6000, 1)
    scores = block_scores(valid, count_hidden(valid, 0.6), generator())
    hidden = hide_top(scores, valid, count_hidden(valid, ratio)).int()
    runs = (hidden.diff(dim=1, prepend=torch.zeros(len(hidden), 1, dtype=torch.int)) == 1).sum(1)
    assert (runs == 1).all()
    if ratio == 0.6:
        starts = hidden.argmax(1).bincount(minlength=5) / 6000
        torch.testing.assert_close(starts, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_a_block_on_a_grid_is_near_a_rectangle_of_exact_count():
    valid = torch.ones(500, 64, dtype=torch.bool)
    count = count_hidden(valid, 0.25)
    hidden = hide_top(block_scores(valid, count, generator(), grid=(8, 8)), valid, count).view(-1, 8, 8)
    assert (hidden.sum((1, 2)) == 16).all()
    box = [hidden.any(axis).sum(1) for axis in (1, 2)]
    assert ((box[0] * box[1]) <= 30).all()  # 4 by 4, give or take a rim
    assert max(int(b.max()) for b in box) <= 6
    with pytest.raises(ShapeError, match=r"grid does not hold the tokens.*64 cells"):
        block_scores(valid, count, generator(), grid=(3, 8))


def test_random_masks_are_uniform_and_with_equal_scores_not_a_prefix():
    valid = padded(4, size=5).repeat(12_000, 1)
    equal = torch.full(valid.shape, 0.5) + 1e-4 * random_scores(valid, generator())
    hidden = hide_top(equal, valid, torch.full((12_000,), 2))
    pairs = [hidden[:, [a, b]].all(1).double().mean().item() for a, b in itertools.combinations(range(4), 2)]
    assert pairs == pytest.approx([1 / 6] * 6, abs=0.015)


def test_the_same_seed_gives_the_same_mask():
    valid = padded(6, 9)
    assert torch.equal(random_scores(valid, generator(3)), random_scores(valid, generator(3)))
    blocks = [block_scores(valid, torch.tensor([3, 4]), generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[0], blocks[2])


def test_single_tokens_are_hidden_as_whole_modalities_but_never_all_of_a_row():
    one = torch.tensor([[True], [True], [True], [False]])  # the last row has nothing at all
    valid = {"a": one, "b": one & torch.tensor([[True], [True], [False], [False]]), "c": padded(3, 0, 0, 0, size=3)}
    for seed, ratio in itertools.product(range(20), (0.1, 0.5, 0.95)):
        scores = {name: random_scores(v, generator(seed * 3 + i)) for i, (name, v) in enumerate(valid.items())}
        hidden = hide_tokens(scores, valid, ratio)
        left = torch.stack([(v & ~hidden[name]).any(1) for name, v in valid.items()], 1)
        assert left[:3].any(1).all()
        assert hidden["a"][:2].sum() + hidden["b"][:2].sum() == 2  # one of two in both rows
        assert not hidden["a"][2]  # nothing else is there
        assert hidden["c"].sum(1).tolist() == [min(max(1, round(3 * ratio)), 2), 0, 0, 0]


def test_a_single_token_beside_a_sequence_may_be_hidden():
    valid = {"a": padded(1, size=1), "b": padded(4, size=4)}
    hidden = hide_tokens({"a": torch.zeros(1, 1), "b": torch.rand(1, 4)}, valid, 0.3)
    assert hidden["a"].all()
    assert hidden["b"].sum() == 1


def test_the_gradient_of_the_mask_is_the_identity():
    scores, r = torch.rand(2, 5, requires_grad=True), torch.randn(2, 5)
    hide = hide_top(scores, torch.ones(2, 5, dtype=torch.bool), torch.tensor([2, 3]))
    through = straight_through(hide, scores)
    assert torch.equal(through.detach().round(), hide.float())
    (through * r).sum().backward()
    torch.testing.assert_close(scores.grad, r)
    scores.grad = None
    (straight_through(hide, reverse_gradient(scores)) * r).sum().backward()
    torch.testing.assert_close(scores.grad, -r)


def test_scores_of_another_shape():
    with pytest.raises(ShapeError, match=r"scores and validity"):
        hide_top(torch.rand(2, 3), torch.ones(2, 4, dtype=torch.bool), torch.tensor([1, 1]))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_whole_modalities_of_several_tokens(ratio):
    """All or none of their tokens, at least one of them and never all of a row; the others one token at a time."""
    valid = {"a": padded(4, 4, 4, size=4), "b": padded(3, 2, 0, size=3), "c": padded(1, 0, 0, size=1)}
    for seed in range(10):
        scores = {name: random_scores(v, generator(seed * 3 + i)) for i, (name, v) in enumerate(valid.items())}
        hidden = hide_tokens(scores, valid, ratio, whole=("a", "b"))
        chosen = torch.stack([hidden[name].any(1) for name in valid], 1)
        assert all(torch.equal(hidden[name], valid[name] & hidden[name].any(1, keepdim=True)) for name in valid)
        assert chosen.sum(1).tolist() == [max(1, min(2, round(3 * ratio))), 1, 0]
        tokens = hide_tokens(scores, valid, ratio, whole=("b",))
        assert tokens["a"].sum(1).tolist() == [min(max(1, round(4 * ratio)), 3)] * 3
