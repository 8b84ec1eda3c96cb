from itertools import product

import numpy as np
import pytest

from amodal.errors import ConfigurationError, ShapeError
from amodal.missingness import all_patterns, pattern_codes, pattern_label


def test_codes_set_bit_m_where_modality_m_is_present():
    observed = np.array(list(product([False, True], repeat=4)))
    expected = [sum(2**m for m in range(4) if row[m]) for row in observed]
    assert pattern_codes(observed).tolist() == expected
    assert pattern_codes(observed).dtype == np.int64


def test_codes_reach_to_62_modalities_and_no_further():
    assert pattern_codes(np.ones((1, 62), dtype=bool)).tolist() == [2**62 - 1]
    with pytest.raises(ShapeError, match=r"M <= 62, got bool \(1, 63\)"):
        pattern_codes(np.ones((1, 63), dtype=bool))
    with pytest.raises(ShapeError, match="expected bool"):
        pattern_codes(np.ones((2, 2)))


def test_labels_name_what_is_present_in_order():
    names = ("vitals", "labs", "notes")
    assert [pattern_label(code, names) for code in range(4)] == ["none", "vitals", "labs", "vitals+labs"]
    assert pattern_label(7, names) == "vitals+labs+notes"
    with pytest.raises(ConfigurationError, match=r"not a pattern's code .*got 8"):
        pattern_label(8, names)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_all_patterns_are_every_non_empty_subset_by_count(n):
    patterns = all_patterns(n)
    assert patterns.shape == (2**n - 1, n)
    assert sorted(pattern_codes(patterns)) == list(range(1, 2**n))
    keys = [(row.sum(), tuple(np.flatnonzero(row))) for row in patterns]
    assert keys == sorted(keys)


def test_too_many_patterns_to_list():
    with pytest.raises(ConfigurationError, match=r"cannot be listed .*got 30"):
        all_patterns(30)
