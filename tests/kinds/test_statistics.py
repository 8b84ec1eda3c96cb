"""Summary statistics of series, against pandas and numpy on each row and feature by itself."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.kinds.statistics import STATISTICS, read_cells, series_statistics

T = 12


def by_pandas(values: np.ndarray, length: int, horizon: int) -> dict[str, float]:
    """The statistics of one feature of one row, NaN where not measured, from the words of the docstring."""
    column = pd.Series(values[:length])
    seen = column.dropna()
    if seen.empty:
        return dict.fromkeys(STATISTICS, 0.0) | {"since_last": 1.0}
    late = column[int(np.floor(0.75 * length)) :].dropna()
    time = seen.index.to_numpy() / horizon
    centred = time - time.mean()
    return {
        "mean": seen.mean(),
        "min": seen.min(),
        "max": seen.max(),
        "spread": seen.std(ddof=0),
        "first": seen.iloc[0],
        "last": seen.iloc[-1],
        "late_mean": seen.iloc[-1] if late.empty else late.mean(),
        "slope": (centred * (seen - seen.mean())).sum() / ((centred**2).sum() + 0.02),
        "count": np.log1p(len(seen)) / np.log1p(horizon),
        "since_last": np.log1p(length - 1 - seen.index[-1]) / np.log1p(horizon),
        "ever": 1.0,
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_statistics_are_those_of_pandas(seed, rate):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4, T, 2)) * 2
    measured, lengths = rng.random(values.shape) < rate, rng.integers(1, T + 1, 4)
    cells = read_cells(torch.tensor(values), torch.tensor(measured), torch.tensor(lengths))
    result = series_statistics(*cells, horizon=T)
    assert result.shape == (4, 2, len(STATISTICS))
    for row in range(4):
        for feature in range(2):
            column = np.where(measured[row, :, feature], values[row, :, feature], np.nan)
            expected = by_pandas(column, lengths[row], T)
            got = dict(zip(STATISTICS, result[row, feature].tolist()))
            assert got == pytest.approx(expected, abs=2e-6)


def test_slope_of_a_full_straight_line_is_its_rise_over_the_horizon():
    """Shrinkage hardly touches it: the least-squares slope of numpy, less half a percent."""
    line = torch.linspace(-1, 2, 48)[None, :, None]
    slope = series_statistics(*read_cells(line, None, None), horizon=48)[0, 0, STATISTICS.index("slope")].item()
    least_squares = np.polyfit(np.arange(48) / 48, line[0, :, 0].numpy(), 1)[0]
    assert slope == pytest.approx(least_squares, rel=0.006)
    assert slope < least_squares


def test_statistics_do_not_depend_on_padding_behind_the_row():
    values, lengths = torch.randn(3, T, 2), torch.tensor([5, 5, 5])
    padded = series_statistics(*read_cells(values, None, lengths), horizon=T)
    torch.testing.assert_close(padded, series_statistics(*read_cells(values[:, :5], None, None), horizon=T))


def test_gradients_with_respect_to_values_are_finite_for_constant_and_unmeasured_features():
    """Attributions need them: the spread of a constant must not divide by zero."""
    values = torch.ones(2, T, 3, requires_grad=True)
    measured = torch.ones(2, T, 3, dtype=torch.bool)
    measured[..., 2] = False
    series_statistics(*read_cells(values, measured, None), horizon=T).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert not values.grad[..., 2].any()
