"""Files as they arrive damaged: each is named with what is wrong, and nothing is left half-written."""

import gzip
import re

import pytest
from data.mimic_made import link

from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.made.tables import make
from amodal.errors import DataError


@pytest.fixture(scope="module")
def mimic3(tmp_path_factory):
    return make("mimic3", tmp_path_factory.mktemp("made") / "mimic3", patients=20)


@pytest.fixture(scope="module")
def mimic4(tmp_path_factory):
    return make("mimic4", tmp_path_factory.mktemp("made") / "mimic4", patients=5, images=False)


def text_of(raw):
    return gzip.decompress(raw).decode()


def packed(text):
    return gzip.compress(text.encode())


def twice(raw):
    head, _, rest = text_of(raw).partition("\n")
    return packed(f"{head}\n{rest}{rest}")


DAMAGE = {  # file, what becomes of its bytes, what is said
    "not gzip": ("CHARTEVENTS", text_of, "its name ends in .gz, but it is not compressed"),
    "cut": ("LABEVENTS", lambda raw: raw[:-300], "it is truncated or damaged"),
    "end cut": ("ICUSTAYS", lambda raw: raw[:-4], "it is truncated or damaged"),
    "empty": ("CHARTEVENTS", lambda _: b"", "it is not compressed"),
    "semicolons": ("ICUSTAYS", lambda raw: packed(text_of(raw).replace(",", ";")), "columns separated by commas"),
    "a date": ("CHARTEVENTS", lambda raw: packed(text_of(raw).replace(" 1", " x1", 1)), "in the column CHARTTIME"),
    "a number": ("ICUSTAYS", lambda raw: packed(text_of(raw).replace("\n1", "\none", 1)), "in the column SUBJECT_ID"),
    "latin": ("NOTEEVENTS", lambda raw: gzip.compress(gzip.decompress(raw).replace(b"e", b"\xe9", 400)), "no UTF-8"),
    "a column": (
        "ADMISSIONS",
        lambda raw: packed(text_of(raw).replace("DEATHTIME", "DIED")),
        "lacks the column deathtime",
    ),
    "twice": ("ADMISSIONS", twice, r"has 2 rows for hadm_id \d+"),
    "no rows": ("ICUSTAYS", lambda raw: packed(text_of(raw).partition("\n")[0] + "\n"), "no stay of an adult"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_named(mimic3, tmp_path, damage):
    table, spoil, words = DAMAGE[damage]
    source = link(mimic3, tmp_path / "m3", without=[f"{table}.csv.gz"])
    spoilt = spoil((mimic3 / f"{table}.csv.gz").read_bytes())
    (source / f"{table}.csv.gz").write_bytes(spoilt.encode() if isinstance(spoilt, str) else spoilt)
    with pytest.raises(DataError) as caught:
        prepare_mimic("mimic3", source, tmp_path / "out", modalities="ehr,notes")
    assert f"{table}.csv.gz" in str(caught.value)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert "Patient" not in str(caught.value)  # no words of a note
    assert [path.name for path in tmp_path.iterdir()] == ["m3"]


@pytest.mark.parametrize("form", ["lower case", "byte order mark", "carriage returns", "floats"])
def test_other_forms_of_the_same_tables_are_read(mimic3, tmp_path, form):
    source = tmp_path / "m3"
    source.mkdir()
    for file in mimic3.glob("*.csv.gz"):
        head, _, rest = text_of(file.read_bytes()).partition("\n")
        if form == "floats":
            rest = re.sub(r",(2\d{7}),(3\d{7}),", r",\1.0,\2.0,", rest)
        text = f"{head.lower() if form == 'lower case' else head}\n{rest}"
        text = text.replace("\n", "\r\n") if form == "carriage returns" else text
        (source / file.name).write_bytes(packed("\ufeff" * (form == "byte order mark") + text))
    kept = [prepare_mimic("mimic3", folder, tmp_path / name) for folder, name in ((mimic3, "a"), (source, "b"))]
    assert kept[0].fingerprint == kept[1].fingerprint


def test_a_folder_of_another_kind_is_told(mimic3, mimic4, tmp_path):
    with pytest.raises(DataError, match="looks like MIMIC-IV: use `amodal data prepare mimic4`"):
        prepare_mimic("mimic3", mimic4, tmp_path / "out")
    with pytest.raises(DataError, match="looks like MIMIC-III: use `amodal data prepare mimic3`"):
        prepare_mimic("mimic4", mimic3, tmp_path / "out")
    with pytest.raises(DataError, match=f"It may be in {mimic4}"):
        prepare_mimic("mimic4", mimic4.parent, tmp_path / "out")
    with pytest.raises(DataError, match="There is no folder"):
        prepare_mimic("mimic4", tmp_path / "nowhere", tmp_path / "out")
    old = tmp_path / "mimic-iv-1.0"
    link(mimic4 / "icu", old / "icu")
    link(mimic4 / "hosp", old / "core")
    with pytest.raises(DataError, match=r"looks like MIMIC-IV 1\.0"):
        prepare_mimic("mimic4", old, tmp_path / "out")
    assert not (tmp_path / "out").exists()
