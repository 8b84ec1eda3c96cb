"""Image files and volumes to arrays of one size: PNG, JPEG, TIFF, BMP, WebP, and by extras DICOM and NIfTI."""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.limits import MOST_PIXELS, check_most
from amodal.data.table.dicom import is_dicom, read_dicom
from amodal.data.table.files import FileRule, read_files
from amodal.data.table.levels import BY_TYPE, Decoded, Levels, bytes_of
from amodal.data.table.section import Section
from amodal.data.table.several import ONE, Several
from amodal.data.table.source import Piece, Place, Reader, Rows, Source, set_piece
from amodal.data.table.volume import is_nifti, read_volume
from amodal.errors import DataError, SchemaError
from amodal.kinds.sets import ImageSet
from amodal.schema import Modality

__all__ = ["Image", "decode_image"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_COLOURED = 24  # of 255 between red, green and blue
_BOMB = "It is refused as a decompression bomb; raise `most_pixels` if it is none."


@dataclass(frozen=True)
class Image(Source):
    """An image modality, kept as levels 0 … 255; of volumes slices are channels.

    Attributes:
        column: The manifest's column with the names of files (of volumes also of folders with one DICOM series).
        folder: Folder they lie in, relative to the data folder.
        ending: What the names in the column lack, such as ".png".
        size: Height and width.
        channels: 1 (grey) or 3 (red, green, blue).
        fit: How an image of another shape gets there: "pad" (black borders), "crop" (the middle) or "stretch".
        levels: Which values become 0 and 255 (`range`, `scaling`).
        depth: Slices of a volume; 0 = no volume.
        spacing: Millimetres between slices, rows and columns that volumes are resampled to; () = the whole is fitted.
        several: How the names of several images in one cell are parted; these become a set.
        missing_file: "error" or "absent".
        unreadable_file: "error" or "absent".
        most_pixels: Images with more pixels are refused before they are decoded.
        description: One line for people.
    """

    kind: ClassVar[str] = "image"
    dtype: ClassVar[str] = "uint8"

    column: str = ""
    folder: str = ""
    ending: str = ""
    size: tuple[int, int] = (64, 64)
    channels: int = 1
    fit: str = "pad"
    levels: Levels = BY_TYPE
    depth: int = 0
    spacing: tuple[float, ...] = ()
    several: Several = ONE
    missing_file: str = "error"
    unreadable_file: str = "error"
    most_pixels: int = MOST_PIXELS
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
            column=section.text("column"),
            folder=section.text("folder", ""),
            ending=section.text("ending", ""),
            size=(sides[0], sides[1]),
            channels=channels,
            fit=section.choice("fit", ("pad", "crop", "stretch"), "pad"),
            levels=Levels.read(section),
            depth=section.integer("depth", 0, least=0, most=512),
            spacing=section.numbers("spacing", ()),
            several=Several.read(section),
            missing_file=section.choice("missing_file", ("error", "absent"), "error"),
            unreadable_file=section.choice("unreadable_file", ("error", "absent"), "error"),
            most_pixels=section.integer("most_pixels", MOST_PIXELS, most=178_000_000),
            description=section.text("description", ""),
        )
        section.done()
        source._check(section)
        return source

    def _check(self, section: Section) -> None:
        if self.depth and self.channels != 1:
            raise SchemaError(f"{section.where}: a volume is grey, and its slices are its channels",
                              hint="Take out `channels`, or `depth`.")  # fmt: skip
        if self.spacing and (not self.depth or len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise section.wrong("spacing", "with `depth`: three positive numbers (mm between slices, rows, columns)",
                                list(self.spacing))  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        keys = ("column", "folder", "channels", "fit", "missing_file", "unreadable_file", "most_pixels", "description")
        record = {key: getattr(self, key) for key in keys if getattr(self, key) != ""}
        record |= {key: getattr(self, key) for key in ("ending", "depth") if getattr(self, key)}
        record |= {"spacing": list(self.spacing)} if self.spacing else {}
        record |= self.several.to_json()
        return {"kind": self.kind, **record, "size": list(self.size), **self.levels.to_json()}

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return (self.column,)

    def modality(self) -> Modality:
        """Name, kind and shape."""
        shape = (self.depth or self.channels, *self.size)
        if self.several:
            return Modality(self.name, ImageSet.name, (self.several.most, *shape), description=self.description)
        return Modality(self.name, "image", shape, description=self.description)

    def set_rule(self) -> Several:
        """How several of its entries stand in one cell."""
        return self.several

    def surveyed(self, place: Place) -> Image:
        """Itself with the number of images of the fullest cell."""
        return replace(self, several=self.several.surveyed(place.manifest, self.column, place.missing))

    def taken_for(self) -> str:
        """One line on what the files are taken for."""
        height, width = self.size
        what = f"{'colour' if self.channels == 3 else 'grey'} images of {height} × {width} ({self.fit})"
        if self.depth:
            how = (
                f"at {' × '.join(f'{n:g}' for n in self.spacing)} mm" if self.spacing else "the whole volume stretched"
            )
            what = f"volumes of {self.depth} × {height} × {width}, slices as channels, {how}"
        if self.several:
            what = f"sets of up to {self.several.most} {what}"
        return f"{what}; {self.levels.describe()}"

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _ImageReader(self, place)


class _ImageReader(Reader):
    def __init__(self, source: Image, place: Place):
        self.source, self.place = source, place
        self.first = ""

    def read(self, rows: Rows) -> Piece:
        source = self.source
        rule = FileRule(
            source.column, source.folder, source.missing_file, source.unreadable_file,
            ending=source.ending, several=source.several, folders=bool(source.depth),
        )  # fmt: skip
        found, observed = read_files(self.place, rows, rule, source.name, lambda path: _decoded(path, source))
        self._tell(rows, found, observed)
        shape = source.modality().shape
        arrays = [[part.values for part in own] for own in found]
        if source.several:
            return set_piece(arrays, shape[1:], np.uint8)
        values = np.zeros((len(rows.ids), *shape), np.uint8)
        for i in np.flatnonzero(observed):
            values[i] = arrays[i][0]
        return Piece(values, observed)

    def _tell(self, rows: Rows, found: list[list[Decoded]], observed: np.ndarray) -> None:
        """Counts what is odd, and refuses values of two meanings under one stated range."""
        source, problems = self.source, self.place.problems
        for i, part in ((row, part) for row in np.flatnonzero(observed) for part in found[row]):
            self.first = self.first or part.what
            for note in part.notes:
                problems.add(f"{source.name}: {note}", [rows.ids[i]])
            if part.what == self.first:
                continue
            if source.levels.range is not None:
                problems.grave(
                    f"{source.name}: files of two kinds under one `range`", [rows.ids[i]], [part.what],
                    expected=f"{self.first}, as in the first file",
                    hint="One range cannot hold for both: make a modality of each, or take out `range`.",
                )  # fmt: skip
            else:
                problems.add(f"{source.name}: a file of another kind than the first ({self.first})", [rows.ids[i]],
                             [part.what])  # fmt: skip


def decode_image(path: Path, source: Image) -> np.ndarray:
    """Decodes one file to the size and channels of a source.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or DICOM; with `depth` NIfTI, several frames or a folder of DICOM.
        source: Size, channels, fit, levels, and the most pixels allowed.

    Returns:
        uint8 (C, H, W). Levels are those of the file's type or of the stated range, the same for all images.

    Raises:
        DataError: If it cannot be decoded, has too many pixels, or values without a range that means something.
        ConfigurationError: If DICOM's or NIfTI's reader is not installed.
    """
    return _decoded(path, source).values


def _decoded(path: Path, source: Image) -> Decoded:
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    if source.depth:
        if not (path.is_dir() or is_nifti(path) or is_dicom(path)):
            raise DataError("it is no volume", expected="NIfTI, several frames of DICOM, or a folder of its slices",
                            hint="Take out `depth` to read it as an image.")  # fmt: skip
        return read_volume(path, (source.depth, *source.size), source.spacing, source.levels, source.most_pixels)
    if is_nifti(path):
        raise DataError("it is a NIfTI volume", hint="Write `depth: 32` (so many slices, which become channels).")
    if is_dicom(path):
        return _of_dicom(path, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pillow's own doubts about sizes: ours come next
            with Pillow.open(path, formats=_FORMATS) as opened:
                check_most("the image has", opened.width * opened.height, source.most_pixels, "pixels", hint=_BOMB)
                frames = getattr(opened, "n_frames", 1)
                if frames > 1 and opened.format != "MPO":
                    raise DataError(f"the file holds {frames} images", expected="one",
                                    hint="Save each as a file of its own, and list them with `separator`.")  # fmt: skip
                if opened.mode in ("L", "RGB") and source.levels.scaling == "type":
                    opened.draft(opened.mode, (2 * source.size[1], 2 * source.size[0]))
                wide = _is_wide_colour(opened)
                opened.load()
                turned = ImageOps.exif_transpose(opened)
                array, what = _shades(turned, opened, source, wide)
                notes = (*_narrow(array, what, source), *_greyed(turned, source))
                return Decoded(_fitted(Pillow.fromarray(array), source), what, notes)
    except UnidentifiedImageError as error:
        raise DataError("it is no PNG, JPEG, TIFF, BMP or WebP image, nor DICOM") from error
    except Pillow.DecompressionBombError as error:
        raise DataError(
            f"the image has too many pixels: {error}",
            expected=f"{source.most_pixels:,} pixels or fewer",
            hint="It is refused as a decompression bomb.",
        ) from error
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, RuntimeError,
            AttributeError, struct.error, zlib.error) as error:  # fmt: skip
        raise DataError(f"it cannot be decoded: {error}", hint="Is it truncated?") from error


def _is_wide_colour(opened: Any) -> bool:
    """Whether it is a colour image of 16 bits, of which pillow keeps the upper eight."""
    return opened.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in opened.tile if len(tile) > 3)


def _shades(image: Any, opened: Any, source: Image, wide: bool) -> tuple[np.ndarray, str]:
    """Levels 0 … 255 of a pillow image, grey (H, W) or colour (H, W, 3), and what it was taken for."""
    from PIL import Image as Pillow

    levels = source.levels
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PNG"):
        values = np.asarray(image).astype(np.uint16)
        if opened.format == "TIFF" and opened.tag_v2.get(262) == 0:
            values = 65535 - values  # white is zero, which pillow turns round for fewer bits only
        return bytes_of(values, levels, (0.0, 65535.0), "numbers of 16 bits"), "image of 16 bits"
    if image.mode in ("I", "F"):
        what = f"{'whole' if image.mode == 'I' else 'fractional'} numbers of 32 bits"
        return bytes_of(np.asarray(image), levels, None, what), what
    if wide and levels.range is not None:
        raise DataError("it is a colour image of 16 bits, of which only the upper eight are read",
                        hint="Save it with 8 bits, or take out `range`.")  # fmt: skip
    if "A" in image.getbands() or image.mode == "P":
        image = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, (0, 0, 0, 255)), image)
    array = np.asarray(image.convert("L" if source.channels == 1 else "RGB"))
    return bytes_of(array, levels, (0.0, 255.0), "numbers of 8 bits"), "image of 8 bits"


def _narrow(array: np.ndarray, what: str, source: Image) -> tuple[str, ...]:
    """A note on a file of 16 bits that uses less than an eighth of them: its detector may have fewer."""
    top = 256 * (int(array.max(initial=0)) + 1)
    if what != "image of 16 bits" or source.levels != BY_TYPE or top > 8192:
        return ()
    return ("16 bits of which less than an eighth is used; of a detector of 12 bits say `range: [0, 4095]`",)


def _greyed(image: Any, source: Image) -> tuple[str, ...]:
    """A note on colours that are read as grey."""
    if source.channels != 1 or len(image.getbands()) < 3:
        return ()
    colours = np.asarray(image.convert("RGB").resize((32, 32))).astype(np.int16)
    if (colours.max(2) - colours.min(2)).max() <= _COLOURED:
        return ()
    return ("colours, read as grey (`channels: 3` keeps them)",)


def _of_dicom(path: Path, source: Image) -> Decoded:
    from PIL import Image as Pillow

    frames = read_dicom(path, source.levels, source.most_pixels)
    if len(frames.values) != 1:
        raise DataError(f"the DICOM file has NumberOfFrames {len(frames.values)}", expected="one frame",
                        hint="Write `depth: 32` to read it as a volume (so many slices, which become channels).",
                        )  # fmt: skip
    image = Pillow.fromarray(frames.values[0])
    height = round(image.height * frames.aspect)
    if abs(frames.aspect - 1) > 0.01 and source.fit != "stretch" and height >= 1:
        check_most("with square pixels the image has", height * image.width, source.most_pixels, "pixels")
        image = image.resize((image.width, height), Pillow.Resampling.BILINEAR)
    return Decoded(_fitted(image, source), frames.what, (*frames.notes, *_greyed(image, source)))


def _fitted(image: Any, source: Image) -> np.ndarray:
    from PIL import Image as Pillow
    from PIL import ImageOps

    image = image.convert("L" if source.channels == 1 else "RGB")
    size = (source.size[1], source.size[0])
    shrink = min(image.width // (4 * size[0]), image.height // (4 * size[1]))
    if shrink > 1:  # whole blocks are averaged first: a large image takes a fraction of the time
        image = image.reduce(shrink)
    if source.fit == "stretch":
        image = image.resize(size, Pillow.Resampling.LANCZOS)
    elif source.fit == "crop":
        image = ImageOps.fit(image, size, Pillow.Resampling.LANCZOS)
    elif image.size != size:
        image = ImageOps.pad(image, size, Pillow.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if source.channels == 1 else array.transpose(2, 0, 1)
