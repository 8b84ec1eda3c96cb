"""Volumes: NIfTI and DICOM series of the same body are the same array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.table.dicom_made import write_dicom

from amodal.data.table import prepare
from amodal.data.table.image import Image, decode_image
from amodal.data.table.levels import Levels
from amodal.data.table.volume import read_volume
from amodal.errors import DataError

D, H, W = 6, 8, 10
BODY = np.random.default_rng(0).integers(-1000, 1000, (D, H, W)).astype(np.int16)  # slices up, rows back, columns left


def source(size: tuple[int, int] = (H, W), depth: int = D, spacing: tuple = (), **levels: Any) -> Image:
    return Image("x", "f", size=size, depth=depth, spacing=spacing, levels=Levels(levels.get("range", (-1000, 1000))))


def expected(values: np.ndarray) -> np.ndarray:
    return (values + 1000.0) / 2000 * 255


def series(folder: Path, body: np.ndarray = BODY, gap: float = 2.5, **changes: Any) -> Path:
    folder.mkdir()
    order = np.random.default_rng(1).permutation(len(body))
    for k in range(len(body)):
        attributes = {
            "Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "SeriesInstanceUID": "1.2.3",
            "ImagePositionPatient": [0, 0, gap * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [1.5, 1.0], "SliceThickness": gap,
        }  # fmt: skip
        write_dicom(folder / f"IM{order[k]:03d}", (body[k] + 1024).astype(np.uint16), **(attributes | changes))
    return folder


def test_a_series_is_ordered_by_where_its_slices_lie(tmp_path: Path):
    pytest.importorskip("pydicom")
    values = decode_image(series(tmp_path / "s"), source())
    np.testing.assert_allclose(values, expected(BODY), atol=0.51)


def test_nifti_is_as_the_series(tmp_path: Path):
    nibabel = pytest.importorskip("nibabel")
    as_stored = BODY.transpose(2, 1, 0)  # x to the left, y backwards, z up, as DICOM
    affine = np.diag([-1.0, -1.5, 2.5, 1.0])  # … which NIfTI's axes count the other way round
    nibabel.save(nibabel.Nifti1Image(as_stored, affine), tmp_path / "a.nii.gz")
    np.testing.assert_allclose(decode_image(tmp_path / "a.nii.gz", source()), expected(BODY), atol=0.51)
    turned = nibabel.Nifti1Image(as_stored[::-1, ::-1], np.diag([1.0, 1.5, 2.5, 1.0]))  # another order, the same body
    nibabel.save(turned, tmp_path / "b.nii")
    np.testing.assert_allclose(decode_image(tmp_path / "b.nii", source()), expected(BODY), atol=0.51)
    with pytest.raises(DataError, match=r"no black and white of their own.*range: \["):
        decode_image(tmp_path / "b.nii", Image("x", "f", depth=4))
    with pytest.raises(DataError, match="NIfTI volume.*depth"):
        decode_image(tmp_path / "b.nii", Image("x", "f"))


def test_size_and_spacing(tmp_path: Path):
    nibabel = pytest.importorskip("nibabel")
    smooth = np.broadcast_to(np.linspace(-1000, 1000, 20)[:, None, None], (20, 20, 20))  # along x
    nibabel.save(nibabel.Nifti1Image(smooth.astype(np.float32), np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "a.nii")
    whole = decode_image(tmp_path / "a.nii", source((10, 10), 5))
    assert whole.shape == (5, 10, 10)
    pairs = expected(smooth).transpose(2, 1, 0)[0, 0].reshape(10, 2).mean(1)
    np.testing.assert_allclose(whole[2, 5, 1:-1], pairs[1:-1], atol=3)  # averaged, not picked
    at = decode_image(tmp_path / "a.nii", source((24, 12), 20, (2.0, 1.0, 1.0)))
    assert (at[:, :2] == 0).all(), "filled with black"
    np.testing.assert_allclose(at[10, 12], expected(smooth)[4:16, 0, 0], atol=0.51)  # the middle


def test_what_is_no_whole_series(tmp_path: Path):
    pytest.importorskip("pydicom")
    gone = series(tmp_path / "gone")
    heights = {p.name: p for p in gone.iterdir()}
    import pydicom

    middle = next(p for p in heights.values() if pydicom.dcmread(p).ImagePositionPatient[2] == 5.0)
    middle.unlink()
    with pytest.raises(DataError, match="not evenly spaced: one is missing"):
        decode_image(gone, source())
    mixed = series(tmp_path / "mixed")
    write_dicom(mixed / "other", BODY[0].astype(np.uint16), SeriesInstanceUID="9.9")
    with pytest.raises(DataError, match="holds 2 series"):
        decode_image(mixed, source())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        decode_image(tmp_path / "empty", source())
    lost = series(tmp_path / "lost", ImagePositionPatient=None)
    with pytest.raises(DataError, match="does not say where its slice lies"):
        decode_image(lost, source())


def test_files_that_are_no_nifti(tmp_path: Path):
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "a.nii.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="no NIfTI file that can be read"):
        decode_image(tmp_path / "a.nii.gz", source())
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 7), np.float32), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(DataError, match=r"shape \(4, 4, 4, 7\).*one volume"):
        decode_image(tmp_path / "b.nii", source())
    (tmp_path / "c.png").write_bytes(b"x")
    with pytest.raises(DataError, match="it is no volume"):
        decode_image(tmp_path / "c.png", source())


def test_volumes_in_a_table(tmp_path: Path):
    pytest.importorskip("pydicom")
    series(tmp_path / "s1")
    series(tmp_path / "s2")
    (tmp_path / "m.csv").write_text("f,y\ns1,1\ns2,2\n,3\n")
    schema = {
        "task": {"kind": "regression", "column": "y"}, "split": {"fractions": {"train": 1.0}},
        "modalities": {"ct": {"kind": "image", "column": "f", "size": 8, "depth": 4, "range": [-1000, 1000]}},
    }  # fmt: skip
    cohort = prepare(tmp_path / "m.csv", schema, tmp_path / "out").cohort
    assert cohort.schema["ct"].shape == (4, 8, 8)
    assert cohort.observed[:, 0].tolist() == [True, True, False]


def test_volumes_without_a_number_are_refused_and_holes_are_noted(tmp_path: Path):
    nibabel = pytest.importorskip("nibabel")
    values = BODY.transpose(2, 1, 0).astype(np.float32)
    for name, holes in {"some.nii": np.s_[0, 0], "all.nii": np.s_[:]}.items():
        values[holes] = np.nan
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.5, 2.5, 1.0])), tmp_path / name)
    read = read_volume(tmp_path / "some.nii", (D, H, W), (), Levels((-1000, 1000)), 10**6)
    assert read.notes == ("voxels that are no numbers, taken as black",)
    with pytest.raises(DataError, match="not one voxel with a number"):
        decode_image(tmp_path / "all.nii", source())


def test_volumes_that_are_turned_are_noted(tmp_path: Path):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    note = ("a volume that is turned against the body's axes, read along its own",)
    turn = np.cos(np.pi / 4)
    affine = np.array([[turn, -turn, 0, 0], [turn, turn, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(BODY.transpose(2, 1, 0), affine), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii", (D, H, W), (), Levels((-1000, 1000)), 10**6).notes == note
    folder = series(tmp_path / "s", ImageOrientationPatient=[turn, turn, 0, -turn, turn, 0])
    assert read_volume(folder, (D, H, W), (), Levels((-1000, 1000)), 10**6).notes == note


def test_files_in_the_folder_of_a_series_are_named(tmp_path: Path):
    pytest.importorskip("pydicom")
    (series(tmp_path / "s") / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"readme.txt of the folder: it is no DICOM file.*Take it out"):
        decode_image(tmp_path / "s", source())
