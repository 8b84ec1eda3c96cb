"""An interrupted preparation is taken up where it ended, unless the files or the options have changed."""

import os

import pytest

from amodal.data.sources.mimic import cohort as module
from amodal.data.sources.mimic import images
from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.made.tables import make


@pytest.fixture(scope="module")
def mimic4(tmp_path_factory):
    return make("mimic4", tmp_path_factory.mktemp("made") / "mimic4", patients=30)


class Killed(BaseException):
    """Neither an error of this library nor of the data."""


@pytest.fixture
def stopped(mimic4, tmp_path, monkeypatch):
    """A preparation that ended in the middle of its images; gives how often each part is read afterwards."""
    read, counts = images._read_image, {"events": 0, "notes": 0, "images": 0}

    def fails(file):
        counts["images"] += 1
        if counts["images"] > 3:
            raise Killed
        return read(file)

    with monkeypatch.context() as patched:
        patched.setattr(images, "_read_image", fails)
        with pytest.raises(Killed):
            prepare_mimic("mimic4", mimic4, tmp_path / "out", modalities="ehr,notes,cxr,report")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.work"]
    counts["images"] = 0

    def counted(part, function):
        def call(*given, **more):
            counts[part] += 1
            return function(*given, **more)

        return call

    monkeypatch.setattr(images, "_read_image", counted("images", read))
    for part in ("events", "notes"):
        monkeypatch.setattr(module, f"read_{part}", counted(part, getattr(module, f"read_{part}")))
    return counts


def test_what_was_read_is_not_read_again(mimic4, tmp_path, stopped):
    said = []
    cohort = prepare_mimic("mimic4", mimic4, tmp_path / "out", modalities="ehr,notes,cxr,report", say=said.append)
    several = int(cohort.observed[:, 2].sum())
    assert stopped == {"events": 0, "notes": 1, "images": several - 3}
    assert said[0].startswith("decoding")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = prepare_mimic("mimic4", mimic4, tmp_path / "again", modalities="ehr,notes,cxr,report")
    assert again.fingerprint == cohort.fingerprint
    assert stopped["events"] == 1


@pytest.mark.parametrize("changed", ["restart", "option", "file"])
def test_it_begins_anew_where_something_is_different(mimic4, tmp_path, stopped, changed):
    more = {"restart": {"restart": True}, "option": {"hours": 24}, "file": {}}[changed]
    if changed == "file":
        os.utime(mimic4 / "icu" / "icustays.csv.gz")
    prepare_mimic("mimic4", mimic4, tmp_path / "out", modalities="ehr,notes,cxr,report", **more)
    assert stopped["events"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
