"""Schemas that come with amodal, on the upstream files; sets of words, many categories, splits by site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amodal.cli import main
from amodal.data.table import prepare
from amodal.errors import AmodalError

TASK = {"kind": "regression", "column": "y"}


def example(name: str, folder: Path) -> Path:
    assert main(["data", "example", name, "--out", str(folder / "schema.yaml")]) == 0
    return folder / "schema.yaml"


def test_support2(shared_data: Path, tmp_path: Path):
    manifest = shared_data / "support2" / "support2.csv.gz"
    if not manifest.is_file():
        pytest.skip("SUPPORT2 is not there")
    cohort = prepare(manifest, example("support2", tmp_path), tmp_path / "out").cohort
    assert len(cohort) == 6374
    assert np.mean(cohort.target) == pytest.approx(0.25, abs=0.02)
    presence = dict(zip(cohort.schema.names, cohort.observed.mean(0)))
    published = {"blood_gas": 0.75, "liver": 0.78, "metabolic": 0.52, "own_report": 0.38, "surrogate_report": 0.69,
                 "physician": 0.82, "descriptors": 1.0}  # fmt: skip
    for name, share in published.items():
        assert presence[name] == pytest.approx(share, abs=0.02), name


def test_heart(shared_data: Path, tmp_path: Path):
    manifest = shared_data / "heart" / "heart_disease_uci.csv"
    if not manifest.is_file():
        pytest.skip("the heart disease data are not there")
    prepared = prepare(manifest, example("heart", tmp_path), tmp_path / "out")
    cohort = prepared.cohort
    assert len(cohort) == 920
    assert np.mean(cohort.target) == pytest.approx(0.55, abs=0.01)
    sites = cohort.extras["dataset"]
    assert set(sites[cohort.splits == "test"]) == {"VA Long Beach"}
    fluoroscopy = cohort.observed[:, cohort.schema.names.index("fluoroscopy")]
    assert fluoroscopy[sites == "Cleveland"].mean() == pytest.approx(0.98, abs=0.01)
    assert fluoroscopy[sites != "Cleveland"].mean() < 0.04
    switzerland = np.flatnonzero(sites == "Switzerland")
    chol = cohort.batch(switzerland).measured["blood"][:, 0]
    assert not chol.any(), "0 means that it was not measured"


def test_an_unknown_example(capsys: pytest.CaptureFixture[str]):
    assert main(["data", "example", "suport2"]) == 2
    assert "Did you mean 'support2'" in capsys.readouterr().err


def _table(folder: Path, cells: list[str]) -> Path:
    rows = "".join(f'p{i},"{cell}",{i}\n' for i, cell in enumerate(cells))
    (folder / "m.csv").write_text("id,c,y\n" + rows)
    return folder / "m.csv"


def _schema(column: dict, **keys: object) -> dict:
    table = {"kind": "tabular", "columns": {"c": {"type": "category"} | column}}
    return {"id": "id", "task": TASK, "split": {"fractions": {"train": 1.0}}, "modalities": {"t": table}} | keys


def test_sets_of_codes_are_many_hot(tmp_path: Path):
    manifest = _table(tmp_path, ["I10; E11.9", "E11.9", "", "J18"])
    cohort = prepare(manifest, _schema({"separator": ";"}), tmp_path / "a").cohort
    assert cohort.schema["t"].features == ("c=E11.9", "c=I10", "c=J18")
    batch = cohort.batch(np.arange(4))
    assert batch.values["t"].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert batch.observed["t"].tolist() == [True, True, False, True]
    listed = {"separator": ";", "categories": ["E11.9"], "values": {"I10": "E11.9"}}
    with pytest.raises(AmodalError, match=r"unknown category: 'J18' in row p3.*other: true"):
        prepare(manifest, _schema(listed), tmp_path / "b")
    cohort = prepare(manifest, _schema(listed | {"other": True}), tmp_path / "b").cohort
    assert cohort.batch(np.arange(4)).values["t"].tolist() == [[1, 0], [1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("separator", ["", ";"])
def test_of_many_categories_the_most_frequent_are_kept(tmp_path: Path, separator: str):
    cells = [f"C{i % 150}" for i in range(300)] + ["C149"] * 5
    manifest = _table(tmp_path, cells)
    keys = {"separator": separator} if separator else {}
    with pytest.raises(AmodalError, match=r"has 150 categories.*`other: true` to keep the 100 most frequent"):
        prepare(manifest, _schema(keys), tmp_path / "out")
    cohort = prepare(manifest, _schema(keys | {"other": True}), tmp_path / "out").cohort
    assert cohort.schema["t"].shape == (101,)
    assert "c=C149" in cohort.schema["t"].features
    assert cohort.batch(np.arange(305)).values["t"].sum(1).tolist() == [1] * 305


def test_a_split_by_site(tmp_path: Path):
    manifest = _table(tmp_path, ["A", "B", "A", ""])
    split = {"column": "c", "values": {"A": "train", "B": "test"}}
    schema = {"id": "id", "task": TASK, "split": split, "modalities": {"n": {"kind": "text", "column": "id"}}}
    assert prepare(manifest, schema, tmp_path / "out").cohort.splits.tolist() == ["train", "test", "train", ""]
    del split["values"]["B"]
    with pytest.raises(AmodalError, match=r"words without a split: 'B' in rows p1.*`split.values`"):
        prepare(manifest, schema, tmp_path / "out2")
