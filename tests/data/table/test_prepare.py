"""A table of every kind of modality to a cohort: values known beforehand, in bounded memory, taken up again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import wavfile

from amodal.data.cohort import Cohort
from amodal.data.table import MemoryTable, Problems, TableSchema, open_cases, open_table, prepare
from amodal.data.table.build import chunk_rows
from amodal.errors import DataError

N = 12
TASK = {"kind": "binary", "column": "died", "classes": ["no", "yes"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of twelve cases with a file of each kind; what is absent follows the row's number."""
    rng = np.random.default_rng(0)
    (tmp_path / "img").mkdir()
    (tmp_path / "notes").mkdir()
    rows, events, labs, vectors = [], [], [], []
    for i in range(N):
        Image.fromarray(np.full((10, 20), 20 * i, np.uint8)).save(tmp_path / "img" / f"{i}.png")
        (tmp_path / "notes" / f"{i}.txt").write_text(f"note {i} é", encoding="utf-8")
        np.save(tmp_path / f"{i}.npy", np.full((3, 2), i, np.float32))
        time = np.arange(8000) / 8000
        wavfile.write(tmp_path / f"{i}.wav", 8000, (0.5 * np.sin(2 * np.pi * 1000 * time) * 32767).astype(np.int16))
        rows.append({
            "id": f"p{i:02d}", "patient": f"g{i // 2}", "died": "yes" if i % 2 else "no", "site": "A",
            "age": "" if i == 3 else 40 + i, "sex": "" if i == 3 else "FM"[i % 2],
            "admitted": "" if i == 3 else f"2026-01-{i + 1:02d}",
            "image": "" if i == 1 else f"{i}.png", "note": "" if i == 2 else f"it is <b>{i}</b>, \"quoted\"\nand more",
            "file": f"{i}.txt", "array": f"{i}.npy" if i % 3 else "", "sound": f"{i}.wav",
        })  # fmt: skip
        labs.append({"case": f"p{i:02d}", "na": 130 + i})
        vectors.append(rng.normal(size=5).astype(np.float32))
        if i != 5:
            events += [[f"p{i:02d}", hour, "HR", value] for hour, value in ((0.0, 60 + i), (0.9, 80 + i), (3.5, 100))]
            events.append([f"p{i:02d}", 2.0, "Urine", 30])
            events.append([f"p{i:02d}", 2.5, "Urine", 50])
            events.append([f"p{i:02d}", 7.0, "HR", 1])
    pd.DataFrame(rows).to_csv(tmp_path / "cohort.csv", index=False)
    pd.DataFrame([*labs[1:], {"case": "stranger", "na": 1}]).to_csv(tmp_path / "labs.csv", index=False)
    pd.DataFrame(events, columns=["pid", "hour", "name", "x"]).sample(frac=1, random_state=0).to_csv(
        tmp_path / "events.csv", index=False
    )
    np.savez(tmp_path / "bank.npz", vectors=np.stack(vectors)[::-1], names=[f"p{i:02d}" for i in range(N)][::-1])
    return tmp_path


@pytest.fixture
def schema() -> dict:
    return {
        "id": "id",
        "group": "patient",
        "split": {"fractions": {"train": 0.5, "test": 0.5}, "seed": 1},
        "task": TASK,
        "extras": ["site"],
        "modalities": {
            "clinical": {
                "kind": "tabular",
                "columns": {
                    "age": {"units": "years", "min": 0, "max": 47},
                    "sex": {"type": "category"},
                    "admitted": {"type": "date"},
                },
            },
            "labs": {"kind": "tabular", "file": "labs.csv", "id": "case", "columns": ["na"]},
            "vitals": {
                "kind": "events",
                "file": "events.csv",
                "id": "pid",
                "time": "hour",
                "variable": "name",
                "value": "x",
                "stop": 6,
                "step": 1,
                "variables": {"HR": {"units": "1/min"}, "Urine": {"units": "mL", "aggregate": "sum"}},
            },
            "xray": {"kind": "image", "column": "image", "folder": "img", "size": [8, 8]},
            "note": {"kind": "text", "column": "note"},
            "letter": {"kind": "text", "column": "file", "files": True, "folder": "notes"},
            "gait": {"kind": "array", "as": "series", "column": "array", "shape": [4, 2]},
            "voice": {"kind": "audio", "column": "sound", "rate": 8000, "seconds": 1.0, "bands": 16},
            "genes": {"kind": "embedding", "file": "bank.npz", "key": "vectors", "ids": "names"},
        },
    }


def test_every_kind_has_the_values_it_should(folder: Path, schema: dict):
    prepared = prepare(folder / "cohort.csv", schema, folder / "out")
    cohort = prepared.cohort
    batch = cohort.batch(np.arange(N))
    assert cohort.ids.tolist() == [f"p{i:02d}" for i in range(N)]
    assert cohort.groups.tolist() == [f"g{i // 2}" for i in range(N)]
    assert cohort.target.tolist() == [i % 2 for i in range(N)]
    assert cohort.extras["site"].tolist() == ["A"] * N
    assert set(cohort.splits) == {"train", "test"}
    seen = dict(zip(cohort.schema.names, cohort.observed.T))
    assert np.flatnonzero(~seen["clinical"]).tolist() == [3], "all cells empty: absent"
    assert np.flatnonzero(~seen["labs"]).tolist() == [0], "no row in the joined table: absent"
    assert np.flatnonzero(~seen["vitals"]).tolist() == [5], "no events in the window: absent"
    assert np.flatnonzero(~seen["xray"]).tolist() == [1]
    assert np.flatnonzero(~seen["note"]).tolist() == [2]
    assert np.flatnonzero(~seen["gait"]).tolist() == [0, 3, 6, 9]
    assert seen["letter"].all()
    assert seen["genes"].all()
    # clinical: age, sex in two features, days since 1970
    assert cohort.schema["clinical"].features == ("age", "sex=F", "sex=M", "admitted")
    assert batch.values["clinical"][4].tolist() == [44, 1, 0, 20458]  # (date(2026, 1, 5) - date(1970, 1, 1)).days
    assert not batch.measured["clinical"][8, 0], "48 years are out of this schema's range"
    assert prepared.problems.counts["column 'age': out of range 0 … 47, taken as not measured"] == 4
    # events: two heart rates in the first hour are averaged, urine is added up, what comes at hour 7 is outside
    vitals, measured = batch.values["vitals"][4], batch.measured["vitals"][4]
    assert vitals[:, 0].tolist() == [74, 0, 0, 100, 0, 0]
    assert vitals[:, 1].tolist() == [0, 0, 80, 0, 0, 0]
    assert measured[:, 0].tolist() == [True, False, False, True, False, False]
    assert prepared.problems.counts["events.csv: outside the window"] == 11
    assert prepared.problems.counts["labs.csv: id that the manifest does not have"] == 1
    assert prepared.problems.counts["labs.csv: no row for this id"] == 1
    # an image twice as wide as high: black above and beneath
    assert batch.values["xray"][4, 0].unique().tolist() == [0, 80]
    assert batch.values["xray"][4, 0, 2:6].unique().tolist() == [80]
    text = bytes(batch.values["note"][3, : batch.lengths["note"][3]].tolist()).decode()
    assert text == 'it is <b>3</b>, "quoted"\nand more'
    assert bytes(batch.values["letter"][7, : batch.lengths["letter"][7]].tolist()).decode() == "note 7 é"
    assert batch.values["gait"][4].tolist() == [[4, 4]] * 3 + [[0, 0]]
    assert batch.measured["gait"][4].all(1).tolist() == [True] * 3 + [False]
    archive = np.load(folder / "bank.npz")
    np.testing.assert_array_equal(batch.values["genes"].numpy(), archive["vectors"][::-1])
    # a sine of half the full scale at 1000 Hz is at -6 dB in the band around it, and nowhere else
    voice = batch.values["voice"][0, 0].mean(1)  # (bands,)
    assert voice.max().item() == pytest.approx(20 * np.log10(0.5), abs=2)
    assert int((voice > -20).sum()) <= 3


def test_the_cohort_keeps_how_it_was_read(folder: Path, schema: dict):
    cohort = prepare(folder / "cohort.csv", schema, folder / "out").cohort
    record = Cohort.open(folder / "out").split("train").take(np.arange(2)).source
    assert record is not None
    again = TableSchema.from_json(json.loads(json.dumps(record["table"])))
    assert again.to_json() == record["table"]
    assert again.schema == cohort.schema, "categories and shapes are filled in"
    ages = cohort.batch(np.flatnonzero(cohort.splits == "train")).values["clinical"][:, 0]
    assert record["ranges"]["clinical"][0] == [ages[ages > 0].min(), ages.max()]
    with open_cases(
        open_table(folder / "cohort.csv"), record, root=folder, problems=Problems(strict=False, by_row=True)
    ) as new:
        np.testing.assert_array_equal(new.observed, cohort.observed)
        ours, theirs = cohort.batch(np.arange(N)), new.batch(np.arange(N))
        for name in cohort.schema.names:
            assert (ours.values[name] == theirs.values[name]).all(), name


def test_new_cases_may_lack_anything_and_are_told_row_by_row(folder: Path, schema: dict):
    record = prepare(folder / "cohort.csv", schema, folder / "out").cohort.source
    problems = Problems(strict=False, by_row=True)
    table = MemoryTable({"id": ["x", "y"], "age": ["200", "old"], "sex": ["D", "F"], "image": ["../../etc/passwd", ""]})
    (folder / "new").mkdir()
    with open_cases(table, record, root=folder / "new", problems=problems) as new:
        assert new.observed.sum(1).tolist() == [0, 1]
        assert new.batch(np.array([1])).values["clinical"][0, 1:3].tolist() == [1, 0]
    assert any("unknown category: 'D'" in note for note in problems.rows["x"])
    assert any("out of range" in note for note in problems.rows["x"])
    assert any("outside the data folder" in note for note in problems.rows["x"])
    assert any("not a number: 'old'" in note for note in problems.rows["y"])
    assert any("events.csv is not there" in note for note in problems.rows["y"])


@pytest.mark.parametrize("ending", [".parquet", ".xlsx", ".tsv"])
def test_parquet_and_excel_say_the_same_as_csv(folder: Path, schema: dict, ending: str):
    schema["modalities"] = {name: schema["modalities"][name] for name in ("clinical", "note", "xray")}
    frame = pd.read_csv(folder / "cohort.csv", parse_dates=["admitted"] if ending != ".tsv" else [])
    path = folder / f"cohort{ending}"
    writes = {".parquet": frame.to_parquet, ".xlsx": lambda p: frame.to_excel(p, index=False),
              ".tsv": lambda p: frame.to_csv(p, index=False, sep="\t")}  # fmt: skip
    writes[ending](path)
    ours = prepare(folder / "cohort.csv", schema, folder / "a").cohort
    theirs = prepare(path, schema, folder / "b").cohort
    np.testing.assert_array_equal(ours.observed, theirs.observed)
    assert ours.ids.tolist() == theirs.ids.tolist()
    a, b = ours.batch(np.arange(N)), theirs.batch(np.arange(N))
    assert all((a.values[name] == b.values[name]).all() for name in ours.schema.names)


def test_small_chunks_make_the_same_cohort(folder: Path, schema: dict, monkeypatch: pytest.MonkeyPatch):
    schema["task"] = TASK | {"unknown": ["yes"], "without_target": "leave_out", "classes": ["no", "maybe"]}
    schema["split"] = {"fractions": {"train": 0.5, "test": 0.5}}
    whole = prepare(folder / "cohort.csv", schema, folder / "a")
    monkeypatch.setattr("amodal.data.table.chunk_rows", lambda sources: 2)
    steps = []
    parts = prepare(folder / "cohort.csv", schema, folder / "b", progress=lambda done, total: steps.append(done))
    assert steps == [2, 4, 6]
    assert len(parts.cohort) == 6
    assert parts.problems.counts == whole.problems.counts
    a, b = whole.cohort.batch(np.arange(6)), parts.cohort.batch(np.arange(6))
    assert all((a.values[name] == b.values[name]).all() for name in whole.cohort.schema.names)


def test_an_interrupted_preparation_is_taken_up(folder: Path, schema: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("amodal.data.table.chunk_rows", lambda sources: 4)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise Stopped

    with pytest.raises(Stopped):
        prepare(folder / "cohort.csv", schema, folder / "out", progress=stop)
    assert not (folder / "out").exists(), "complete or not at all"
    work = folder / ".out.work"
    with open(work / "note.raw", "ab") as file:
        file.write(b"half a chunk that was being written")
    steps: list[int] = []
    again = prepare(folder / "cohort.csv", schema, folder / "out", progress=lambda done, total: steps.append(done))
    assert steps == [12], "only what was not done"
    assert not work.exists()
    fresh = prepare(folder / "cohort.csv", schema, folder / "fresh")
    assert again.problems.counts == fresh.problems.counts
    assert again.cohort.source == fresh.cohort.source
    a, b = again.cohort.batch(np.arange(N)), fresh.cohort.batch(np.arange(N))
    assert all((a.values[name] == b.values[name]).all() for name in fresh.cohort.schema.names)
    assert Cohort.open(folder / "out", verify=True).ids.tolist() == fresh.cohort.ids.tolist()


def test_a_changed_table_is_not_taken_up(folder: Path, schema: dict, monkeypatch: pytest.MonkeyPatch):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("amodal.data.table.chunk_rows", lambda sources: 4)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder / "cohort.csv", schema, folder / "out", progress=stop)
    schema["modalities"]["xray"]["size"] = 16
    steps: list[int] = []
    cohort = prepare(
        folder / "cohort.csv", schema, folder / "out", progress=lambda done, total: steps.append(done)
    ).cohort
    assert steps == [4, 8, 12]
    assert cohort.schema["xray"].shape == (1, 16, 16)


def test_nothing_is_left_of_a_failure(folder: Path, schema: dict):
    schema["modalities"]["xray"]["folder"] = "nowhere"
    with pytest.raises(DataError, match="file not there"):
        prepare(folder / "cohort.csv", schema, folder / "out")
    assert not (folder / "out").exists()
    assert not list(folder.glob(".out*"))


def test_a_cohort_in_the_way_is_kept(folder: Path, schema: dict):
    prepare(folder / "cohort.csv", schema, folder / "out")
    with pytest.raises(DataError, match="overwrite"):
        prepare(folder / "cohort.csv", schema, folder / "out")
    schema["modalities"] = {"note": schema["modalities"]["note"]}
    assert prepare(folder / "cohort.csv", schema, folder / "out", overwrite=True).cohort.schema.names == ("note",)
    with pytest.raises(DataError, match="is no cohort folder"):
        prepare(folder / "cohort.csv", schema, folder / "img", overwrite=True)
    assert (folder / "img" / "1.png").is_file(), "what is no cohort is never replaced"


def test_dates_of_events_are_counted_from_a_column(tmp_path: Path):
    (tmp_path / "m.csv").write_text("id,y,admitted\na,0,2026-01-01 12:00\nb,1,2026-01-02 00:00\n")
    (tmp_path / "e.csv").write_text(
        "id,at,name,x,unit\n"
        "a,2026-01-01 13:30,T,98.6,degF\n"
        "a,2026-01-01 11:00,T,37,degC\n"
        "b,2026-01-02 00:00,T,38,degC\n"
    )
    schema = {
        "id": "id", "task": {"kind": "binary", "column": "y", "classes": [0, 1]},
        "split": {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False},
        "modalities": {"vitals": {
            "kind": "events", "file": "e.csv", "id": "id", "time": "at", "variable": "name", "value": "x",
            "units_column": "unit", "since": "admitted", "stop": 3, "step": 1,
            "variables": {"T": {"units": "degC", "other_units": {"degF": {"scale": 5 / 9, "offset": -160 / 9}}}},
        }},
    }  # fmt: skip
    cohort = prepare(tmp_path / "m.csv", schema, tmp_path / "out").cohort
    batch = cohort.batch(np.arange(2))
    assert batch.values["vitals"][0, :, 0].tolist() == pytest.approx([0, 37, 0], abs=1e-4)
    assert batch.values["vitals"][1, :, 0].tolist() == [38, 0, 0]


def test_tasks_of_every_kind(tmp_path: Path):
    (tmp_path / "m.csv").write_text("x,stage,days,a,b,tags\n1,I,2.5,1,0,u|v\n2,II,3,,yes,\n3,III,4,no,N,v\n")
    modalities = {"t": {"kind": "tabular", "columns": ["x"]}}

    def target(task: dict) -> list:
        schema = {"task": task, "modalities": modalities, "split": {"fractions": {"train": 1.0}}}
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return prepare(tmp_path / "m.csv", schema, out).cohort.target.tolist()

    assert target({"kind": "multiclass", "column": "stage", "classes": ["I", "II", "III"]}) == [0, 1, 2]
    assert target({"kind": "binary", "column": "stage", "classes": {"low": ["I"], "high": ["II", "III"]}}) == [0, 1, 1]
    assert target({"kind": "regression", "column": "days", "units": "days", "bins": [3]}) == [2.5, 3, 4]
    labels = np.array(target({"kind": "multilabel", "columns": {"A": "a", "B": "b"}}))
    np.testing.assert_array_equal(labels, [[1, 0], [np.nan, 1], [0, 0]])
    task = {"kind": "multilabel", "column": "tags", "classes": ["u", "v"], "separator": "|"}
    assert target(task | {"without_target": "leave_out"}) == [[1, 1], [0, 1]]


def test_flac_sounds_like_wav(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    wave = 0.3 * np.sin(2 * np.pi * 700 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "a.flac", wave, 16000)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="PCM_16")
    (tmp_path / "m.csv").write_text("f,y\na.flac,1\na.wav,2\n")
    schema = {
        "task": {"kind": "regression", "column": "y"}, "split": {"fractions": {"train": 0.5, "test": 0.5}},
        "modalities": {"x": {"kind": "audio", "column": "f", "rate": 8000, "seconds": 2.0, "bands": 20}},
    }  # fmt: skip
    values = prepare(tmp_path / "m.csv", schema, tmp_path / "out").cohort.batch(np.arange(2)).values["x"]
    np.testing.assert_allclose(values[0], values[1], atol=0.6)  # WAV and FLAC are rounded differently
    assert values[0, 0, :, -1].max() == -100, "silence fills it up"


@pytest.mark.slow
def test_many_rows_in_bounded_memory(tmp_path: Path):
    """Half a gigabyte of arrays is prepared by a process whose own memory rises by much less."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("the system does not tell how much memory a process has")
    import subprocess
    import sys

    n, width = 128_000, 1000
    with open(tmp_path / "m.csv", "w") as file:
        file.write("id,y,x,note\n")
        for i in range(n):
            file.write(f"{i},{i % 2},{i / n},{'words ' * 20}\n")
    member = tmp_path / "v.npy"
    with open(member, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for i in range(0, n, 1000):
            file.write(np.full((1000, width), i, np.float32).tobytes())
    import zipfile

    np.save(tmp_path / "names.npy", np.arange(n).astype(str))
    with zipfile.ZipFile(tmp_path / "bank.npz", "w") as archive:
        archive.write(member, "v.npy")
        archive.write(tmp_path / "names.npy", "names.npy")
    script = f"""
import re
from amodal.data.table import prepare
import numpy, pyarrow.csv, pandas, yaml
own = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
seen = [own()]
schema = {{"id": "id", "task": {{"kind": "binary", "column": "y", "classes": [0, 1]}}, "modalities": {{
    "v": {{"kind": "embedding", "file": "bank.npz", "key": "v", "ids": "names"}},
    "t": {{"kind": "tabular", "columns": ["x"]}}, "note": {{"kind": "text", "column": "note"}}}}}}
cohort = prepare({str(tmp_path / "m.csv")!r}, schema, {str(tmp_path / "out")!r},
                 progress=lambda done, total: seen.append(own())).cohort
assert cohort.batch(numpy.array([1001])).values["v"][0, 0] == 1000
print(seen[0], max(seen))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, most = map(int, done.stdout.split())
    # Pages of memory-mapped files do not count: the system takes them back.
    assert most < before + 300_000, f"{most / 1e3:.0f} MB at most, {before / 1e3:.0f} MB before, for 512 MB of arrays"


def test_chunks_are_smaller_where_rows_are_larger(folder: Path, schema: dict):
    schema["modalities"] = {"note": schema["modalities"]["note"]}
    sources = TableSchema.from_json(schema).sources
    assert chunk_rows(sources) == 8192
    wide = TableSchema.from_json(schema | {"modalities": {"x": {"kind": "image", "column": "image", "size": 2048}}})
    assert chunk_rows(wide.sources) == 16
