"""DICOM attributes that change what a pixel means: applied as the standard says, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.table.dicom_made import write_dicom
from PIL import Image as Pillow

from amodal.data.table.image import Image, decode_image
from amodal.data.table.levels import Levels
from amodal.errors import DataError

pydicom = pytest.importorskip("pydicom")

RAMP = (np.arange(64, dtype=np.uint16) * 60).reshape(8, 8)  # 0 … 3780 of 4095


def decoded(path: Path, **keys: Any) -> np.ndarray:
    levels = Levels(keys.pop("range", None), keys.pop("scaling", "type"))
    return decode_image(path, Image("x", "f", size=(8, 8), levels=levels, **keys))[0]


def lut(values: np.ndarray, first: int, bits: int) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    item.add_new("LUTData", "US", [int(v) for v in values])
    return Sequence([item])


def test_stored_bits_are_the_range(tmp_path: Path):
    write_dicom(tmp_path / "a.dcm", RAMP)
    np.testing.assert_allclose(decoded(tmp_path / "a.dcm"), RAMP / 4095 * 255, atol=0.51)
    write_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    np.testing.assert_allclose(decoded(tmp_path / "b.dcm"), 255 - RAMP / 4095 * 255, atol=0.51)
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    write_dicom(tmp_path / "c.dcm", signed, PixelRepresentation=1)
    np.testing.assert_allclose(decoded(tmp_path / "c.dcm"), (signed + 2048) / 4095 * 255, atol=0.51)
    write_dicom(tmp_path / "d.dcm", RAMP | 0xF000)  # an old overlay in the unused bits
    np.testing.assert_array_equal(decoded(tmp_path / "d.dcm"), decoded(tmp_path / "a.dcm"))
    np.testing.assert_allclose(decoded(tmp_path / "a.dcm", scaling="own"), RAMP / 3780 * 255, atol=0.51)


def test_rescaled_values_need_a_range_and_keep_to_it(tmp_path: Path):
    """Two scanners store the same HU differently: with one range they look the same."""
    write_dicom(tmp_path / "a.dcm", RAMP, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    write_dicom(tmp_path / "b.dcm", RAMP // 2, Modality="CT", RescaleSlope=2, RescaleIntercept=-1024)
    expected = ((RAMP - 1024.0 + 1000) / 2000).clip(0, 1) * 255
    for name in "ab":
        np.testing.assert_allclose(decoded(tmp_path / f"{name}.dcm", range=(-1000, 1000)), expected, atol=0.51)
    with pytest.raises(DataError, match=r"values in HU.*-1024 … 2756 in this file.*range: \[-1024, 2756\]"):
        decoded(tmp_path / "a.dcm")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(tmp_path: Path, function: str):
    window = {"WindowCenter": "2000", "WindowWidth": "1500", "VOILUTFunction": function}
    write_dicom(tmp_path / "a.dcm", RAMP, **window)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    shown = pydicom.pixels.apply_voi_lut(RAMP.astype(float), data)  # 0 … 4095
    np.testing.assert_allclose(decoded(tmp_path / "a.dcm"), shown / 4095 * 255, atol=1)


def test_a_stated_range_goes_before_the_window(tmp_path: Path):
    write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter="100", WindowWidth="50")
    np.testing.assert_allclose(decoded(tmp_path / "a.dcm", range=(0, 4095)), RAMP / 4095 * 255, atol=0.51)


def test_lookup_tables(tmp_path: Path):
    table = np.linspace(65535, 0, 4096).astype(int)
    write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=lut(table, 0, 16))
    np.testing.assert_allclose(decoded(tmp_path / "a.dcm"), table[RAMP] / 65535 * 255, atol=0.51)
    write_dicom(tmp_path / "b.dcm", RAMP, ModalityLUTSequence=lut(table, 0, 16))
    np.testing.assert_allclose(decoded(tmp_path / "b.dcm"), table[RAMP] / 65535 * 255, atol=0.51)


def test_padding_is_black_and_no_part_of_the_extremes(tmp_path: Path):
    pixels = RAMP.copy()
    pixels[0] = 4000
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation=kind, PixelPaddingValue=3990,
                    PixelPaddingRangeLimit=4095)  # fmt: skip
        assert (decoded(tmp_path / "a.dcm")[0] == 0).all()
        own = decoded(tmp_path / "a.dcm", scaling="own")[1:]
        assert (own.min(), own.max()) == (0, 255)


def test_colour(tmp_path: Path):
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:4, :, 0], rgb[4:, :, 2] = 200, 100
    bits = {"BitsAllocated": 8, "BitsStored": 8, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    source = Image("x", "f", size=(8, 8), channels=3)
    write_dicom(tmp_path / "a.dcm", rgb, PlanarConfiguration=0, **bits)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    write_dicom(tmp_path / "b.dcm", rgb, **(bits | {"PlanarConfiguration": 1, "PixelData": planes.tobytes()}))
    ycbcr = np.array(Pillow.fromarray(rgb).convert("YCbCr"))
    write_dicom(
        tmp_path / "c.dcm", ycbcr, **(bits | {"PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL"})
    )
    for name in "abc":
        values = decode_image(tmp_path / f"{name}.dcm", source)
        np.testing.assert_allclose(values, rgb.transpose(2, 0, 1), atol=2)
    palette = np.linspace(0, 65535, 256).astype(np.uint16)
    index = np.arange(64, dtype=np.uint8).reshape(8, 8)
    entries = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")}
    entries |= {f"{c}PaletteColorLookupTableData": palette.tobytes() for c in ("Red", "Green", "Blue")}
    write_dicom(tmp_path / "d.dcm", index, BitsAllocated=8, BitsStored=8, PhotometricInterpretation="PALETTE COLOR",
                **entries)  # fmt: skip
    np.testing.assert_allclose(decoded(tmp_path / "d.dcm"), palette[index] / 257, atol=0.51)


def test_pixels_that_are_not_square(tmp_path: Path):
    write_dicom(tmp_path / "a.dcm", RAMP[:4] + 100, PixelSpacing=[2.0, 1.0])
    assert (decoded(tmp_path / "a.dcm") > 0).all(), "four tall rows fill the square"
    write_dicom(tmp_path / "b.dcm", RAMP[:4] + 100, PixelSpacing=[1.0, 1.0])
    assert (decoded(tmp_path / "b.dcm")[:2] == 0).all()


def test_files_without_the_ending(tmp_path: Path):
    write_dicom(tmp_path / "IM0001", RAMP)
    assert decoded(tmp_path / "IM0001").max() > 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PhotometricInterpretation": "HSV"}, "PhotometricInterpretation is 'HSV'"),
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation is None"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel"),
        ({"HighBit": 15}, "HighBit is 15.*expected 11"),
        ({"BitsAllocated": 32}, "BitsAllocated is 32"),
        ({"BitsStored": 17, "HighBit": 16}, "BitsStored is 17"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope"),
        ({"PresentationLUTShape": "LIN OD"}, "PresentationLUTShape is 'LIN OD'"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 1, "WindowWidth": 2}, "VOILUTFunction is 'CUBIC'"),
        ({"WindowCenter": 10, "WindowWidth": 0}, "WindowWidth is 0"),
        ({"WindowCenter": 10}, "WindowWidth is nan"),
        ({"NumberOfFrames": 2, "Rows": 4}, "NumberOfFrames 2.*depth"),
        ({"PixelData": None}, "has no PixelData"),
        ({"PixelData": RAMP.tobytes()[:50]}, "cannot be decoded"),
        ({"Rows": 60_000, "Columns": 60_000}, "3,600,000,000 pixels.*bomb"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, changes: dict, words: str):
    write_dicom(tmp_path / "a.dcm", RAMP, **changes)
    with pytest.raises(DataError, match=words):
        decoded(tmp_path / "a.dcm")


def test_enhanced_objects_are_refused_by_name(tmp_path: Path):
    for name in ("SharedFunctionalGroupsSequence", "PresentationLUTSequence"):
        write_dicom(tmp_path / "a.dcm", RAMP, **{name: pydicom.sequence.Sequence([pydicom.dataset.Dataset()])})
        with pytest.raises(DataError, match=f"attribute {name}"):
            decoded(tmp_path / "a.dcm")
