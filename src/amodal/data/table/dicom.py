"""DICOM files: the attributes that change what a pixel means are applied, or the file is refused by their names.

Stored values become levels as the standard says (PS3.3, C.7.6.3, C.11.1, C.11.2, C.11.6): unused bits are cleared, the
modality LUT or rescale gives values in units, the VOI LUT or window (or the schema's `range`, in units) gives shades,
MONOCHROME1 and the shape INVERSE turn them round, padding is black.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.limits import check_most
from amodal.data.table.levels import Levels, needs_range
from amodal.errors import ConfigurationError, DataError

__all__ = ["Frames", "is_dicom", "read_dicom", "read_header"]

_REFUSED = {
    "SharedFunctionalGroupsSequence": "an enhanced object, whose values are rescaled frame by frame",
    "PerFrameFunctionalGroupsSequence": "an enhanced object, whose values are rescaled frame by frame",
    "PresentationLUTSequence": "a presentation LUT of its own",
}
_X_RAYS = (None, "", "CR", "DX", "RG", "OT")  # films of one kind, whatever the machine
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")


class Frames(NamedTuple):
    """The frames of one DICOM file.

    Attributes:
        values: uint8 (F, H, W) grey, or (F, H, W, 3) colour.
        what: What the file was taken for.
        aspect: Height of a pixel over its width.
        notes: What is odd about it.
    """

    values: np.ndarray
    what: str
    aspect: float
    notes: tuple[str, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its ending or its first bytes."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


@contextmanager
def _pydicom(path: Path) -> Iterator[Any]:
    """The package, its warnings silenced and its errors as ours."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise ConfigurationError(
            f"{path.name} needs the package pydicom", hint="pip install 'amodal[dicom]'."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield pydicom
    except InvalidDicomError as error:
        raise DataError("it is no DICOM file") from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # pydicom's decoders raise kinds of their own
        raise DataError(f"it cannot be decoded: {str(error)[:300]}") from error


def read_header(path: Path) -> Any:
    """The attributes of a DICOM file without its pixels."""
    with _pydicom(path) as pydicom:
        return pydicom.dcmread(path, stop_before_pixels=True)


def read_dicom(path: Path, levels: Levels, most_pixels: int) -> Frames:
    """Decodes a DICOM file.

    Args:
        path: The file.
        levels: `range` is in the units of the modality LUT or rescale (HU for CT).
        most_pixels: Most pixels of all frames.

    Raises:
        DataError: If it cannot be decoded, is too large, or has an attribute that is not understood, by its name.
        ConfigurationError: If pydicom is not installed.
    """
    with _pydicom(path) as pydicom:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
        n_pixels = int(header.get("Rows") or 0) * int(header.get("Columns") or 0) * frames
        check_most("the image has", n_pixels * samples, most_pixels, "pixels",
                   hint="It is refused as a decompression bomb; raise `most_pixels` if it is none.")  # fmt: skip
        _check(header)
        data = pydicom.dcmread(path)
        if "PixelData" not in data:
            raise DataError("the DICOM file has no PixelData", expected="stored whole numbers",
                            got="FloatPixelData" if "FloatPixelData" in data else "no pixels")  # fmt: skip
        pixels = np.asarray(pydicom.pixels.pixel_array(data))
        pixels = pixels if frames > 1 else pixels[None]  # (F, H, W) or (F, H, W, 3)
        kind = str(header.PhotometricInterpretation)
        if kind in _GREY:
            values, what = _grey(pixels, data, levels)
        else:
            values, what = _colour(pixels, data, kind)
    return Frames(values, what, _aspect(header), _notes(header))


def _check(header: Any) -> None:
    """Raises DataError for what is not understood, by the attribute's name."""

    def refuse(name: str, why: str) -> None:
        raise DataError(f"the DICOM attribute {name} is {header.get(name)!r}: {why}",
                        hint="Convert the file, or take it out.")  # fmt: skip

    for name, why in _REFUSED.items():
        if name in header:
            raise DataError(
                f"the DICOM file has the attribute {name}: it is {why}",
                hint="Convert it to single frames of the classic kind, or to NIfTI (`depth`).",
            )
    kind, samples = header.get("PhotometricInterpretation"), int(header.get("SamplesPerPixel") or 1)
    if kind not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        refuse("PhotometricInterpretation", f"known are {', '.join((*_GREY, *_COLOUR, 'PALETTE COLOR'))}")
    if samples != (3 if kind in _COLOUR else 1):
        refuse("SamplesPerPixel", f"{kind} has {3 if kind in _COLOUR else 1}")
    allocated, stored = int(header.get("BitsAllocated") or 0), int(header.get("BitsStored") or 0)
    if allocated not in (8, 16):
        refuse("BitsAllocated", "8 and 16 are read")
    if not 1 <= stored <= allocated:
        refuse("BitsStored", f"expected 1 to {allocated}")
    if int(header.get("HighBit", stored - 1)) != stored - 1:
        refuse("HighBit", f"expected {stored - 1}, one less than BitsStored")
    if header.get("PresentationLUTShape") not in (None, "", "IDENTITY", "INVERSE"):
        refuse("PresentationLUTShape", "IDENTITY and INVERSE are known")
    slope = header.get("RescaleSlope")
    if slope is not None and float(slope) == 0:
        refuse("RescaleSlope", "every value would be the same")


def _grey(pixels: np.ndarray, data: Any, levels: Levels) -> tuple[np.ndarray, str]:
    """Stored values to shades, by one table of all values that can be stored."""
    bits, signed = int(data.BitsStored), bool(int(data.get("PixelRepresentation") or 0))
    low = -(2 ** (bits - 1)) if signed else 0
    every = np.arange(low, low + 2**bits)  # all values that can be stored
    places = (pixels.astype(np.int32) - low) & (2**bits - 1)  # unused bits (old overlays) are cleared
    padding = _padding(data, every)
    values, units, own = _in_units(every, data)
    modality = "" if data.get("Modality") in _X_RAYS else f" {data.get('Modality')}"
    what = f"DICOM {data.get('Modality', '')} in {units}" if units else f"DICOM{modality} of {bits} bits"
    if levels.range is not None:
        shades = _ramp(values, *levels.range)
    elif levels.scaling == "own":
        met = values[(np.bincount(places.ravel(), minlength=2**bits) > 0) & ~padding]
        shades = _ramp(values, float(met.min()), float(met.max())) if len(met) else np.zeros(2**bits)
    elif "VOILUTSequence" in data or data.get("WindowCenter") is not None:
        shades, what = _voi(values, data), f"DICOM {data.get('Modality', '')} as its window or VOI LUT shows it"
        if units and "VOILUTSequence" not in data:  # one value in two windows is two levels: such files are counted
            centre, width = _first(data.WindowCenter), _first(data.get("WindowWidth"))
            what = f"DICOM in {units} through the window {centre:g}, {width:g}"
    elif own is None:
        met = values[(np.bincount(places.ravel(), minlength=2**bits) > 0) & ~padding]
        raise needs_range(met, f"values in {units} (RescaleSlope, RescaleIntercept) and no window")
    else:
        shades = _ramp(values, *own)
    inverse = (data.PhotometricInterpretation == "MONOCHROME1") | (data.get("PresentationLUTShape") == "INVERSE")
    table = np.rint(255 * (1 - shades if inverse else shades)).astype(np.uint8)
    table[padding] = 0
    return table[places], what


def _in_units(every: np.ndarray, data: Any) -> tuple[np.ndarray, str, tuple[float, float] | None]:
    """Stored values in units, the units' name ("" = the stored values themselves), and the range of their type."""
    from pydicom.pixels import apply_modality_lut

    values = np.asarray(apply_modality_lut(every, data), dtype=np.float64)
    if data.get("ModalityLUTSequence"):
        bits = int(data.ModalityLUTSequence[0].LUTDescriptor[2])
        return values, str(data.ModalityLUTSequence[0].get("ModalityLUTType") or ""), (0.0, float(2**bits - 1))
    if np.array_equal(values, every):
        return values, "", (float(every[0]), float(every[-1]))
    units = str(data.get("RescaleType") or data.get("Units") or ("HU" if data.get("Modality") == "CT" else "units"))
    return values, units, None


def _voi(values: np.ndarray, data: Any) -> np.ndarray:
    """Shades 0 … 1 by the file's first VOI LUT, or else its first window (PS3.3, C.11.2)."""
    if "VOILUTSequence" in data:
        from pydicom.pixels import apply_voi

        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(np.rint(values).astype(np.int64), data), dtype=np.float64) / (2**bits - 1)
    centre, width = _first(data.WindowCenter), _first(data.get("WindowWidth"))
    function = str(data.get("VOILUTFunction") or "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise DataError(f"the DICOM attribute VOILUTFunction is {function!r}",
                        expected="LINEAR, LINEAR_EXACT or SIGMOID")  # fmt: skip
    if not width >= (1 if function == "LINEAR" else 1e-12):
        raise DataError(f"the DICOM attribute WindowWidth is {width:g}", expected="1 or more")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return _ramp(values, centre - width / 2, centre + width / 2)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return _ramp(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _first(given: Any) -> float:
    if given is None:
        return float("nan")
    return float(given if isinstance(given, int | float) or not hasattr(given, "__len__") else given[0])


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((values - low) / ((high - low) or 1.0)).clip(0, 1)


def _padding(data: Any, every: np.ndarray) -> np.ndarray:
    """Flags of stored values that are padding around the image, bool."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return np.zeros(len(every), bool)
    limit = data.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (every >= low) & (every <= high)


def _colour(pixels: np.ndarray, data: Any, kind: str) -> tuple[np.ndarray, str]:
    """Colour to 8 bits a channel; YBR is RGB by now."""
    from pydicom.pixels import apply_color_lut

    bits = int(data.BitsStored)
    if kind == "PALETTE COLOR":
        pixels = np.stack([apply_color_lut(frame, data) for frame in pixels])[..., :3]
        bits = 16 if pixels.dtype == np.uint16 else 8
    return (pixels if bits == 8 else np.rint(pixels * (255 / (2**bits - 1))).astype(np.uint8)), f"DICOM in {kind}"


def _aspect(header: Any) -> float:
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        given = header.get(name)
        if given is not None and len(given) == 2 and float(given[0]) > 0 and float(given[1]) > 0:
            return float(given[0]) / float(given[1])
    return 1.0


def _notes(header: Any) -> tuple[str, ...]:
    notes = []
    if header.get("BurnedInAnnotation") == "YES":
        notes.append("BurnedInAnnotation: words are drawn into the image, names perhaps")
    if header.get("PresentationIntentType") == "FOR PROCESSING":
        notes.append("PresentationIntentType FOR PROCESSING: raw values of the detector")
    if any(element.tag.group & 0xFF01 == 0x6000 for element in header):
        notes.append("an overlay (group 60xx) is not drawn")
    windows = header.get("WindowCenter")
    if windows is not None and hasattr(windows, "__len__") and not isinstance(windows, str) and len(windows) > 1:
        notes.append("several windows: the first is taken")
    return tuple(notes)
