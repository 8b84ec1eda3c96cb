"""The distribution of what is removed against its closed form."""

import itertools

import pytest
import torch
from contracts import cases
from scipy.stats import chisquare

from amodal.encoders import encode_pooled
from amodal.patterns import (
    distinct_patterns,
    draw_removal,
    draw_removals,
    draw_strict_subset,
    draw_subset,
    encode_under,
)


@pytest.mark.parametrize("draw", [draw_removal, draw_subset])
@pytest.mark.parametrize("present", [(0, 1, 2, 3), (0, 2, 3), (1, 3), (2,)])
def test_every_subset_has_its_probability(present, draw):
    """Of k modalities, a given subset of size n has probability 1/k over the number of subsets of that size."""
    n, k = 40_000, len(present)
    observed = torch.zeros(n, 4, dtype=torch.bool)
    observed[:, list(present)] = True
    kept = draw(observed, torch.Generator().manual_seed(0))
    assert not (kept & ~observed).any()
    codes = (kept * 2 ** torch.arange(4)).sum(1)
    expected = {}
    for size in range(1, k + 1):
        subsets = list(itertools.combinations(present, size))
        expected |= {sum(2**m for m in subset): n / k / len(subsets) for subset in subsets}
    assert set(codes.unique().tolist()) == set(expected)
    counts = [int((codes == code).sum()) for code in expected]
    assert k == 1 or chisquare(counts, list(expected.values())).pvalue > 1e-3


@pytest.mark.parametrize("present", [(0, 1, 2, 3), (0, 2, 3), (1, 3), (2,)])
def test_a_strict_subset_is_neither_empty_nor_all(present):
    """Of k modalities, n of 1 … k − 1 with one probability, and each subset of n with one; a single one stays."""
    n, k = 30_000, len(present)
    observed = torch.zeros(n, 4, dtype=torch.bool)
    observed[:, list(present)] = True
    taken = draw_strict_subset(observed, torch.Generator().manual_seed(0))
    assert not (taken & ~observed).any()
    codes = (taken * 2 ** torch.arange(4)).sum(1)
    expected = {2 ** present[0]: n} if k == 1 else {}
    for size in range(1, k):
        subsets = list(itertools.combinations(present, size))
        expected |= {sum(2**m for m in subset): n / (k - 1) / len(subsets) for subset in subsets}
    assert set(codes.unique().tolist()) == set(expected)
    counts = [int((codes == code).sum()) for code in expected]
    assert k == 1 or chisquare(counts, list(expected.values())).pvalue > 1e-3


@pytest.mark.parametrize("draw", [draw_removal, draw_subset])
def test_rows_are_drawn_apart_and_nothing_stays_nothing(draw):
    observed = torch.tensor([[True, True], [False, False]]).repeat(500, 1)
    kept = draw(observed, torch.Generator().manual_seed(1))
    assert not kept[1::2].any()
    patterns = kept[::2].unique(dim=0)
    assert patterns.tolist() == [[False, True], [True, False], [True, True]]


def test_several_patterns_from_one_encoding_are_each_pattern_encoded_by_itself():
    schema = cases.make_schema()
    encoders = cases.make_encoders(schema).eval()
    batch = cases.make_batch(schema, cases.mixed_presence(schema))
    remaining = draw_removals(batch.presence, 3, torch.Generator().manual_seed(0))
    one_by_one = torch.Generator().manual_seed(0)
    features, observed = encode_under(encoders, batch, remaining)
    for pattern, some, present in zip(remaining, features.chunk(3), observed.chunk(3)):
        assert torch.equal(pattern, draw_removal(batch.presence, one_by_one))
        assert torch.equal(pattern, present)
        alone, _ = encode_pooled(encoders, batch.restrict(dict(zip(batch.modalities, pattern.unbind(1)))))
        torch.testing.assert_close(some, alone)


@pytest.mark.parametrize("n", [1, 3, 41])
def test_distinct_patterns_are_each_row_under_each_of_its_patterns_once(n):
    draws = torch.Generator().manual_seed(0)
    observed = torch.rand(5, 7, n, generator=draws) < 0.5
    found = distinct_patterns(observed)
    assert torch.equal(found.observed[found.places], observed)
    assert torch.equal(found.source[found.places], torch.arange(7).expand(5, 7))
    pairs = [(row, *some) for row, some in zip(found.source.tolist(), found.observed.tolist())]
    if n < 41:
        assert len(set(pairs)) == len(pairs)
