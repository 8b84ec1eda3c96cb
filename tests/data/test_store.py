"""Dense and ragged stores: cuts equal plain indexing, memory maps stay on disk and travel by name."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.data.store import ArrayStore, RaggedStore
from amodal.errors import ShapeError


def ragged(rows, **options):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedStore(np.concatenate(rows), offsets, **options)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_dense_cut_is_indexing_with_unseen_rows_zero(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    values = generator.normal(size=(9, 3, 2)).astype(np.float32)
    values[generator.random(values.shape) < 0.3] = np.nan
    lengths = generator.integers(0, 4, 9)
    rows = generator.integers(0, 9, data.draw(st.integers(0, 12)))
    seen = generator.random(len(rows)) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    cut = ArrayStore(values, gaps=True, lengths=lengths).cut(rows, seen)
    expected = np.where(seen[:, None, None], values[rows], np.float32(0))
    np.testing.assert_array_equal(cut.values, expected)
    np.testing.assert_array_equal(cut.measured, ~np.isnan(expected))
    np.testing.assert_array_equal(cut.lengths, np.where(seen, lengths[rows], 0))
    assert (cut.values.dtype, cut.lengths.dtype) == (np.float32, np.int64)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ragged_cut_is_a_padded_loop(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    rows_of = [generator.normal(size=(n, 2)).astype(np.float32) for n in generator.integers(0, 5, 8)]
    rows = generator.integers(0, 8, data.draw(st.integers(0, 12)))
    seen = generator.random(len(rows)) < 0.7
    cut = ragged(rows_of, width=5).cut(rows, seen)
    expected = np.zeros((len(rows), 5, 2), np.float32)
    for place, row in enumerate(rows):
        if seen[place]:
            expected[place, : len(rows_of[row])] = rows_of[row]
    np.testing.assert_array_equal(cut.values, expected)
    np.testing.assert_array_equal(cut.lengths, [len(rows_of[row]) * s for row, s in zip(rows, seen)])
    assert cut.measured is None


def test_text_is_padded_to_the_longest_row_of_the_cut():
    store = ragged([np.frombuffer(text.encode(), np.uint8) for text in ("a", "bb", "é€")])
    assert store.cut(np.array([0, 1]), np.array([True, True])).values.shape == (2, 2)
    cut = store.cut(np.array([2, 0]), np.array([True, True]))
    assert cut.values.dtype == np.uint8
    assert [bytes(row[:n]).decode() for row, n in zip(cut.values, cut.lengths)] == ["é€", "a"]
    assert store.cut(np.array([2]), np.array([False])).values.tolist() == [[0]]  # never of no width at all


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_small_types_become_float32_when_cut(dtype):
    values = np.arange(8, dtype=dtype).reshape(2, 1, 2, 2)
    cut = ArrayStore(values).cut(np.array([1]), np.array([True]))
    assert cut.values.dtype == np.float32
    assert cut.values.ravel().tolist() == [4, 5, 6, 7]


def test_a_cut_is_a_copy():
    values = np.ones((2, 2), np.float32)
    ArrayStore(values).cut(np.array([0, 1]), np.array([True, True])).values[:] = 7
    assert values.max() == 1


def assert_streams_rebuild(store, rows, seen):
    """What is written equals what was cut, piece by piece."""
    streams = store.streams(rows, seen)
    arrays = {}
    for role, stream in streams.items():
        array = np.concatenate([np.zeros((0, *stream.shape[1:]), stream.dtype), *stream.pieces])
        assert (array.shape, array.dtype) == (stream.shape, stream.dtype)
        arrays[role] = array
    if isinstance(store, RaggedStore):
        copy = RaggedStore(arrays["values"], arrays["offsets"], width=store.width, gaps=store.gaps)
    else:
        copy = ArrayStore(arrays["values"], gaps=store.gaps, lengths=arrays.get("lengths"))
    one, other = store.cut(rows, seen), copy.cut(np.arange(len(rows)), seen)
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)
    return arrays


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
def test_streams_in_chunks_of_any_size(monkeypatch, chunk):
    monkeypatch.setattr("amodal.data.store.CHUNK_BYTES", chunk)
    generator = np.random.default_rng(0)
    values = generator.normal(size=(20, 3, 2)).astype(np.float32)
    rows, seen = generator.permutation(20)[:11], generator.random(11) < 0.6
    assert_streams_rebuild(ArrayStore(values, lengths=generator.integers(0, 4, 20)), rows, seen)
    parts = [generator.normal(size=(n, 2)).astype(np.float32) for n in generator.integers(0, 5, 20)]
    assert_streams_rebuild(ragged(parts, width=6), rows, seen)


def test_streams_leave_out_what_was_removed():
    values = np.full((3, 2), 5, np.float32)
    arrays = assert_streams_rebuild(ArrayStore(values), np.arange(3), np.array([True, False, True]))
    assert arrays["values"][1].tolist() == [0, 0]
    text = ragged([np.frombuffer(word, np.uint8) for word in (b"seen", b"hidden")])
    arrays = assert_streams_rebuild(text, np.arange(2), np.array([True, False]))
    assert arrays["values"].tobytes() == b"seen"


def test_memory_maps_travel_by_the_name_of_their_file(tmp_path):
    values = np.arange(200_000, dtype=np.float32).reshape(-1, 4)
    np.save(tmp_path / "v.npy", values)
    store = ArrayStore(np.load(tmp_path / "v.npy", mmap_mode="r"))
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    copy = pickle.loads(sent)
    assert isinstance(copy.values, np.memmap)
    np.testing.assert_array_equal(copy.values, values)


def test_a_slice_of_a_memory_map_travels_by_content(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(12.0, dtype=np.float32).reshape(-1, 2))
    part = np.load(tmp_path / "v.npy", mmap_mode="r")[2:4]
    copy = pickle.loads(pickle.dumps(ArrayStore(part)))
    np.testing.assert_array_equal(copy.values, [[4, 5], [6, 7]])


def test_sizes_that_disagree_are_refused():
    with pytest.raises(ShapeError, match="lengths have another number of rows .expected 3"):
        ArrayStore(np.ones((3, 2), np.float32), lengths=np.ones(2, int))
    for offsets in ([0, 2], [1, 3], [[0, 3]], []):
        with pytest.raises(ShapeError, match="offsets .*expected 3"):
            RaggedStore(np.ones((3, 1), np.float32), np.array(offsets, dtype=np.int64))
