"""What a user hands over for one modality: kinds by shape, presence by NaN and None, and every refusal by its words."""

import numpy as np
import pandas as pd
import pytest
import torch

from amodal.data.values import read_modality
from amodal.errors import DataError, SchemaError, ShapeError, UnknownNameError

NAN, INF = np.nan, np.inf
IDS = np.array(["p", "q", "r"])
ALL = np.ones(3, bool)


def read(given, **options):
    return read_modality("m", given, ids=IDS, **options)


@pytest.mark.parametrize(
    ("given", "kind", "shape"),
    [
        (np.ones((3, 4)), "tabular", (4,)),
        (np.ones((3, 5, 2), np.float32), "series", (5, 2)),
        (np.zeros((3, 1, 4, 4), np.uint8), "image", (1, 4, 4)),
        (["a", "b", "c"], "text", ()),
        (np.array(["a", "b", "c"]), "text", ()),
        (np.array(["a", None, "c"], dtype=object), "text", ()),
        (pd.Series(["a", None, "c"]), "text", ()),
        (pd.DataFrame({"x": [1, 2, 3], "y": [1.5, None, 0]}), "tabular", (2,)),
        (torch.ones(3, 2), "tabular", (2,)),
        ([[1, 2], [3, 4], [5, 6]], "tabular", (2,)),
        (np.zeros((3, 2), np.uint8), "tabular", (2,)),
        (np.zeros((3, 2), bool), "tabular", (2,)),
        ([np.ones((2, 3)), np.ones((5, 3)), None], "series", (5, 3)),
        ([None, None, "x"], "text", ()),
    ],
)
def test_kind_and_shape_by_what_comes(given, kind, shape):
    taken = read(given)
    assert (taken.kind, taken.shape, len(taken.store)) == (kind, shape, 3)
    assert taken.observed.dtype == bool
    values = taken.store.cut(np.arange(3), taken.observed).values
    assert values.dtype == (np.uint8 if kind == "text" else np.float32)


def test_float32_arrays_and_memory_maps_are_used_as_they_are(tmp_path):
    values = np.ones((3, 2), np.float32)
    assert read(values).store.values is values
    np.save(tmp_path / "v.npy", values)
    assert isinstance(read(np.load(tmp_path / "v.npy", mmap_mode="r")).store.values, np.memmap)


def test_nan_is_a_cell_not_measured_and_a_row_of_nan_is_absent():
    taken = read(np.array([[1, NAN], [NAN, NAN], [3, 4]]))
    assert taken.observed.tolist() == [True, False, True]
    assert taken.store.gaps
    assert taken.store.cut(np.array([0]), np.array([True])).measured.tolist() == [[True, False]]


def test_nan_in_absent_rows_only_leaves_no_gaps():
    assert not read(np.array([[1, 2], [NAN, NAN], [3, 4]])).store.gaps


def test_presence_that_is_given_decides():
    values = np.array([[1, NAN], [NAN, NAN], [3, INF]])
    taken = read(values, observed=np.array([False, True, False]))
    assert taken.observed.tolist() == [False, True, False]
    assert taken.store.cut(np.array([1]), np.array([True])).measured.tolist() == [[False, False]]


def test_measured_cells_can_be_given_apart():
    measured = np.array([[True, False], [False, False], [True, True]])
    taken = read(np.ones((3, 2)), measured=measured)
    assert taken.observed.tolist() == [True, False, True]
    cut = taken.store.cut(np.array([0, 2]), np.array([True, True]))
    assert cut.measured.tolist() == [[True, False], [True, True]]


def test_masked_arrays_keep_their_mask():
    given = np.ma.array([[1, 2], [3, 4], [5, 6]], mask=[[0, 1], [1, 1], [0, 0]])
    taken = read(given)
    assert taken.observed.tolist() == [True, False, True]
    assert taken.store.cut(np.array([0]), np.array([True])).measured.tolist() == [[True, False]]


def test_padding_is_neither_checked_nor_seen():
    values = np.ones((3, 2, 1))
    values[0, 1], values[1, 1], values[2] = NAN, INF, 7
    taken = read(values, lengths=np.array([1, 1, 0]))
    assert taken.observed.tolist() == [True, True, False]
    assert not taken.store.gaps
    assert taken.store.cut(np.arange(3), taken.observed).lengths.tolist() == [1, 1, 0]


def test_series_of_different_length():
    taken = read([np.array([[1.0, NAN]]), None, np.array([[NAN, NAN], [1, 2], [3, 4]])])
    assert taken.observed.tolist() == [True, False, True]
    cut = taken.store.cut(np.arange(3), taken.observed)
    assert cut.values.shape == (3, 3, 2)
    assert cut.lengths.tolist() == [1, 0, 3]
    assert cut.measured[0, 0].tolist() == [True, False]
    assert not cut.measured[2, 0].any()


def test_an_empty_text_is_there_and_none_is_not():
    taken = read(["", None, "x"])
    assert taken.observed.tolist() == [True, False, True]
    assert taken.store.cut(np.arange(3), taken.observed).lengths.tolist() == [0, 0, 1]


def test_lone_surrogates_of_badly_decoded_files_do_not_break():
    cut = read(["a\udc80b", "x", "y"]).store.cut(np.array([0]), np.array([True]))
    assert bytes(cut.values[0, : cut.lengths[0]]) == b"a?b"


def with_cell(value, shape=(3, 2)):
    array = np.ones(shape)
    array[1, ..., 0] = value
    return array


@pytest.mark.parametrize(
    ("given", "options", "kind", "words"),
    [
        (np.ones((2, 2)), {}, ShapeError, "modality 'm' has another number of rows .expected 3, got 2"),
        (np.ones(3), {}, ShapeError, r"'m' has the wrong number of axes .*A single feature has the shape \(N, 1\)"),
        (np.ones((3, 1, 1, 1, 1)), {}, ShapeError, "wrong number of axes"),
        (np.ones((3, 2)), {"kind": "series"}, ShapeError, r"wrong number of axes \(expected \(N, T, D\)"),
        (np.ones((3, 2)), {"kind": "sound"}, UnknownNameError, "unknown kind of modality 'sound'"),
        (
            np.array([[1, "x"], [2, 3], [4, 5]], dtype=object),
            {},
            DataError,
            "'m' is not numeric .expected numbers or booleans, got str, 'x'",
        ),
        (np.array([["a"], ["b"], ["c"]]), {}, DataError, "'m' has dtype <U1 .expected numbers"),
        (np.ones((3, 2), complex), {}, DataError, "'m' has dtype complex128"),
        ([[1, 2], [3], [4, 5]], {}, ShapeError, "'m' is not a regular array"),
        (["a", 7, "c"], {"kind": "text"}, DataError, "'m' has texts that are no text in rows: q .got int"),
        (["a", None, "c"], {"observed": ALL}, DataError, "'m' is marked observed but has no text in rows: q"),
        (with_cell(INF), {}, DataError, "'m' has NaN or infinite values in present rows: q"),
        (with_cell(1e39), {}, DataError, "infinite values in present rows: q .*float32"),
        (with_cell(INF, (3, 2, 2)), {}, DataError, "present rows: q"),
        (with_cell(NAN, (3, 1, 2, 2)), {}, DataError, "present rows: q"),
        (with_cell(NAN, (3, 1, 2, 2)), {"observed": ALL}, DataError, "present rows: q"),
        ([np.ones((1, 2)), np.full((2, 2), INF), None], {}, DataError, "present rows: q"),
        ([np.ones((1, 2)), np.ones((2, 3)), None], {}, ShapeError, "row q of modality 'm' has another number of feat"),
        (np.ones((3, 2)), {"measured": np.ones((3, 2))}, ShapeError, r"measured\['m'\] must be bool .*float64"),
        (np.ones((3, 2)), {"measured": np.ones((3, 1), bool)}, ShapeError, r"measured\['m'\] must be bool"),
        (with_cell(NAN), {"measured": np.ones((3, 2), bool)}, DataError, "NaN in cells marked as measured, .*rows: q"),
        (
            np.ones((3, 1, 2, 2)),
            {"measured": np.ones((3, 1, 2, 2), bool)},
            SchemaError,
            "image and takes no `measured`",
        ),
        (["a"] * 3, {"lengths": np.ones(3, int)}, SchemaError, "'m' is text and takes neither"),
        (np.ones((3, 2)), {"lengths": np.ones(3, int)}, SchemaError, "have lengths"),
        (np.ones((3, 2, 1)), {"lengths": np.array([1, 2, 3])}, ShapeError, "out of range .expected 0 … 2, got 1 … 3"),
        (np.ones((3, 2, 1)), {"lengths": np.ones(3)}, ShapeError, r"lengths\['m'\] must be integers"),
    ],
)
def test_refusals_by_their_words(given, options, kind, words):
    with pytest.raises(kind, match=words):
        read(given, **options)


def test_many_bad_rows_are_counted_and_the_first_few_named():
    values = np.full((9, 1), INF)
    with pytest.raises(DataError, match=r"rows: 0, 1, 2, 3, 4, … \(9 rows\)"):
        read_modality("m", values, ids=np.arange(9).astype(str))


def test_an_image_that_is_nan_altogether_is_absent():
    values = np.ones((3, 1, 2, 2))
    values[1] = NAN
    assert read(values).observed.tolist() == [True, False, True]


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_arrays_are_checked_chunk_by_chunk(monkeypatch, chunk):
    monkeypatch.setattr("amodal.data.values.CHUNK_BYTES", chunk)
    values = np.ones((50, 4), np.float32)
    values[7], values[31, 2] = NAN, NAN
    taken = read_modality("m", values, ids=np.arange(50).astype(str), lengths=None)
    assert np.flatnonzero(~taken.observed).tolist() == [7]
    assert taken.store.gaps
    values[44, 0] = INF
    with pytest.raises(DataError, match="present rows: 44"):
        read_modality("m", values, ids=np.arange(50).astype(str))


SIX = np.array([f"r{i}" for i in range(6)])


def test_grey_images_without_an_axis_of_channels():
    grey = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
    for kind in (None, "image"):
        intake = read_modality("x", grey, ids=SIX, kind=kind)
        assert (intake.kind, intake.shape) == ("image", (1, 8, 8))
        assert intake.store.values.dtype == np.uint8
    assert read_modality("x", grey / 255.0, ids=SIX, kind="image").shape == (1, 8, 8)
    assert read_modality("x", grey / 255.0, ids=SIX).kind == "series"
    assert read_modality("x", grey, ids=SIX, kind="series").kind == "series"
    assert read_modality("x", grey, ids=SIX, lengths=np.full(6, 3)).kind == "series"


def test_channels_that_come_last():
    colour = np.random.default_rng(0).integers(0, 255, (6, 8, 9, 3)).astype(np.uint8)
    with pytest.raises(ShapeError, match=r"channels of modality 'x' seem to come last.*kinds=\{'x': 'image'\}"):
        read_modality("x", colour, ids=SIX)
    intake = read_modality("x", colour, ids=SIX, kind="image")
    assert intake.shape == (3, 8, 9)
    np.testing.assert_array_equal(intake.store.cut(np.arange(6), np.ones(6, bool)).values, colour.transpose(0, 3, 1, 2))
    assert read_modality("x", colour.transpose(0, 3, 1, 2), ids=SIX).shape == (3, 8, 9)
    assert read_modality("x", np.zeros((6, 3, 9, 3), np.uint8), ids=SIX, kind="image").shape == (3, 9, 3), "as it is"


def test_lists_of_images_with_none_absent():
    images = [np.full((8, 8), i, np.uint8) for i in range(6)]
    intake = read_modality("x", [*images[:5], None], ids=SIX, kind="image")
    assert intake.observed.tolist() == [True] * 5 + [False]
    assert intake.shape == (1, 8, 8)
    with pytest.raises(DataError, match="marked observed but is None in rows: r5"):
        read_modality("x", [*images[:5], None], ids=SIX, kind="image", observed=np.ones(6, bool))
    mixed = [*images[:5], np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(ShapeError, match=r"rows have 2 shapes.*\(8, 8\) in row r0.*\(8, 8, 3\) in row r5.*one size"):
        read_modality("x", mixed, ids=SIX, kind="image")
    scales = [*images[:5], images[5] / 255.0]
    with pytest.raises(DataError, match=r"'x' mixes arrays of bytes with others.*float64, uint8"):
        read_modality("x", scales, ids=SIX, kind="image")


def test_numbers_that_single_precision_cannot_tell_apart_are_warned_of():
    ids = np.array(["a", "b", "c"])
    with pytest.warns(UserWarning, match="subtract their middle"):
        read_modality("t", np.array([[1e9], [1e9 + 1], [1e9 + 2]]), ids=ids)
    read_modality("t", np.array([[2.4e11], [2.5e11], [2.6e11]]), ids=ids)  # far apart: nothing to warn of
