"""Cohort folders: they come back as they were, memory-mapped; damage is named by file; writing is all or nothing."""

import errno
import json
import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

import amodal.data.folder as folder_module
from amodal.data import Cohort, load_cohort
from amodal.errors import DataError
from amodal.schema import Task

from .cohorts import N, assert_same_batch, mixed_cohort

ROWS = np.arange(N)


@pytest.fixture
def saved(tmp_path):
    mixed_cohort().save(tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
@pytest.mark.parametrize("verify", [False, True])
def test_a_cohort_comes_back_as_it_was(tmp_path, task, verify):
    cohort = mixed_cohort(task)
    cohort.save(tmp_path / "deep" / "c")
    copy = Cohort.open(tmp_path / "deep" / "c", verify=verify)
    assert copy.schema == cohort.schema
    for part in ("ids", "groups", "splits", "target", "observed"):
        one, other = getattr(cohort, part), getattr(copy, part)
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert copy.extras.keys() == cohort.extras.keys()
    for name in cohort.extras:
        np.testing.assert_array_equal(cohort.extras[name], copy.extras[name])
    assert (copy.name, copy.description) == ("mixed", "one of each")
    assert_same_batch(copy.batch(ROWS), cohort.batch(ROWS))
    np.testing.assert_array_equal(copy.scores(), cohort.scores())
    assert os.listdir(tmp_path / "deep") == ["c"]  # nothing temporary is left


def test_without_target_and_with_extreme_columns(tmp_path):
    cohort = Cohort.from_arrays(
        {"note": ["", None]}, task=Task("regression"), observed={"note": np.zeros(2, bool)}, ids=["ünïcode", "x y/z"]
    )
    cohort.save(tmp_path / "c")
    copy = Cohort.open(tmp_path / "c")
    assert copy.target is None
    assert copy.ids.tolist() == ["ünïcode", "x y/z"]
    assert copy.batch(np.arange(2)).values["note"].tolist() == [[0], [0]]


def test_arrays_stay_on_disk_through_every_view(saved):
    view = Cohort.open(saved).split("train").with_observed(np.ones((24, 5), bool)).take(np.arange(5))
    for store in view.stores.values():
        arrays = [value for value in vars(store).values() if isinstance(value, np.ndarray)]
        assert arrays
        assert all(isinstance(array, np.memmap) for array in arrays)
    assert_same_batch(pickle.loads(pickle.dumps(view)).batch(np.arange(5)), view.batch(np.arange(5)))


def test_a_view_is_written_as_what_it_shows(tmp_path):
    presence = np.random.default_rng(0).random((N, 5)) < 0.5
    view = mixed_cohort().with_observed(presence).take(np.array([9, 4, 30]))
    view.save(tmp_path / "c")
    assert_same_batch(Cohort.open(tmp_path / "c").batch(np.arange(3)), view.batch(np.arange(3)))


def test_what_was_removed_is_physically_gone(tmp_path):
    cohort = Cohort.from_arrays(
        {"note": ["SECRET", "kept"], "labs": np.full((2, 2), 77.0)}, task=Task("regression"), ids=["a", "b"]
    )
    cohort.with_observed(np.array([[False, False], [True, True]])).save(tmp_path / "c")
    content = (tmp_path / "c" / "arrays" / "note.values.npy").read_bytes()
    assert b"kept" in content
    assert b"SECRET" not in content
    assert np.load(tmp_path / "c" / "arrays" / "labs.values.npy").tolist() == [[0, 0], [77, 77]]


def test_other_tools_read_the_files(saved):
    table = parquet.read_table(saved / "manifest.parquet").to_pandas()
    assert table["id"].tolist() == [f"stay{i:02d}" for i in range(N)]
    assert set(table["split"]) == {"train", "valid", "test", ""}
    assert table["observed_x-ray"].tolist() == (ROWS % 3 > 0).tolist()
    record = json.loads((saved / "schema.json").read_text())
    assert record["format"] == 1
    assert record["samples"] == N
    assert set(record["files"]) == {"manifest.parquet"} | {f"arrays/{p.name}" for p in (saved / "arrays").iterdir()}


# Damage --------------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def rewrite(path: Path, **changes) -> None:
    record = json.loads(path.read_text()) | changes
    record["checksum"] = folder_module._checksum(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda c: os.truncate(c / "arrays/vitals.values.npy", 500),
            r"arrays/vitals.values.npy is truncated \(expected",
        ),
        (lambda c: os.truncate(c / "arrays/note.offsets.npy", 0), "arrays/note.offsets.npy is truncated"),
        (lambda c: append(c / "arrays/labs.values.npy"), "arrays/labs.values.npy is too long"),
        (lambda c: (c / "arrays/x-ray.values.npy").unlink(), "a file of the cohort is missing: .*x-ray.values.npy"),
        (lambda c: flip(c / "arrays/labs.values.npy", 3), "arrays/labs.values.npy has a wrong checksum"),
        (lambda c: flip(c / "manifest.parquet", 300), "manifest.parquet has a wrong checksum"),
        (lambda c: os.truncate(c / "manifest.parquet", 10), "manifest.parquet is truncated"),
        (lambda c: (c / "manifest.parquet").unlink(), "missing: .*manifest.parquet"),
        (lambda c: os.truncate(c / "schema.json", 40), "schema.json cannot be read: it is truncated"),
        (lambda c: os.truncate(c / "schema.json", 0), "schema.json cannot be read"),
        (lambda c: (c / "schema.json").write_bytes(b"\xff\xfe"), "schema.json cannot be read"),
        (lambda c: (c / "schema.json").write_text("[]"), "schema.json cannot be read"),
        (lambda c: (c / "schema.json").unlink(), "is no cohort folder: schema.json is not there"),
        (
            lambda c: (c / "schema.json").write_text((c / "schema.json").read_text().replace("degC", "degF")),
            "schema.json has a wrong checksum: it was altered",
        ),
        (lambda c: rewrite(c / "schema.json", format=2), "newer format .*expected format 1 or older, got 2.. Update"),
        (lambda c: rewrite(c / "schema.json", samples=N + 1), "modality 'labs' .*another number of rows"),
        (lambda c: rewrite(c / "schema.json", schema={"format": 9}), "the schema in .*schema.json cannot be used"),
    ],
)
def test_damage_is_found_at_opening_and_named_by_file(saved, damage, words):
    damage(saved)
    with pytest.raises(DataError, match=words):
        Cohort.open(saved)


def test_altered_values_are_found_when_asked(saved):
    flip(saved / "arrays" / "vitals.values.npy")
    Cohort.open(saved, verify=False)
    with pytest.raises(DataError, match=r"vitals\.values\.npy has a wrong checksum: it was altered"):
        Cohort.open(saved, verify=True)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(DataError, match="is no cohort folder"):
        load_cohort(tmp_path)


# Writing -------------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_asked(saved):
    before = (saved / "schema.json").read_bytes()
    with pytest.raises(DataError, match="there is a cohort in .* already. Pass overwrite=True"):
        mixed_cohort("regression").save(saved)
    assert (saved / "schema.json").read_bytes() == before
    mixed_cohort("regression").save(saved, overwrite=True)
    assert Cohort.open(saved).schema.task.kind == "regression"
    assert os.listdir(saved.parent) == ["c"]


def test_a_cohort_can_replace_itself_while_it_is_open(saved):
    cohort = Cohort.open(saved)
    expected = cohort.take(np.arange(3)).batch(np.arange(3))
    cohort.take(np.arange(3)).save(saved, overwrite=True)
    assert_same_batch(Cohort.open(saved).batch(np.arange(3)), expected)
    assert_same_batch(cohort.batch(np.arange(3)), expected)  # the old files live as long as they are mapped


def test_other_folders_and_files_are_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.txt").write_text("years of work")
    for place in (tmp_path / "thesis", tmp_path / "thesis" / "draft.txt"):
        with pytest.raises(DataError, match="is there already and is no cohort folder"):
            mixed_cohort().save(place, overwrite=True)
    assert (tmp_path / "thesis" / "draft.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    mixed_cohort().save(tmp_path / "empty")
    assert len(Cohort.open(tmp_path / "empty")) == N


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["_write_array", "_write_manifest", "_fingerprint"])
def test_a_failed_write_leaves_what_was_there(saved, monkeypatch, step, overwrite):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, step, fail)
    place = saved if overwrite else saved.parent / "other"
    with pytest.raises(DataError, match="cannot write the cohort folder .*: No space left on device. Choose"):
        mixed_cohort("regression").save(place, overwrite=overwrite)
    monkeypatch.undo()
    assert os.listdir(saved.parent) == ["c"]
    assert Cohort.open(saved, verify=True).schema.task.kind == "binary"


def test_a_failed_rename_puts_the_older_cohort_back(saved, monkeypatch):
    real, calls = os.rename, []

    def rename(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(DataError, match="cannot write the cohort folder .*: Permission denied"):
        mixed_cohort("regression").save(saved, overwrite=True)
    assert os.listdir(saved.parent) == ["c"]
    assert Cohort.open(saved).schema.task.kind == "binary"


def test_an_interrupt_leaves_nothing_behind(saved, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "_write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mixed_cohort().save(saved, overwrite=True)
    assert os.listdir(saved.parent) == ["c"]


def test_too_little_space_is_found_before_writing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10, 9, 1))
    with pytest.raises(DataError, match=r"not enough space for a cohort in .*expected 1\.\d MB, got 0\.0 MB"):
        mixed_cohort().save(tmp_path / "c")
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the cohort folder"):
        mixed_cohort().save(tmp_path / "file" / "c")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="Permission denied"):
        mixed_cohort().save(tmp_path / "c")
    tmp_path.chmod(0o700)


def test_repeated_rows_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="ids come more than once: stay01"):
        mixed_cohort().take(np.array([1, 1])).save(tmp_path / "c")
    assert os.listdir(tmp_path) == []
