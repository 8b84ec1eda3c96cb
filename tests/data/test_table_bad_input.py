"""What people get wrong in their tables and schemas, and the words they are told."""

from __future__ import annotations

import copy
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from data.table.dicom_made import write_dicom
from PIL import Image

from amodal.data.table import prepare
from amodal.errors import AmodalError

ROWS = "id,patient,fold,died,age,sex,day,img,note,vec\n" + "".join(
    f"p{i},g{i},{'train' if i % 3 else 'test'},{'yes' if i % 2 else 'no'},{40 + i},{'FM'[i % 2]},2026-01-{i + 1:02d},"
    f"i{i}.png,note {i},v{i}.npy\n"
    for i in range(12)
)
EVENTS = "id,hour,name,value,unit\n" + "".join(f"p{i},{h},Temp,{37 + h / 10},degC\n" for i in range(12) for h in (1, 2))
SCHEMA: dict[str, Any] = {
    "id": "id",
    "group": "patient",
    "split": {"column": "fold"},
    "task": {"kind": "binary", "column": "died", "classes": ["no", "yes"]},
    "modalities": {
        "clinical": {
            "kind": "tabular",
            "columns": {
                "age": {"units": "years", "min": 0, "max": 120},
                "sex": {"type": "category", "categories": ["F", "M"]},
                "day": {"type": "date"},
            },
        },
        "xray": {"kind": "image", "column": "img", "size": 8},
        "note": {"kind": "text", "column": "note"},
        "vector": {"kind": "embedding", "column": "vec"},
        "vitals": {
            "kind": "events", "file": "events.csv", "id": "id", "time": "hour", "variable": "name", "value": "value",
            "units_column": "unit", "stop": 4, "step": 1,
            "variables": {"Temp": {"units": "degC", "min": 30, "max": 45}},
        },
    },
}  # fmt: skip


class Case(NamedTuple):
    name: str
    change: Callable[[Path, dict[str, Any]], Any]
    words: tuple[str, ...]


def put(*path: str, value: Any) -> Callable[[Path, dict], None]:
    """Sets a value deep in the schema; a value of ... deletes it."""

    def change(folder: Path, schema: dict) -> None:
        *upper, last = path
        inner = schema
        for key in upper:
            inner = inner[key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value

    return change


def cells(old: str, new: str, file: str = "cohort.csv") -> Callable[[Path, dict], None]:
    """Replaces text in a table."""

    def change(folder: Path, schema: dict) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return change


def write(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path, dict], None]:
    return lambda folder, schema: (folder / name).write_bytes(content() if callable(content) else content)


def bomb() -> bytes:
    """A PNG of 60,000 × 60,000 pixels, a few kilobytes long."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(60_001))) + chunk(
        b"IEND", b""
    )  # fmt: skip


def packed_bomb(folder: Path, schema: dict) -> None:
    """An .npz that says little and unpacks to 200 MB of zeros."""
    content = io.BytesIO()
    np.save(content, np.zeros(200 * 2**20, np.uint8))
    with zipfile.ZipFile(folder / "v3.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content.getvalue())
    cells("v3.npy", "v3.npz")(folder, schema)
    schema["modalities"]["vector"]["shape"] = [3]


def rgb16() -> bytes:
    """A PNG in colour with 16 bits a channel, which pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header, rows = struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0), (b"\0" + bytes(54)) * 9
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pillow(array: np.ndarray, name: str) -> Callable[[Path, dict], None]:
    """Writes an image and names it in row p3."""

    def change(folder: Path, schema: dict) -> None:
        Image.fromarray(array).save(folder / name)
        cells("i3.png", name)(folder, schema)

    return change


def pages(folder: Path, schema: dict) -> None:
    page = Image.fromarray(np.zeros((9, 9), np.uint8))
    page.save(folder / "p.tif", save_all=True, append_images=[page, page])
    cells("i3.png", "p.tif")(folder, schema)


def dicom(folder: Path, schema: dict, **attributes: Any) -> None:
    pytest.importorskip("pydicom")
    write_dicom(folder / "d.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8), **attributes)
    cells("i3.png", "d.dcm")(folder, schema)


def pickled(folder: Path, schema: dict) -> None:
    np.save(folder / "v3.npy", np.array([print, {}], dtype=object), allow_pickle=True)


def bank(values: np.ndarray, names: list[str], **keys: Any) -> Callable[[Path, dict], None]:
    def change(folder: Path, schema: dict) -> None:
        np.savez(folder / "bank.npz", x=values, names=np.array(names))
        schema["modalities"]["vector"] = {"kind": "embedding", "file": "bank.npz", "key": "x", "ids": "names"} | keys

    return change


def yaml_text(text: str) -> Callable[[Path, dict], str]:
    return lambda folder, schema: text


def link(folder: Path, schema: dict) -> None:
    os.symlink("/etc/hostname", folder / "trick.png")
    cells("i3.png", "trick.png")(folder, schema)


AGE = ("modalities", "clinical", "columns", "age")
ALL = [f"p{i}" for i in range(12)]
CASES = [
    # the schema itself
    Case("unknown key", put("gruop", value="patient"), ("unknown key 'gruop'", "Did you mean 'group'?")),
    Case("unknown key deep inside", put(*AGE, "unit", value="y"),
         ("modalities.clinical.columns.age", "unknown key 'unit'", "Did you mean 'units'?")),
    Case("unknown kind", put("modalities", "xray", "kind", value="picture"),
         ("modalities.xray.kind is not known", "expected one of", "image")),
    Case("nearest kind", put("modalities", "xray", "kind", value="imagee"), ("Did you mean 'image'?",)),
    Case("key lacking", put("modalities", "xray", "column", value=...), ("modalities.xray lacks the key 'column'",)),
    Case("key misspelt", lambda f, s: s["modalities"]["note"].update(colum=s["modalities"]["note"].pop("column")),
         ("lacks the key 'column'", "Is 'colum' meant to be it?")),
    Case("text where a number belongs", put(*AGE, "max", value="old"), ("age.max", "expected a number", "'old'")),
    Case("number where a list belongs", put("extras", value=3), ("extras has another type", "expected a list")),
    Case("size of four", put("modalities", "xray", "size", value=[1, 2, 3]), ("modalities.xray.size", "height, width")),
    Case("two channels", put("modalities", "xray", "channels", value=2), ("1 (grey) or 3 (colour)",)),
    Case("min above max", put(*AGE, "min", value=200), ("min is not below max", "200 … 120")),
    Case("no modalities", put("modalities", value={}), ("modalities names no modality",)),
    Case("no task", put("task", value=...), ("lacks the key 'task'",)),
    Case("fractions that sum to 0.9", put("split", value={"fractions": {"train": 0.5, "test": 0.4}}),
         ("split.fractions must be positive and sum to 1",)),
    Case("three classes of a binary task", put("task", "classes", value=["no", "yes", "maybe"]),
         ("binary", "two distinct classes")),
    Case("truth value as a class", put("task", "classes", value=[True, False]), ("classes", "texts")),
    Case("modality with a name that is none", lambda f, s: s["modalities"].update({"x ray": s["modalities"]["xray"]}),
         ("'x ray'", "letters, digits")),
    Case("window of no length", put("modalities", "vitals", "stop", value=0), ("modalities.vitals has no window",)),
    Case("target among the inputs", put("modalities", "note", "column", value="died"),
         ("reads the target column 'died'", "cannot be an input")),
    Case("newer format", put("format", value=99), ("newer format", "Update amodal.")),
    Case("too many listed categories", put("modalities", "clinical", "columns", "sex", "categories",
                                           value=[str(i) for i in range(500)]), ("500 categories", "other: true")),
    Case("units in the column's name that differ", lambda f, s: (
        cells(",age,", ",age (months),")(f, s),
        s["modalities"]["clinical"]["columns"].update({"age (months)": {"units": "years"}}),
    ), ("says other units than the schema", "expected years", "got months")),
    Case("YAML that is none", yaml_text("id: [a\ntask: }"), ("is no YAML, line 2",)),
    Case("YAML with a key twice", yaml_text("id: a\nid: b\n"), ("line 2", "'id' stands twice")),
    Case("YAML with aliases", yaml_text("a: &x [1]\nb: *x\n"), ("aliases are not allowed",)),
    Case("YAML with a Python object", yaml_text("!!python/object/apply:os.system ['true']"), ("is no YAML",)),
    Case("YAML that is a list", yaml_text("- a\n- b\n"), ("is no mapping",)),
    # columns
    Case("column that is not there", put("modalities", "note", "column", value="notes"),
         ("modalities.note names the column 'notes'", "cohort.csv does not have", "Did you mean 'note'?")),
    Case("id column that is not there", put("id", value="ID"), ("id names the column 'ID'", "Did you mean 'id'?")),
    Case("event column that is not there", put("modalities", "vitals", "time", value="hours"),
         ("names the column 'hours'", "events.csv", "Did you mean 'hour'?")),
    # the manifest
    Case("no rows", write("cohort.csv", ROWS.splitlines()[0].encode() + b"\n"), ("has no rows",)),
    Case("nothing at all", write("cohort.csv", b""), ("cohort.csv is empty",)),
    Case("Latin-1", write("cohort.csv", ROWS.replace("note 3", "Müdigkeit").encode("latin-1")),
         ("no UTF-8 text", "Save it as CSV UTF-8")),
    Case("no text", write("cohort.csv", ROWS.encode("utf-16-le")), ("UTF-16 without its mark", "CSV UTF-8",)),
    Case("row with too many cells", cells("note 3", "note 3, with a comma"),
         ("another number of cells, in line 5", "expected 10 cells", "got 11", "double quotes")),
    Case("a column twice", cells(",note,", ",age,"), ("has the column 'age' twice",)),
    Case("an Excel file called CSV", write("cohort.csv", b"PK\x03\x04 and more"), ("is no CSV file", ".xlsx")),
    Case("id twice", cells("p3,g3", "p4,g4"), ("ids come more than once: p4",)),
    Case("id missing", cells("p3,g3", ",g3"), ("id column 'id'", "is empty", "in 1 rows, first in row 5")),
    Case("group missing", cells("p3,g3", "p3,"), ("the group column 'patient' is empty in rows: p3",)),
    Case("group in two splits", cells("p3,g3", "p3,g4"), ("group 'g4' is in two splits", "'test' and 'train'")),
    Case("target missing", cells("train,yes,41", "train,,41"),
         ("the target 'died' is missing in rows: p1", "without_target: leave_out")),
    Case("target of no class", cells("train,yes,41", "train,Yes,41"),
         ("has values that no class has: 'Yes' (first in row p1)", "Did you mean 'yes'?")),
    Case("target that is no number", put("task", value={"kind": "regression", "column": "fold"}),
         ("the target column 'fold' has 12 cells that are no numbers, first in row p0", "'test'")),
    # cells
    Case("mixed types in a column", cells(",43,", ",43y,"),
         ("column 'age': 'y' stands beside the number: '43y' in row p3", "numbers in years", "`type: duration")),
    Case("words in a column of numbers", cells(",43,", ",old,"),
         ("column 'age': not a number: 'old' in row p3", "a number in years", "`missing`")),
    Case("commas of what", cells(",43,", ',"1,234",'), ("'1,234' can be read in two ways", "thousands: ','")),
    Case("infinite number", cells(",43,", ",inf,"), ("not a number: 'inf' in row p3",)),
    Case("unknown category", cells(",M,2026-01-04", ",divers,2026-01-04"),
         ("column 'sex': unknown category: 'divers' in row p3", "one of F, M", "other: true")),
    Case("dates in three formats", lambda f, s: (
        cells("2026-01-02", "02/13/2026")(f, s), cells("2026-01-03", "31/01/2026")(f, s),
        cells("2026-01-04", "03/04/2026")(f, s),
    ), ("day and month cannot be told apart", "'03/04/2026' in row p3", "%d/%m/%Y and %m/%d/%Y")),
    Case("dates of which day and month are unknown", lambda f, s: [
        cells(f"2026-01-{i + 1:02d}", f"{i + 1:02d}/01/2026")(f, s) for i in range(12)
    ], ("day and month cannot be told apart", "format: '%d/%m/%Y'")),
    Case("no dates", cells("2026-01-03", "soon"), ("not a date: 'soon' in row p2", "2026-01-31 08:30")),
    Case("10,000 categories", lambda f, s: (
        (f / "cohort.csv").write_text("id,died,city\n" + "".join(f"{i},{'yes' if i % 2 else 'no'},city {i}\n"
                                                                for i in range(10_000))),
        s.clear(),
        s.update({"id": "id", "task": SCHEMA["task"], "modalities": {
            "t": {"kind": "tabular", "columns": {"city": {"type": "category"}}}}}),
    ), ("column 'city' has 10,000 categories", "a number, an id or a text")),
    Case("other units than the range says", put(*AGE, "max", value=10),
         ("column 'age': 100% of 12 cells are out of range", "a median of 45.5", "other units")),
    # events
    Case("units in the events that differ", cells("p3,1,Temp,37.1,degC", "p3,1,Temp,98.8,degF", "events.csv"),
         ("'Temp' stands there in degF, not in degC", "p3", "other_units")),
    Case("events of other patients", lambda f, s: [cells(f"\np{i},", f"\nq{i},", "events.csv")(f, s)
                                                   for i in range(12)],
         ("no id of events.csv is an id of the manifest", "ids like p0", "Leading zeros")),
    Case("time that is a date", cells("p3,1,", "p3,2026-01-01,", "events.csv"),
         ("column 'hour' of events.csv: not a number", "`since`")),
    Case("value that is no number", cells("37.1", "high", "events.csv"), ("column 'value'", "not a number", "'high'")),
    Case("events table that is not there", put("modalities", "vitals", "file", value="event.csv"),
         ("there is no table at", "Did you mean 'events.csv'?")),
    # files
    Case("image that is not there", cells("i3.png", "i33.png"),
         ("xray: file not there: 'i33.png' in row p3", "missing_file: absent")),
    Case("image that cannot be decoded", write("i3.png", b"\x89PNG\r\n\x1a\n and then nothing sensible"),
         ("xray: file unreadable: 'i3.png' in row p3", "unreadable_file: absent")),
    Case("image cut short", lambda f, s: write("i3.png", (f / "i3.png").read_bytes()[:60])(f, s),
         ("file unreadable: 'i3.png' in row p3", "Is it truncated?")),
    Case("text called image", write("i3.png", b"hello"), ("no PNG, JPEG, TIFF, BMP or WebP image, nor DICOM",)),
    Case("path outside the folder", cells("i3.png", "../../etc/passwd"),
         ("'../../etc/passwd' lies outside the data folder", "--root")),
    Case("absolute path", cells("i3.png", "/etc/passwd"), ("'/etc/passwd' lies outside the data folder",)),
    Case("link that leads outside", link, ("'trick.png' lies outside the data folder",)),
    Case("table outside the folder", put("modalities", "vitals", "file", value="../events.csv"),
         ("'../events.csv' lies outside the data folder",)),
    Case("decompression bomb", write("i3.png", bomb),
         ("3600000000 pixels", "expected 100,000,000 pixels or fewer", "decompression bomb")),
    Case("decompression bomb of arrays", packed_bomb, ("v3.npz unpacks to", "times its size", "decompression bomb")),
    Case("array with Python objects", pickled, ("v3.npy holds Python objects", "never unpickled")),
    Case("array cut short", lambda f, s: write("v3.npy", (f / "v3.npy").read_bytes()[:-4])(f, s),
         ("v3.npy is smaller than its header says",)),
    Case("array of another shape", lambda f, s: np.save(f / "v3.npy", np.zeros(4, np.float32)),
         ("the array has the shape (4,)", "expected (3,)")),
    Case("array with infinity", lambda f, s: np.save(f / "v3.npy", np.float32([1, np.inf, 2])), ("infinite values",)),
    Case("array and bank", put("modalities", "vector", "file", value="bank.npz"), ("needs either `column`",)),
    Case("bank without a case", bank(np.zeros((11, 3)), ALL[:11]),
         ("vector: no row of bank.npz has this name: 'p11' in row p11", "missing_file: absent")),
    Case("bank with names twice", bank(np.zeros((12, 3)), [*ALL[:11], "p0"]), ("has the name 'p0' twice",)),
    Case("bank with too few names", bank(np.zeros((12, 3)), ALL[:11]), ("does not have one name for each row",)),
    # levels, formats and limits of images
    Case("16 bits of fractions", pillow(np.linspace(0, 1, 81, dtype="f4").reshape(9, 9), "i3.tif"),
         ("fractional numbers of 32 bits", "no black and white of their own", "`range: [", "scaling: own")),
    Case("range that runs backwards", put("modalities", "xray", "range", value=[255, 0]), ("range", "black and white")),
    Case("range of three", put("modalities", "xray", "range", value=[0, 1, 2]), ("range", "two numbers")),
    Case("range and own extremes", lambda f, s: s["modalities"]["xray"].update(range=[0, 9], scaling="own"),
         ("has both `range` and `scaling: own`",)),
    Case("unknown scaling", put("modalities", "xray", "scaling", value="each"), ("scaling is not known", "type, own")),
    Case("colour of 16 bits under a range", lambda f, s: (
        write("i3.png", rgb16)(f, s), put("modalities", "xray", "range", value=[0, 4095])(f, s)
    ), ("colour image of 16 bits", "only the upper eight")),
    Case("several images in one file", lambda f, s: pages(f, s), ("holds 3 images", "expected one", "`separator`")),
    Case("several names without a separator", cells("i3.png", "i3.png;i4.png"),
         ("The cell names 2 files", '`separator: ";"`')),
    Case("most without a separator", put("modalities", "xray", "most", value=2), ("`separator: ';'`",)),
    Case("one of several files that is not there", lambda f, s: (
        cells("i3.png", "i3.png;i44.png;i5.png")(f, s), put("modalities", "xray", "separator", value=";")(f, s)
    ), ("file not there: 'i44.png' in row p3", "to take such files as absent")),
    Case("a set of series", lambda f, s: s["modalities"].update(
        vector={"kind": "array", "as": "series", "column": "vec", "separator": ";"}),
         ("its cells name no arrays that could be a set", "as: tabular or as: image")),
    Case("units that are too few", put("modalities", "vector", "units", value=["mV", "mV"]),
         ("vector.units do not fit arrays of shape (3,)", "expected 3, one a feature")),
    Case("names without their ending", cells("i3.png", "i3"), ("Did you mean 'i3.png'?", "`ending: .png`")),
    Case("a folder that is not there", put("modalities", "xray", "folder", value="scans"), ("no folder 'scans'",)),
    Case("spelt nearly", cells("i3.png", "i_3.png"), ("Did you mean 'i3.png'?",)),
    Case("a folder for an image", lambda f, s: ((f / "sub").mkdir(), cells("i3.png", "sub")(f, s)),
         ("file not there: 'sub'",)),
    Case("NIfTI as an image", lambda f, s: (write("v.nii.gz", b"\x1f\x8b")(f, s), cells("i3.png", "v.nii.gz")(f, s)),
         ("a NIfTI volume", "`depth: 32`")),
    Case("no NIfTI", lambda f, s: (
        write("v.nii.gz", b"\x1f\x8b")(f, s), cells("i0.png", "v.nii.gz")(f, s),
        put("modalities", "xray", "depth", value=4)(f, s),
    ), ("'v.nii.gz' in row p0", "no NIfTI file that can be read")),
    Case("an image as a volume", put("modalities", "xray", "depth", value=4), ("it is no volume", "Take out `depth`")),
    Case("a volume in colour", lambda f, s: s["modalities"]["xray"].update(depth=4, channels=3), ("a volume is grey",)),
    Case("spacing without depth", put("modalities", "xray", "spacing", value=[1, 1, 1]), ("spacing", "with `depth`")),
    Case("spacing of two", lambda f, s: s["modalities"]["xray"].update(depth=4, spacing=[1, 1]), ("three positive",)),
    Case("DICOM in units without a range", lambda f, s: dicom(f, s, Modality="CT", RescaleSlope=1, RescaleIntercept=-9),
         ("values in HU", "no window", "`range: [")),
    Case("DICOM of another colour space", lambda f, s: dicom(f, s, PhotometricInterpretation="HSV"),
         ("PhotometricInterpretation is 'HSV'",)),
    Case("DICOM of several frames", lambda f, s: dicom(f, s, NumberOfFrames=2, Rows=4), ("NumberOfFrames 2", "depth")),
    Case("DICOM with bits in another place", lambda f, s: dicom(f, s, HighBit=15), ("HighBit is 15", "expected 11")),
    Case("DICOM without pixels", lambda f, s: dicom(f, s, PixelData=None), ("has no PixelData",)),
    Case("DICOM cut short", lambda f, s: dicom(f, s, PixelData=bytes(20)), ("cannot be decoded",)),
    Case("two kinds of values under one range", lambda f, s: (
        dicom(f, s, Modality="CT", RescaleSlope=1, RescaleIntercept=-9),
        put("modalities", "xray", "range", value=[0, 9])(f, s),
    ), ("files of two kinds under one `range`", "DICOM CT in HU", "make a modality of each")),
    # arrays, texts, categories, splits
    Case("array with channels of two kinds", lambda f, s: (
        [np.save(f / f"v{i}.npy", np.zeros((9, 9, 3), "f4")) for i in range(12)],
        np.save(f / "v5.npy", np.zeros((9, 9, 1), "f4")),
        s["modalities"].update(vector={"kind": "array", "as": "image", "column": "vec"}),
    ), ("the array has the shape (9, 9, 1)", "expected (3, 9, 9)")),
    Case("arrays of bytes among fractions", lambda f, s: (
        [np.save(f / f"v{i}.npy", np.random.default_rng(i).random((1, 9, 9))) for i in range(12)],
        np.save(f / "v5.npy", np.arange(81).reshape(1, 9, 9)),
        s["modalities"].update(vector={"kind": "array", "as": "image", "column": "vec"}),
    ), ("an image of another scale: 'whole numbers up to 255' in row p5", "values from 0 to 1, as in row p0")),
    Case("series turned round", lambda f, s: (
        [np.save(f / f"v{i}.npy", np.zeros((3, 9) if i == 5 else (9, 3), "f4")) for i in range(12)],
        s["modalities"].update(vector={"kind": "array", "as": "series", "column": "vec"}),
    ), ("'v5.npy' in row p5: the array has the shape (3, 9)", "the first axis is time")),
    Case("whole numbers beyond single precision", lambda f, s: np.save(f / "v3.npy", np.array([2**40 + 1, 3, 4])),
         ("'v3.npy' in row p3", "whole numbers beyond 16,777,216")),
    Case("numbers beyond single precision", lambda f, s: np.save(f / "v3.npy", np.array([1e300, 3, 4])),
         ("infinite values", "3.4e38")),
    Case("no array can be read", lambda f, s: [(f / f"v{i}.npy").write_text("1,2") for i in range(12)],
         ("no file that the column 'vec' names can be read", "'v0.npy'")),
    Case("a pointer of Git LFS", write("i3.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
         ("'i3.png' in row p3: it is a pointer of Git LFS", "git lfs pull")),
    Case("a page instead of an image", write("i3.png", b"<!DOCTYPE html><html>404"), ("it is a web page",)),
    Case("a file of nothing", write("i3.png", b""), ("'i3.png' in row p3: the file is empty",)),
    Case("a folder without depth", lambda f, s: ((f / "i3.png").unlink(), (f / "i3.png").mkdir()),
         ("It is a folder", "`depth`")),
    Case("a modality that no case has", lambda f, s: (
        [(f / f"i{i}.png").unlink() for i in range(12)],
        put("modalities", "xray", "missing_file", value="absent")(f, s),
    ), ("modalities.xray: no case has it",)),
    Case("a column of nothing", lambda f, s: [cells(f",note {i},", ",,")(f, s) for i in range(12)],
         ("modalities.note: no case has it",)),
    Case("series longer than the first", lambda f, s: (
        [np.save(f / f"v{i}.npy", np.zeros((12 if i == 5 else 9, 3), "f4")) for i in range(12)],
        s["modalities"].update(vector={"kind": "array", "as": "series", "column": "vec"}),
    ), ("'v5.npy' in row p5: the series is longer", "`shape: [12, 3]`")),
    Case("key for files of a text", put("modalities", "note", "folder", value="notes"),
         ("`files` is not true", "files: true")),
    Case("ordinal set of words", lambda f, s: s["modalities"]["clinical"]["columns"]["sex"].update(
        code="ordinal", separator=";"), ("an ordinal category has no place for others or several",)),
    Case("set with an unknown word", lambda f, s: (
        cells(",M,2026-01-04", ",M;X,2026-01-04")(f, s),
        put("modalities", "clinical", "columns", "sex", "separator", value=";")(f, s),
    ), ("unknown category: 'X' in row p3", "other: true")),
    Case("150 categories", lambda f, s: (
        (f / "cohort.csv").write_text("id,died,ward\n" + "".join(f"{i},{'yes' if i % 2 else 'no'},w{i % 150}\n"
                                                                for i in range(300))),
        s.clear(), s.update({"id": "id", "task": SCHEMA["task"], "modalities": {
            "t": {"kind": "tabular", "columns": {"ward": {"type": "category"}}}}}),
    ), ("150 categories", "`other: true` to keep the 100 most frequent")),
    Case("site without a split", put("split", value={"column": "fold", "values": {"train": "train"}}),
         ("words without a split: 'test'", "`split.values`")),
    Case("bank without the array", bank(np.zeros((12, 3)), ALL, key="X"), ("has no array 'X'", "one of x, names")),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    folder = tmp_path / "data"
    (folder / "cohort.csv").write_text(ROWS)
    (folder / "events.csv").write_text(EVENTS)
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (9, 9), np.uint8)).save(folder / f"i{i}.png")
        np.save(folder / f"v{i}.npy", np.full(3, i, np.float32))
    return folder


def test_there_are_enough_cases():
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_data_are_good_before_they_are_spoilt(folder: Path):
    cohort = prepare(folder / "cohort.csv", copy.deepcopy(SCHEMA), folder / "out").cohort
    assert cohort.observed.all()
    assert len(cohort) == 12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_told_with_what_to_do(case: Case, folder: Path):
    schema = copy.deepcopy(SCHEMA)
    text = case.change(folder, schema)
    path = folder / "schema.yaml"
    path.write_text(text if isinstance(text, str) else json.dumps(schema))
    with pytest.raises(AmodalError) as caught:
        prepare(folder / "cohort.csv", path, folder / "out")
    for word in case.words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert not (folder / "out").exists()
    assert not list(folder.glob(".out*"))


def test_formats_that_no_reader_knows(folder: Path):
    (folder / "cohort.ods").write_bytes(b"x")
    with pytest.raises(AmodalError, match=r"unknown ending.*\.csv.*Save it as CSV"):
        prepare(folder / "cohort.ods", copy.deepcopy(SCHEMA), folder / "out")
    (folder / "cohort.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(AmodalError, match="cannot be read as Parquet"):
        prepare(folder / "cohort.parquet", copy.deepcopy(SCHEMA), folder / "out")
    (folder / "cohort.xlsx").write_bytes(b"no workbook")
    with pytest.raises(AmodalError, match="cannot be read as an Excel workbook"):
        prepare(folder / "cohort.xlsx", copy.deepcopy(SCHEMA), folder / "out")
    with pytest.raises(AmodalError, match=r"there is no table at .*Did you mean 'cohort.csv'"):
        prepare(folder / "cohrt.csv", copy.deepcopy(SCHEMA), folder / "out")
