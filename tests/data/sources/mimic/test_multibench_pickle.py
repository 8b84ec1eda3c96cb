"""Pickles: arrays come back; whatever else one wants to call is refused before it is imported."""

import collections
import pickle
import sys

import numpy as np
import pytest

from amodal.data.sources.mimic.multibench_pickle import read_arrays
from amodal.errors import DataError

ARRAYS = {
    "series": np.arange(24.0).reshape(2, 3, 4),
    "labels": np.array([[True, False]]),
    "ids": np.arange(5, dtype=np.int32),
    "big_endian": np.arange(3, dtype=">f4"),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_arrays_come_back(tmp_path, protocol, kind):
    (tmp_path / "a.pk").write_bytes(pickle.dumps(kind(ARRAYS, name="x", parts=[1, 2]), protocol))
    found = read_arrays(tmp_path / "a.pk")
    assert list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == expected.dtype


class Calls:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Calls(eval, "1 + 1"), "builtins.eval, which no array needs"),
        (Calls(print, "run"), r"builtins\.print"),
        (Calls(getattr, np.ndarray, "tofile"), r"builtins\.getattr"),
        (Calls(np.load, "a.npy"), "wants to call"),
        (np.array([Calls(print, "run")], dtype=object), "not of numbers|builtins"),
        (np.float64(3.0), "wants to call"),
        (np.ma.masked_array([1.0]), "wants to call"),
    ],
)
def test_anything_else_is_refused(tmp_path, capsys, value, words):
    (tmp_path / "a.pk").write_bytes(pickle.dumps({"ep_tdata": value}))
    with pytest.raises(DataError, match=words):
        read_arrays(tmp_path / "a.pk")
    assert capsys.readouterr().out == ""


def test_modules_are_not_even_imported(tmp_path):
    (tmp_path / "a.pk").write_bytes(b"cantigravity\nfly\n.")
    with pytest.raises(DataError, match=r"antigravity\.fly"):
        read_arrays(tmp_path / "a.pk")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("n", [0, 1, 20, 100, 200])
def test_truncated_files_are_named(tmp_path, n):
    whole = pickle.dumps({"ep_tdata": ARRAYS["series"]})
    (tmp_path / "im.pk").write_bytes(whole[:n])
    with pytest.raises(DataError, match=r"im\.pk cannot be read"):
        read_arrays(tmp_path / "im.pk")


def test_other_files(tmp_path):
    with pytest.raises(DataError, match="there is no"):
        read_arrays(tmp_path / "im.pk")
    (tmp_path / "im.pk").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="holds no dictionary, got list|holds no dictionary"):
        read_arrays(tmp_path / "im.pk")
    (tmp_path / "im.pk").write_bytes(b"\x80\x04\x8c\x01aQ.")
    with pytest.raises(DataError, match="objects outside itself"):
        read_arrays(tmp_path / "im.pk")
