"""The digest of a cohort's content: the same wherever the content lies, another for every change of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data.cohorts import N, mixed_cohort

from amodal.data import Cohort
from amodal.data.store import ArrayStore, Stream


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_the_same_content_in_memory_in_a_folder_and_as_a_view(task, tmp_path):
    cohort = mixed_cohort(task)
    cohort.save(tmp_path / "c")
    stored = Cohort.open(tmp_path / "c")
    assert stored.digests == cohort.digests
    assert stored.take(np.arange(N)).digests == cohort.digests  # read through, not taken from the record
    rows = np.array([7, 3, 3, 12])
    assert stored.take(rows).fingerprint == cohort.take(rows).fingerprint
    part = cohort.split("train")
    part.save(tmp_path / "part")
    assert Cohort.open(tmp_path / "part").fingerprint == part.fingerprint == stored.split("train").fingerprint


def test_a_folder_s_own_checksums_are_taken_for_all_of_it_and_for_nothing_else(tmp_path, monkeypatch):
    mixed_cohort().save(tmp_path / "c")
    stored, read = Cohort.open(tmp_path / "c"), []
    digest = Stream.digest
    monkeypatch.setattr(Stream, "digest", lambda self: read.append(1) or digest(self))
    whole = stored.fingerprint
    assert not read
    removed = stored.with_observed(np.arange(N * 5).reshape(N, 5) % 4 > 0)
    assert removed.fingerprint != whole
    assert read


def test_every_change_of_content_changes_it():
    cohort = mixed_cohort()
    changes = {
        "ids": {"ids": np.char.add(cohort.ids, "x")},
        "groups": {"groups": cohort.groups[::-1]},
        "splits": {"splits": cohort.splits[::-1]},
        "target": {"target": 1 - cohort.target},
        "extra column 'age'": {"extras": cohort.extras | {"age": cohort.extras["age"] + 1}},
    }
    for part, change in changes.items():
        other = replace(cohort, **change)
        assert {key for key in cohort.digests if other.digests[key] != cohort.digests[key]} == {part}
        assert other.fingerprint != cohort.fingerprint
    assert replace(cohort, name="other", description="", source={"a": 1}).fingerprint == cohort.fingerprint
    less = cohort.with_observed(np.arange(N * 5).reshape(N, 5) != 6)
    assert less.digests["presence"] != cohort.digests["presence"]


def test_values_count_where_they_are_present_and_nowhere_else():
    cohort = mixed_cohort()
    seen = cohort.observed[:, 3]
    for row, counts in ((np.flatnonzero(seen)[0], True), (np.flatnonzero(~seen)[0], False)):
        values = np.array(cohort.stores["x-ray"].values)
        values[row] ^= 1
        other = replace(cohort, stores={**cohort.stores, "x-ray": ArrayStore(values)})
        assert (other.digests["values of 'x-ray'"] != cohort.digests["values of 'x-ray'"]) == counts
