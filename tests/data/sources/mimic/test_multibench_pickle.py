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
    with pytest.raises(DataError, match="uses the step BINPERSID, which no array needs"):
        read_arrays(tmp_path / "im.pk")


def _hostile() -> dict[str, bytes]:
    """Programs that make a plain reader crash, hang, swell, or change itself."""
    text = b"\x8c\x01a"
    return {
        "tuples nested 300,000 deep as a key": b"\x80\x04}(N" + b"\x85" * 300_000 + b"Nu.",
        "doublings of a tuple as a key": b"\x80\x04}(N" + b"2\x86" * 60 + b"Nu.",
        "the same in a set": b"\x80\x04\x8f(N" + b"2\x86" * 60 + b"\x90.",
        "the same, one entry": b"\x80\x04}N" + b"2\x86" * 60 + b"Ns.",
        "the same by DICT": b"\x80\x04(N" + b"2\x86" * 60 + b"Nd.",
        "the same in an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n]N" + b"2\x86" * 60 + b"N\x86a\x85R.",
        "a memo of 2^28 places": b"\x80\x04" + text + b"r\x00\x00\x00\x10.",
        "the state of a function": b"\x80\x02c_codecs\nencode\n}(X\x0c\x00\x00\x00__defaults__U\x01aub.",
        "the state of a class": b"\x80\x02cnumpy\nndarray\n}X\x05\x00\x00\x00valueNsb.",
        "a million steps": b"\x80\x04" + b"N0" * 600_000 + b"}.",
        "a text of 4 GB that is not there": b"\x80\x04\x8d\x00\x00\x00\x00\x01\x00\x00\x00a.",
        "extension codes": b"\x80\x02\x82\x01.",
        "an instance": b"(ios\nsystem\n.",
        "nothing to pop": b"\x80\x040000.",
    }  # fmt: skip


@pytest.mark.parametrize("name", _hostile())
def test_hostile_programs_end_in_an_error(tmp_path, name):
    (tmp_path / "im.pk").write_bytes(_hostile()[name])
    with pytest.raises(DataError, match=r"im\.pk"):
        read_arrays(tmp_path / "im.pk")
    (tmp_path / "good.pk").write_bytes(pickle.dumps(ARRAYS, 2))
    assert list(read_arrays(tmp_path / "good.pk")) == list(ARRAYS), "the reader is as it was"


def test_one_text_is_not_copied_for_ever(tmp_path):
    long = b"X" + (2**20).to_bytes(4, "little") + b"a" * 2**20 + b"q\x00"
    step = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR"
    (tmp_path / "im.pk").write_bytes(b"\x80\x02(" + long + step * 2000 + b"l.")
    with pytest.raises(DataError, match="many times its size"):
        read_arrays(tmp_path / "im.pk")
