"""Several files, notes or arrays in one cell: from the table to a model, to new cases and to the service."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import wavfile

import amodal
from amodal.data.table import open_table, prepare
from amodal.prediction import predict_table
from amodal.report.cohort_page import write_cohort_page

N = 24
MODALITIES: dict[str, Any] = {
    "xray": {"kind": "image", "column": "img", "size": 8, "separator": ";", "most": 3},
    "notes": {"kind": "text", "column": "note", "separator": "|"},
    "voice": {"kind": "audio", "column": "wav", "rate": 4000, "seconds": 0.5, "bands": 8, "separator": ";"},
    "visits": {"kind": "tabular", "file": "v.csv", "id": "id", "most": 3, "columns": ["bp", "crp"]},
    "slides": {"kind": "embedding", "column": "vec", "separator": ";", "features": ["a", "b", "c"], "units": "mV"},
}
SCHEMA: dict[str, Any] = {
    "id": "id", "task": {"kind": "binary", "column": "y", "classes": ["no", "yes"]},
    "split": {"fractions": {"train": 0.5, "valid": 0.25, "test": 0.25}}, "modalities": MODALITIES,
}  # fmt: skip


def files(folder: Path) -> pd.DataFrame:
    """Cases with one to four images, up to three notes, two recordings and three vectors; some with none."""
    rng, rows = np.random.default_rng(0), []
    for i in range(N):
        images, notes = [f"{i}_{k}.png" for k in range(i % 5)], [f"note {i} {k}" for k in range(i % 4)]
        for name in images:
            Image.fromarray(rng.integers(0, 120 + 100 * (i % 2), (8, 8), np.uint8)).save(folder / name)
        for k in range(2):
            wavfile.write(folder / f"{i}_{k}.wav", 4000, (rng.normal(size=2000) * 3000).astype(np.int16))
            np.save(folder / f"{i}_{k}.npy", rng.normal(size=3).astype("f4"))
        vectors = [f"{i}_{k}.npy" for k in range(1 + (i % 3 > 0))]
        rows.append({"id": f"p{i}", "y": ["no", "yes"][i % 2], "img": ";".join(images), "note": "|".join(notes),
                     "wav": f"{i}_0.wav; {i}_1.wav", "vec": ";".join(vectors)})  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "m.csv", index=False)
    visits = "".join(f"p{i},{100 + 10 * k + i},{k if i % 5 else ''}\n" for i in range(1, N) for k in range(1 + i % 5))
    (folder / "v.csv").write_text(f"id,bp,crp\n{visits}p1,101,0\np2,,\n")
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    files(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(folder: Path):
    return prepare(folder / "m.csv", SCHEMA, folder / "out")


def test_cells_become_sets_at_most_so_large_and_every_member_is_accounted_for(prepared, folder: Path):
    cohort, problems = prepared
    assert {m.name: m.shape for m in cohort.schema.modalities} == {
        "xray": (3, 1, 8, 8), "notes": (3,), "voice": (2, 1, 8, 14), "visits": (3, 2),
        "slides": (2, 3)}  # fmt: skip
    assert cohort.schema["slides"].units == ("mV",) * 3
    frame = pd.read_csv(folder / "m.csv", dtype=str, keep_default_na=False)
    np.testing.assert_array_equal(cohort.observed[:, 0], frame.img != "")
    np.testing.assert_array_equal(cohort.observed[:, 1], frame.note != "")
    named = sum(len(cell.split(";")) for cell in frame.img if cell)
    beyond = problems.counts["xray: file beyond the first 3 of a cell, left out (`most`)"]
    assert beyond == sum(cell.count(";") == 3 for cell in frame.img)
    assert problems.cells["xray: files of img"] == {"in": named, "measured": named - beyond, "empty": 0, "lost": beyond}
    assert not any(problems.balance().values()), problems.balance()
    batch = cohort.batch(np.arange(N))
    np.testing.assert_array_equal(batch.lengths["xray"], [min(3, i % 5) for i in range(N)])
    np.testing.assert_array_equal(batch.values["xray"][3, 2, 0], np.asarray(Image.open(folder / "3_2.png")))
    np.testing.assert_allclose(batch.values["slides"][1, 1], np.load(folder / "1_1.npy"))
    np.testing.assert_array_equal(batch.lengths["visits"], [min(3, 1 + i % 5) if i else 0 for i in range(N)])
    assert batch.values["visits"][2].tolist() == [[102, 0], [112, 1], [122, 2]]
    assert problems.counts["v.csv: the same row again, left out"] == 1
    assert problems.counts["v.csv: row without a measured cell"] == 1
    assert problems.counts["v.csv: beyond the first 3 rows of a case, left out (`most`)"] == sum(
        max(0, i % 5 - 2) for i in range(N))  # fmt: skip


def test_sets_are_described_with_images_that_stand_in_two_splits(folder: Path, tmp_path: Path):
    frame = pd.read_csv(folder / "m.csv", dtype=str, keep_default_na=False)
    frame["img"] = [f"4_{i % 3}.png;4_{(i + 1) % 3}.png" for i in range(N)]
    frame.to_csv(folder / "same.csv", index=False)
    schema = {**SCHEMA, "modalities": {name: MODALITIES[name] for name in ("xray", "notes", "visits")}}
    cohort = prepare(folder / "same.csv", schema, tmp_path / "out").cohort
    page = write_cohort_page(cohort, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "3 images stand in more than one split" in page
    assert "visits.bp" in page


def test_members_that_are_lacking_are_counted_and_the_others_stay(folder: Path, tmp_path: Path):
    frame = pd.read_csv(folder / "m.csv", dtype=str, keep_default_na=False)
    frame.loc[4, "img"], frame.loc[5, "img"], frame.loc[6, "img"] = "4_0.png;no.png", "no.png", "4_0.png;4_0.png"
    frame.loc[7, "img"] = '["4_0.png", "4_1.png"]'
    frame.to_csv(folder / "gaps.csv", index=False)
    schema = {**SCHEMA, "modalities": {"xray": {**MODALITIES["xray"], "missing_file": "absent"}}}
    cohort, problems = prepare(folder / "gaps.csv", schema, tmp_path / "out")
    assert cohort.batch(np.array([4, 5, 6, 7])).lengths["xray"].tolist() == [1, 0, 1, 2]
    assert problems.counts["xray: file not there"] == 2
    assert problems.counts["xray: file named twice in a cell, taken once"] == 1
    assert problems.counts["xray: no file of the cell can be read"] == 1
    assert not any(problems.balance().values()), problems.balance()


def test_parquet_lists_are_sets(folder: Path, tmp_path: Path):
    frame = pd.read_csv(folder / "m.csv", dtype=str, keep_default_na=False)
    lists = frame.assign(**{c: frame[c].map(lambda cell, s=s: [p.strip() for p in cell.split(s) if p])
                            for c, s in {"img": ";", "wav": ";", "vec": ";", "note": "|"}.items()})  # fmt: skip
    lists.to_parquet(folder / "m.parquet")
    first, second = (prepare(folder / name, SCHEMA, tmp_path / name).cohort for name in ("m.csv", "m.parquet"))
    a, b = (cohort.batch(np.arange(N)) for cohort in (first, second))
    for name in MODALITIES:
        np.testing.assert_array_equal(a.values[name], b.values[name])


@pytest.mark.parametrize("method", ["modality_dropout", "cepa", "boosting", "mvae"])
def test_models_learn_from_sets(prepared, folder: Path, method: str, tmp_path: Path):
    cohort = prepared.cohort
    model = amodal.fit(method, cohort.split("train"), cohort.split("valid"), epochs=1, seed=0, width=8)
    model.save(tmp_path / "run")
    model = amodal.load(tmp_path / "run")
    frame = predict_table(model, open_table(folder / "m.csv"), root=folder)
    np.testing.assert_allclose(frame["p_yes"], model.predict(cohort)[:, 1], atol=1e-6)


def test_new_cases_and_the_service_read_sets_as_training_did(prepared, folder: Path):
    testclient = pytest.importorskip("fastapi.testclient")
    from amodal.serve.app import Service, make_app

    cohort = prepared.cohort
    model = amodal.fit("modality_dropout", cohort.split("train"), cohort.split("valid"), epochs=1, seed=0, width=8)
    result = amodal.impact(model, cohort.split("test"), draws=4, seed=0, train=cohort.split("train"))
    assert np.isfinite(result.variability).all(), "donors give sets of any size"
    model.save(folder / "run")
    frame = predict_table(amodal.load(folder / "run"), open_table(folder / "m.csv"), root=folder).set_index("id")
    client = testclient.TestClient(make_app(Service.load(folder / "run"), most_bytes=2**20))
    read = [(folder / f"3_{k}.png").read_bytes() for k in range(3)]
    case = {
        "xray": [base64.b64encode(content).decode() for content in read],
        "notes": ["note 3 0", "note 3 1", "note 3 2"],
        "voice": [base64.b64encode((folder / f"3_{k}.wav").read_bytes()).decode() for k in range(2)],
        "slides": [np.load(folder / "3_0.npy").tolist()],
        "visits": [{"bp": 103 + 10 * k, "crp": k} for k in range(3)],
    }
    said = client.post("/predict", json=case)
    assert said.status_code == 200, said.text
    assert said.json()["prediction"]["probabilities"]["yes"] == pytest.approx(frame.loc["p3", "p_yes"], abs=1e-6)
    form = [("xray", (f"{k}.png", content)) for k, content in enumerate(read)]
    form += [("voice", ("a.wav", (folder / f"3_{k}.wav").read_bytes())) for k in range(2)]
    texts = {"notes": case["notes"], "slides": str([case["slides"][0]]), "visits": json.dumps(case["visits"])}
    again = client.post("/predict", files=form, data=texts)
    assert again.json()["prediction"] == said.json()["prediction"], again.text
    too_many = client.post("/predict", json={"xray": case["xray"] * 2})
    assert too_many.json()["error"] == {"field": "xray", "problem": "expected 3 or fewer, got 6"}
    assert client.get("/").status_code == client.get("/openapi.json").status_code == 200


def test_as_many_notes_are_read_as_the_fullest_cell_has_whether_they_differ_or_not(tmp_path: Path):
    frame = pd.DataFrame({"id": [f"p{i}" for i in range(N)], "y": ["no", "yes"] * (N // 2), "note": "same|same|same"})
    frame.to_csv(tmp_path / "m.csv", index=False)
    schema = {**SCHEMA, "modalities": {"notes": MODALITIES["notes"]}}
    cohort, problems = prepare(tmp_path / "m.csv", schema, tmp_path / "out")
    assert cohort.schema["notes"].shape == (3,)
    assert not problems.counts
