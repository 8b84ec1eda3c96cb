"""Image files: one mapping of levels for a modality, the formats of the field, limits, names in cells."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.table.dicom_made import write_dicom
from PIL import Image as Pillow
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from amodal.data.table import prepare
from amodal.data.table.image import Image, decode_image
from amodal.data.table.levels import Levels
from amodal.errors import DataError

RAMP = np.tile(np.linspace(0, 255, 64).round(), (64, 1))
WIDE = (RAMP * 257).astype(np.uint16)


def decoded(path: Path, **keys: Any) -> np.ndarray:
    levels = Levels(keys.pop("range", None), keys.pop("scaling", "type"))
    return decode_image(path, Image("x", "f", size=(64, 64), levels=levels, **keys))


def saved(path: Path, array: np.ndarray, **keys: Any) -> Path:
    Pillow.fromarray(array).save(path, **keys)
    return path


def schema(**keys: Any) -> dict:
    return {
        "id": "id", "task": {"kind": "regression", "column": "y"}, "split": {"fractions": {"train": 1.0}},
        "modalities": {"x": {"kind": "image", "column": "f", "size": 8} | keys},
    }  # fmt: skip


def table(folder: Path, *cells: str) -> Path:
    rows = "".join(f'p{i},"{cell}",{i}\n' for i, cell in enumerate(cells))
    (folder / "m.csv").write_text("id,f,y\n" + rows)
    return folder / "m.csv"


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_keep_their_level(tmp_path: Path, ending: str):
    bright = decoded(saved(tmp_path / f"a.{ending}", WIDE))
    dark = decoded(saved(tmp_path / f"b.{ending}", WIDE // 8))
    np.testing.assert_allclose(bright[0], RAMP, atol=0.51)
    np.testing.assert_allclose(dark[0], RAMP / 8, atol=0.51)
    flat = decoded(saved(tmp_path / f"c.{ending}", np.full((64, 64), 30000, np.uint16)))
    assert (flat == round(30000 / 65535 * 255)).all()


def test_a_detector_of_fewer_bits_is_told(tmp_path: Path):
    for i in range(3):
        saved(tmp_path / f"{i}.png", (RAMP * 16).astype(np.uint16))
    manifest = table(tmp_path, "0.png", "1.png", "2.png")
    problems = prepare(manifest, schema(), tmp_path / "a").problems
    assert sum("`range: [0, 4095]`" in what for what in problems.counts) == 1
    assert not prepare(manifest, schema(range=[0, 4095]), tmp_path / "b").problems.counts


def test_a_stated_range_and_own_extremes(tmp_path: Path):
    twelve = (RAMP * 16).astype(np.uint16)
    twelve[0, 0] = 65535  # a hot pixel
    path = saved(tmp_path / "a.png", twelve)
    np.testing.assert_allclose(decoded(path, range=(0, 4095))[0][1:], RAMP[1:] * 16 / 4095 * 255, atol=0.51)
    assert decoded(path)[0][1:].max() == 16
    assert decoded(saved(tmp_path / "b.png", WIDE // 8), scaling="own").max() == 255
    eight = decoded(saved(tmp_path / "c.png", RAMP.astype(np.uint8)), range=(100, 200))[0]
    np.testing.assert_allclose(eight, ((RAMP.astype(np.uint8) - 100.0) / 100).clip(0, 1) * 255, atol=0.51)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "webp"])
def test_formats(tmp_path: Path, ending: str):
    path = saved(
        tmp_path / f"a.{ending}", RAMP.astype(np.uint8), **({"quality": 95} if ending in ("jpg", "webp") else {})
    )
    np.testing.assert_allclose(decoded(path)[0], RAMP, atol=6)


def test_white_is_zero_is_turned_round(tmp_path: Path):
    tags = ImageFileDirectory_v2()
    tags[262] = 0
    Pillow.fromarray(WIDE).save(tmp_path / "a.tif", tiffinfo=tags)
    with Pillow.open(tmp_path / "a.tif") as opened:
        assert opened.tag_v2[262] == 0
    np.testing.assert_allclose(decoded(tmp_path / "a.tif")[0], 255 - RAMP, atol=0.51)


def test_fractions_need_a_range(tmp_path: Path):
    path = saved(tmp_path / "a.tif", (RAMP / 255).astype(np.float32))
    with pytest.raises(DataError, match=r"fractional numbers of 32 bits.*0 … 1 in this file.*range: \[0, 1\]"):
        decoded(path)
    np.testing.assert_allclose(decoded(path, range=(0, 1))[0], RAMP, atol=0.51)


def test_palette_alpha_cmyk_and_exif(tmp_path: Path):
    grey = RAMP.astype(np.uint8)
    Pillow.fromarray(grey).convert("P").save(tmp_path / "p.png")
    np.testing.assert_allclose(decoded(tmp_path / "p.png")[0], RAMP, atol=1)
    clear = np.stack([grey, grey, grey, np.where(np.arange(64) < 32, 0, 255)[None].repeat(64, 0)], -1).astype(np.uint8)
    half = decoded(saved(tmp_path / "a.png", clear))[0]
    assert (half[:, :32] == 0).all()
    assert half[:, 32:].min() > 100
    Pillow.fromarray(np.full((64, 64, 3), (255, 0, 0), np.uint8)).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    red = decoded(tmp_path / "c.jpg", channels=3)
    assert red[0].min() > 200
    assert red[1:].max() < 60
    exif = Pillow.Exif()
    exif[274] = 3  # upside down
    saved(tmp_path / "e.png", grey, exif=exif)
    np.testing.assert_allclose(decoded(tmp_path / "e.png")[0], RAMP[:, ::-1], atol=0.51)


def test_a_large_image_is_quick_and_like_itself(tmp_path: Path):
    """The limit is on work, not on a clock that other work slows down: pixels of processor time."""
    rows = np.tile(np.linspace(0, 255, 4096).astype(np.uint8), (4096, 1))
    saved(tmp_path / "a.png", rows)
    start = time.process_time()
    values = decoded(tmp_path / "a.png")
    assert time.process_time() - start < 5
    np.testing.assert_allclose(values[0], RAMP, atol=3)


def test_names_spelt_otherwise_are_found_and_counted(tmp_path: Path):
    (tmp_path / "img").mkdir()
    for name in ("x0.png", "x1.png", "é.png"):
        saved(tmp_path / "img" / name, np.full((8, 8), 9, np.uint8))
    manifest = table(tmp_path, "X0.PNG", "img\\x1.png", "img/e\u0301.png")
    problems = prepare(
        table(tmp_path, "X0.PNG", "x1.png", "e\u0301.png"), schema(folder="img"), tmp_path / "a"
    ).problems
    assert problems.counts == {"x: file found under another spelling": 2}
    assert "X0.PNG → x0.png" in problems.examples["x: file found under another spelling"][0]
    assert prepare(table(tmp_path, "img\\x1.png"), schema(), tmp_path / "b").cohort.observed.all()
    assert prepare(
        table(tmp_path, "x0", "x1"), schema(folder="img", ending=".png"), tmp_path / "c"
    ).cohort.observed.all()
    with pytest.raises(DataError, match=r"Did you mean 'x0\.png'\? Then write `ending: \.png`"):
        prepare(table(tmp_path, "x0"), schema(folder="img"), tmp_path / "d")
    with pytest.raises(DataError, match=r"Did you mean 'x1\.png'"):
        prepare(table(tmp_path, "x-1.png"), schema(folder="img"), tmp_path / "d")
    with pytest.raises(DataError, match=r"no folder 'im', or it is empty"):
        prepare(table(tmp_path, "x0.png"), schema(folder="im"), tmp_path / "d")
    assert manifest.is_file()


def test_two_files_that_differ_in_capitals_are_not_guessed(tmp_path: Path):
    for name in ("a.png", "A.png"):
        saved(tmp_path / name, np.full((8, 8), 9, np.uint8))
    with pytest.raises(DataError, match="file not there: 'a.PNG'"):
        prepare(table(tmp_path, "a.PNG"), schema(), tmp_path / "out")


def test_one_range_does_not_hold_for_two_kinds_of_values(tmp_path: Path):
    pytest.importorskip("pydicom")
    saved(tmp_path / "a.png", np.full((8, 8), 9, np.uint8))
    write_dicom(tmp_path / "b.dcm", np.zeros((8, 8), np.uint16), RescaleSlope=1, RescaleIntercept=-1024, Modality="CT")
    manifest = table(tmp_path, "a.png", "b.dcm")
    with pytest.raises(DataError, match=r"two kinds under one `range`: 'DICOM CT in HU' in row p1.*image of 8 bits"):
        prepare(manifest, schema(range=[-1000, 1000]), tmp_path / "out")
    write_dicom(tmp_path / "b.dcm", np.zeros((8, 8), np.uint16), BurnedInAnnotation="YES")
    problems = prepare(manifest, schema(), tmp_path / "out").problems
    assert problems.counts["x: BurnedInAnnotation: words are drawn into the image, names perhaps"] == 1
    assert problems.counts["x: a file of another kind than the first (image of 8 bits)"] == 1


def test_windows_that_differ_between_values_in_units_are_counted(tmp_path: Path):
    pytest.importorskip("pydicom")
    units = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "WindowWidth": 400}
    for i, centre in enumerate((40, 40, 300)):
        write_dicom(tmp_path / f"{i}.dcm", np.full((8, 8), 1000, np.uint16), WindowCenter=centre, **units)
    manifest = table(tmp_path, "0.dcm", "1.dcm", "2.dcm")
    problems = prepare(manifest, schema(), tmp_path / "a").problems
    assert problems.counts == {"x: a file of another kind than the first (DICOM in HU through the window 40, 400)": 1}
    cohort = prepare(manifest, schema(range=[-1024, 1000]), tmp_path / "b").cohort
    assert len(np.unique(cohort.batch(np.arange(3)).values["x"].numpy())) == 1
