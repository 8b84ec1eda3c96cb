"""3-D volumes: NIfTI files and series of DICOM slices, whose slices become the channels of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.limits import MOST_FILES_IN_A_SERIES, check_most
from amodal.data.table.dicom import read_dicom, read_header
from amodal.data.table.levels import Decoded, Levels, bytes_of
from amodal.errors import ConfigurationError, DataError

__all__ = ["is_nifti", "read_volume"]


_ASKEW = np.cos(np.radians(20))  # of an axis against the nearest one of the body


class _Volume(NamedTuple):
    """A volume as it was stored.

    Attributes:
        values: uint8 (D, H, W): slices from the feet up, rows from front to back, columns from the patient's right.
        spacing: Millimetres between slices, rows and columns.
        what: What the file was taken for.
        notes: What is odd about it.
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    what: str
    notes: tuple[str, ...]


def is_nifti(path: Path) -> bool:
    """Whether a name is that of a NIfTI file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_volume(
    path: Path, size: tuple[int, int, int], spacing: tuple[float, ...], levels: Levels, most_pixels: int
) -> Decoded:
    """Reads a volume and brings it to one size.

    Args:
        path: A NIfTI file, a folder with the DICOM files of one series, or one DICOM file with several frames.
        size: Slices, height and width.
        spacing: Millimetres between slices, rows and columns that it is resampled to, then cut or filled with black
            about its middle; (): the whole volume is brought to `size`.
        levels: How values become 0 … 255.
        most_pixels: Most voxels, before and after it is resampled.

    Raises:
        DataError: If it is no volume, is too large, or its slices are not evenly spaced.
        ConfigurationError: If nibabel or pydicom is not installed.
    """
    if path.is_dir():
        volume = _series(path, levels, most_pixels)
    elif is_nifti(path):
        volume = _nifti(path, levels, most_pixels)
    else:
        volume = _multiframe(path, levels, most_pixels)
    values = volume.values
    check_most("the volume has", values.size, most_pixels, "voxels", hint="Raise `most_pixels` if that is right.")
    if not spacing:
        return Decoded(_resampled(values, size), volume.what, volume.notes)
    target = tuple(max(1, round(n * have / want)) for n, have, want in zip(values.shape, volume.spacing, spacing))
    check_most("at this `spacing` the volume has", int(np.prod(target)), most_pixels, "voxels")
    return Decoded(_centred(_resampled(values, target), size), volume.what, volume.notes)


def _resampled(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Linear, averaging where it becomes smaller: slices in their plane, then along the slices."""
    import torch
    from torch.nn.functional import interpolate

    if values.shape == size:
        return values
    keys: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}
    depth, height, width = size
    volume = torch.from_numpy(np.array(values, dtype=np.float32))[None]  # (1, D, H, W)
    volume = interpolate(volume, (height, width), **keys)[0]
    flat = volume.reshape(1, 1, len(volume), height * width)
    flat = interpolate(flat, (depth, height * width), **keys)
    return flat.reshape(depth, height, width).round().clamp(0, 255).to(torch.uint8).numpy()


def _centred(values: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    for axis, (have, want) in enumerate(zip(values.shape, size)):
        if have > want:
            start = (have - want) // 2
            values = values.take(range(start, start + want), axis)
        elif have < want:
            before = (want - have) // 2
            borders = [(0, 0)] * 3
            borders[axis] = (before, want - have - before)
            values = np.pad(values, borders)
    return values


def _nifti(path: Path, levels: Levels, most: int) -> _Volume:
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError
    except ImportError as error:
        raise ConfigurationError(
            f"{path.name} needs the package nibabel", hint="pip install 'amodal[nifti]'."
        ) from error
    try:
        image: Any = nibabel.load(path)
        shape = tuple(int(n) for n in image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3 or 0 in shape:
            raise DataError(f"the NIfTI file has the shape {image.shape}", expected="one volume, three axes",
                            hint="Take one volume of it, or the mean over time.")  # fmt: skip
        check_most("the volume has", int(np.prod(shape)), most, "voxels", hint="Raise `most_pixels` if that is right.")
        kind = image.get_data_dtype()
        if kind.kind not in "iuf":
            raise DataError(f"the NIfTI file holds values of type {kind}", expected="numbers")
        image = nibabel.as_closest_canonical(image)
        values = np.asarray(image.get_fdata(dtype=np.float32)).reshape(image.shape[:3])  # scl_slope, scl_inter applied
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"it is no NIfTI file that can be read: {str(error)[:200]}", hint="Is it truncated?") from error
    spacing = tuple(float(n) for n in image.header.get_zooms()[:3])[::-1]
    plain = kind == np.uint8 and image.dataobj.slope in (0, 1) and image.dataobj.inter == 0
    values = values[::-1, ::-1, :].transpose(2, 1, 0)  # from right-anterior-superior to DICOM's rows and columns
    what, notes = "values of a NIfTI file", []
    nothing = ~np.isfinite(values)
    if nothing.all():
        raise DataError("the NIfTI file has not one voxel with a number", got="NaN throughout")
    if nothing.any():
        notes.append("voxels that are no numbers, taken as black")
    if np.abs(image.affine[:3, :3] / np.array(image.header.get_zooms()[:3])).max(0).min() < _ASKEW:
        notes.append("a volume that is turned against the body's axes, read along its own")
    mapped = bytes_of(values, levels, (0.0, 255.0) if plain else None, what)
    return _Volume(mapped, (spacing[0], spacing[1], spacing[2]), what, tuple(notes))


def _series(folder: Path, levels: Levels, most: int) -> _Volume:
    """The DICOM files of a folder, ordered along the normal of their plane."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = [path for path in files if path.name.upper() != "DICOMDIR"]
    if not files:
        raise DataError("the folder is empty", expected="the DICOM files of one series")
    check_most("the folder has", len(files), MOST_FILES_IN_A_SERIES, "files")
    headers = [_header(path) for path in files]
    series = sorted({str(header.get("SeriesInstanceUID")) for header in headers})
    if len(series) > 1:
        raise DataError(f"the folder holds {len(series)} series", expected="the files of one SeriesInstanceUID",
                        hint="Put each series into a folder of its own.")  # fmt: skip
    first = headers[0]
    for path, header in zip(files, headers):
        for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "PhotometricInterpretation"):
            if header.get(name) != first.get(name):
                raise DataError(f"{path.name} has another {name} than {files[0].name}",
                                expected=first.get(name), got=header.get(name))  # fmt: skip
        if "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header:
            raise DataError(f"{path.name} does not say where its slice lies",
                            expected="ImagePositionPatient and ImageOrientationPatient")  # fmt: skip
    check_most("the volume has", int(first.Rows) * int(first.Columns) * len(files), most, "voxels",
               hint="Raise `most_pixels` if that is right.")  # fmt: skip
    rows, columns = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(rows, columns)
    normal *= np.sign(normal[np.abs(normal).argmax()])  # upwards, to the left, or backwards
    heights = np.array([np.array(header.ImagePositionPatient, float) @ normal for header in headers])
    order = np.argsort(heights)
    gaps = np.diff(heights[order])
    if len(gaps) and (gaps.min() <= 1e-3 or gaps.max() > 1.05 * np.median(gaps) + 0.05):
        raise DataError(
            "the slices of the series are not evenly spaced: one is missing, or two lie in one place",
            got=f"gaps of {gaps.min():g} … {gaps.max():g} mm",
        )
    slices = [read_dicom(files[i], levels, most) for i in order]
    if min(np.abs(axis).max() for axis in (rows, columns)) < _ASKEW:
        slices[0] = slices[0]._replace(
            notes=(*slices[0].notes, "a volume that is turned against the body's axes, read along its own")
        )
    return _stacked(slices, float(np.median(gaps)) if len(gaps) else float(first.get("SliceThickness") or 1), first)


def _header(path: Path) -> Any:
    try:
        return read_header(path)
    except DataError as error:
        raise DataError(
            f"{path.name} of the folder: {error}", expected="the DICOM files of one series and nothing else",
            hint="Take it out of the folder.",
        ) from error  # fmt: skip


def _multiframe(path: Path, levels: Levels, most: int) -> _Volume:
    header = read_header(path)
    frames = read_dicom(path, levels, most)
    return _stacked([frames], float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1), header)


def _stacked(slices: list[Any], gap: float, header: Any) -> _Volume:
    if any(part.values.ndim != 3 for part in slices):
        raise DataError("the volume is in colour", expected="grey slices")
    kinds = sorted({part.what for part in slices})
    if len(kinds) > 1:
        raise DataError("the slices of the series do not mean the same", expected="one kind of values", got=kinds)
    given = header.get("PixelSpacing") or (1.0, 1.0)
    values = np.concatenate([part.values for part in slices])
    notes = tuple(dict.fromkeys(note for part in slices for note in part.notes))
    return _Volume(values, (gap, float(given[0]), float(given[1])), kinds[0], notes)
