"""The distribution of what is removed against its closed form."""

import itertools

import pytest
import torch
from scipy.stats import chisquare

from amodal.patterns import draw_removal, draw_subset


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


@pytest.mark.parametrize("draw", [draw_removal, draw_subset])
def test_rows_are_drawn_apart_and_nothing_stays_nothing(draw):
    observed = torch.tensor([[True, True], [False, False]]).repeat(500, 1)
    kept = draw(observed, torch.Generator().manual_seed(1))
    assert not kept[1::2].any()
    patterns = kept[::2].unique(dim=0)
    assert patterns.tolist() == [[False, True], [True, False], [True, True]]
