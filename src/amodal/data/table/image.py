"""Image files: PNG, JPEG and, with pydicom, DICOM, to arrays of one size."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.table.files import FileRule, read_files
from amodal.data.table.section import Section
from amodal.data.table.source import Piece, Place, Reader, Rows, Source
from amodal.errors import ConfigurationError, DataError
from amodal.schema import Modality

__all__ = ["Image", "decode_image"]

_MOST_PIXELS = 100_000_000
_WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


@dataclass(frozen=True)
class Image(Source):
    """An image modality, kept as bytes 0 … 255.

    Attributes:
        column: The manifest's column with the names of files.
        folder: Folder they lie in, relative to the data folder.
        size: Height and width.
        channels: 1 (grey) or 3 (red, green, blue).
        fit: How an image of another shape gets there: "pad" (black borders), "crop" (the middle) or "stretch".
        missing_file: "error" or "absent".
        unreadable_file: "error" or "absent".
        most_pixels: Images with more pixels are refused before they are decoded.
        description: One line for people.
    """

    kind: ClassVar[str] = "image"
    dtype: ClassVar[str] = "uint8"

    column: str = ""
    folder: str = ""
    size: tuple[int, int] = (64, 64)
    channels: int = 1
    fit: str = "pad"
    missing_file: str = "error"
    unreadable_file: str = "error"
    most_pixels: int = _MOST_PIXELS
    description: str = ""

    @classmethod
    def read(cls, name: str, section: Section) -> Image:
        """Reads it from a schema; see `Source.read`."""
        given = section.raw("size", 64)
        sides = [given, given] if isinstance(given, int) else given
        fits = isinstance(sides, list) and len(sides) == 2 and all(type(n) is int and 4 <= n <= 2048 for n in sides)
        if not fits:
            raise section.wrong("size", "one or two whole numbers from 4 to 2048 (height, width)", given)
        channels = section.integer("channels", 1)
        if channels not in (1, 3):
            raise section.wrong("channels", "1 (grey) or 3 (colour)", channels)
        source = cls(
            name,
            section.text("column"),
            section.text("folder", ""),
            (sides[0], sides[1]),
            channels,
            section.choice("fit", ("pad", "crop", "stretch"), "pad"),
            section.choice("missing_file", ("error", "absent"), "error"),
            section.choice("unreadable_file", ("error", "absent"), "error"),
            section.integer("most_pixels", _MOST_PIXELS, most=178_000_000),
            section.text("description", ""),
        )
        section.done()
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        keys = ("column", "folder", "channels", "fit", "missing_file", "unreadable_file", "most_pixels", "description")
        record = {key: getattr(self, key) for key in keys if getattr(self, key) != ""}
        return {"kind": self.kind, **record, "size": list(self.size)}

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return (self.column,)

    def modality(self) -> Modality:
        """Name, kind and shape."""
        return Modality(self.name, "image", (self.channels, *self.size), description=self.description)

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _ImageReader(self, place)


class _ImageReader(Reader):
    def __init__(self, source: Image, place: Place):
        self.source, self.place = source, place

    def read(self, rows: Rows) -> Piece:
        source = self.source
        rule = FileRule(source.column, source.folder, source.missing_file, source.unreadable_file)
        found, observed = read_files(self.place, rows, rule, source.name, lambda path: decode_image(path, source))
        values = np.zeros((len(rows.ids), source.channels, *source.size), np.uint8)
        for i in np.flatnonzero(observed):
            values[i] = found[i]
        return Piece(values, observed)


def decode_image(path: Path, source: Image) -> np.ndarray:
    """Decodes one file to the size and channels of a source.

    Args:
        path: PNG, JPEG or DICOM (by its ending .dcm).
        source: Size, channels, fit, and the most pixels allowed.

    Returns:
        uint8 (C, H, W). Of more than eight bits a pixel the image's own range becomes 0 … 255.

    Raises:
        DataError: If it cannot be decoded, or has more pixels than allowed.
        ConfigurationError: If DICOM's reader is not installed.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    if path.suffix.lower() in (".dcm", ".dicom"):
        return _fitted(Pillow.fromarray(_dicom(path, source.most_pixels)), source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pillow's own doubts about sizes: ours come next
            with Pillow.open(path, formats=("PNG", "JPEG")) as opened:
                if opened.width * opened.height > source.most_pixels:
                    raise DataError(
                        f"the image has {opened.width:,} × {opened.height:,} pixels",
                        expected=f"{source.most_pixels:,} pixels or fewer",
                        hint="It is refused as a decompression bomb; raise `most_pixels` if it is none.",
                    )
                if opened.mode in ("L", "RGB"):
                    opened.draft(opened.mode, (2 * source.size[1], 2 * source.size[0]))
                opened.load()
                turned = ImageOps.exif_transpose(opened)
                if turned.mode in _WIDE:
                    turned = Pillow.fromarray(_eight_bits(np.asarray(turned, dtype=np.float64)))
                return _fitted(turned, source)
    except UnidentifiedImageError as error:
        raise DataError("it is no PNG or JPEG image", hint="DICOM files end in .dcm.") from error
    except Pillow.DecompressionBombError as error:
        raise DataError(
            f"the image has too many pixels: {error}",
            expected=f"{source.most_pixels:,} pixels or fewer",
            hint="It is refused as a decompression bomb.",
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"it cannot be decoded: {error}", hint="Is it truncated?") from error


def _fitted(image: Any, source: Image) -> np.ndarray:
    from PIL import Image as Pillow
    from PIL import ImageOps

    if "A" in image.getbands() or image.mode == "P":
        image = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("L" if source.channels == 1 else "RGB")
    size = (source.size[1], source.size[0])
    if source.fit == "stretch":
        image = image.resize(size, Pillow.Resampling.LANCZOS)
    elif source.fit == "crop":
        image = ImageOps.fit(image, size, Pillow.Resampling.LANCZOS)
    elif image.size != size:
        image = ImageOps.pad(image, size, Pillow.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if source.channels == 1 else array.transpose(2, 0, 1)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Any range to 0 … 255, uint8."""
    low, high = float(values.min()), float(values.max())
    return np.round((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8)


def _dicom(path: Path, most_pixels: int) -> np.ndarray:
    """The pixels of a DICOM file with one grey frame, uint8 (H, W), bright = dense."""
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
            header = pydicom.dcmread(path, stop_before_pixels=True)
            frames, samples = int(header.get("NumberOfFrames", 1) or 1), int(header.get("SamplesPerPixel", 1))
            n_pixels = int(header.Rows) * int(header.Columns) * frames * samples
            if n_pixels > most_pixels:
                raise DataError(f"the image has {n_pixels:,} pixels", expected=f"{most_pixels:,} or fewer")
            if frames != 1 or samples != 1:
                raise DataError(
                    "the DICOM file is no single grey image",
                    expected="one frame, one sample a pixel",
                    got=f"{frames} frames, {samples} samples",
                )
            pixels = pydicom.dcmread(path).pixel_array.astype(np.float64)
    except InvalidDicomError as error:
        raise DataError("it is no DICOM file") from error
    except DataError:
        raise
    except Exception as error:  # pydicom's decoders raise kinds of their own
        raise DataError(f"it cannot be decoded: {error}") from error
    pixels = pixels * float(header.get("RescaleSlope", 1) or 1) + float(header.get("RescaleIntercept", 0) or 0)
    shades = _eight_bits(pixels)
    return 255 - shades if header.get("PhotometricInterpretation") == "MONOCHROME1" else shades
