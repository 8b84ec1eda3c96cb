"""The open demo of MIMIC-III as the published benchmark prepares it: in-hospital mortality, 57 stays of 48 × 76 cells.

The stored arrays are the output of YerevaNN/mimic3-benchmarks (commit ea0314c, unmodified) on the open demo.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest
from data.mimic_made import read

from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.stays import read_stays
from amodal.data.sources.mimic.variables import COLUMNS, VARIABLES


@pytest.fixture(scope="module")
def reference(shared_data):
    folder = shared_data / "mimic3-demo-reference"
    with np.load(folder / "ihm_discretised_48x76.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    with open(folder / "ihm_listfile.csv", encoding="utf-8") as file:
        return arrays, {row["stay"]: int(row["y_true"]) for row in csv.DictReader(file)}


def upstream_names(folder, stays) -> list[str]:
    """Upstream's name of each stay: SUBJECT_episodeN, N its place among the patient's stays that are kept, by time."""
    start = {int(row["icustay_id"]): row["intime"] for row in read(folder / "ICUSTAYS.csv.gz")}
    number, counts = {}, {}
    for stay, patient in sorted(
        zip(stays.stay.tolist(), stays.patient.tolist(), strict=True), key=lambda s: start[s[0]]
    ):
        counts[patient] = counts.get(patient, 0) + 1
        number[stay] = f"{patient}_episode{counts[patient]}_timeseries.csv"
    return [number[stay] for stay in stays.stay.tolist()]


def test_mortality_of_the_demo_is_the_benchmark_s_cell_by_cell(shared_data, reference, tmp_path):
    arrays, labels = reference
    folder = shared_data / "mimic3-demo"
    cohort = prepare_mimic("mimic3", folder, tmp_path / "cohort", task="mortality")
    every = read_stays(folder, "mimic3")
    name_of = dict(zip(every.stay.astype(str).tolist(), upstream_names(folder, every), strict=True))
    names = [name_of[stay] for stay in cohort.ids.tolist()]
    assert sorted(names) == sorted(arrays["names"].tolist())
    assert len(names) == 57
    assert dict(zip(names, cohort.target.tolist(), strict=True)) == labels

    order = np.array([names.index(name) for name in arrays["names"].tolist()])
    ehr, wanted = cohort.batch(order).values["ehr"].numpy(), arrays["X"]
    assert ehr.shape == wanted.shape == (57, 48, 76)
    assert wanted.size == 207_936
    assert ehr == pytest.approx(wanted, rel=1e-6, abs=0)


def test_columns_are_the_benchmark_s_in_its_order(reference):
    """Upstream writes "variable->category" and "mask->variable"."""
    upstream = [str(name) for name in reference[0]["header"]]

    ours = [
        *(f"{v.name}->{c}" if c else v.name for v in VARIABLES for c in (v.categories or ("",))),
        *(f"mask->{v.name}" for v in VARIABLES),
    ]
    assert [name.replace("Glascow coma scale", "GCS").replace("Heart Rate", "Heart rate") for name in upstream] == ours
    assert len(COLUMNS) == len(upstream)
