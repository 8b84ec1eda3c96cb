"""MIMIC's tables as views: any case, gzipped or not, odd folders; what is missing or broken is named."""

import gzip

import pytest

from amodal.data.sources.mimic.query import columns_of, open_tables
from amodal.errors import DataError


def test_tables_by_any_name(tmp_path):
    folder = tmp_path / "it's here"
    (folder / "ICU").mkdir(parents=True)
    (folder / "patients.csv").write_text('subject_id,dod\n1,\n2,"a ""b"", c"\n')
    with gzip.open(folder / "ICU" / "STAYS.csv.gz", "wt") as file:
        file.write("subject_id,hours\n2,7\n")
    with open_tables(folder, {"PATIENTS": "PATIENTS", "S": "ICU/stays"}, database="X") as connection:
        found = columns_of(connection, "SELECT p.dod, s.hours FROM PATIENTS p JOIN S s USING (subject_id)")
    assert found["dod"].tolist() == ['a "b", c']
    assert found["hours"].tolist() == ["7"]


def test_what_is_wrong_is_named(tmp_path):
    missing = pytest.raises(DataError, match=r"a table of MIMIC-V is missing: .*icu/stays\.csv\(\.gz\)")
    with missing, open_tables(tmp_path, {"S": "icu/stays"}, database="MIMIC-V"):
        pass
    (tmp_path / "stays.csv").write_text("subject_id\n1\n")
    broken = pytest.raises(DataError, match=r"stays\.csv cannot be read: .*hours")
    with broken, open_tables(tmp_path, {"S": "stays"}, database="MIMIC-V") as connection:
        columns_of(connection, "SELECT hours FROM S")
