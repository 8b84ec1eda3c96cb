import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from amodal.data.members import Member
from amodal.data.sources.cinc2012.records import find_sources, read_measurements, read_outcomes
from amodal.errors import DataError

HEADER = "Time,Parameter,Value\n"


def _record(name, text):
    content = text if isinstance(text, bytes) else text.encode()
    return Member(PurePosixPath("set-a") / name, content)


def _good(number, rows="00:07,HR,73\n"):
    return _record(f"{number}.txt", f"{HEADER}00:00,RecordID,{number}\n{rows}")


def _lists(rows):
    names = [rows.names[code] for code in rows.parameter]
    return list(zip(rows.stay.tolist(), rows.minute.tolist(), names, rows.value.tolist()))


# ---- measurements ------------------------------------------------------------------------------------------------


def test_rows_of_several_files_in_order():
    rows = read_measurements([_good(7, "00:07,HR,73\n01:02,Temp,-17.8\n"), _good(8, ""), _good(9, "48:00,pH,7.4")])
    assert _lists(rows) == [
        (0, 0, "RecordID", 7.0),
        (0, 7, "HR", 73.0),
        (0, 62, "Temp", -17.8),
        (1, 0, "RecordID", 8.0),
        (2, 0, "RecordID", 9.0),
        (2, 2880, "pH", 7.4),
    ]
    assert (rows.n_nameless, rows.n_empty) == (0, 0)


def test_windows_line_ends_blank_lines_and_a_byte_order_mark():
    text = b"\xef\xbb\xbfTime,Parameter,Value\r\n00:00,RecordID,7\r\n\r\n\r\n\r\n00:07,HR,73\r\n\r\n"
    rows = read_measurements([_record("7.txt", text), _good(8)])
    assert _lists(rows)[:2] == [(0, 0, "RecordID", 7.0), (0, 7, "HR", 73.0)]
    assert len(rows.stay) == 4


def test_rows_without_a_name_or_a_value_are_skipped_and_counted():
    rows = read_measurements([_good(7, "01:00,,5\n02:00,,\n03:00,HR,\n04:00,HR,60\n")])
    assert _lists(rows)[1:] == [(0, 240, "HR", 60.0)]
    assert (rows.n_nameless, rows.n_empty) == (2, 1)


def test_files_with_nothing_but_a_header():
    rows = read_measurements([_record("7.txt", HEADER), _record("8.txt", HEADER.strip())])
    assert len(rows.stay) == 0


def test_more_rows_than_one_block_keep_their_record():
    many = "".join(f"{h:02d}:{m:02d},HR,{h + m / 100}\n" for h in range(48) for m in range(60))
    records = [_good(number, many) for number in range(100, 1100, 2)]  # 1.4 million rows, 24 MB
    rows = read_measurements(records)
    assert len(rows.stay) == 500 * 2881
    np.testing.assert_array_equal(np.bincount(rows.stay), 2881)
    last = rows.stay == 499
    assert rows.value[last][0] == 1098
    np.testing.assert_allclose(rows.value[last][1:], [h + m / 100 for h in range(48) for m in range(60)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"Time,Parameter,Value\n00:00,RecordID,8\n00:01,T\xe9mp,37\n", r"set-a/8\.txt is not UTF-8: .*at byte 45"),
        (b"\xff\xfeT\x00i\x00", r"set-a/8\.txt is not UTF-8"),
        ("Time;Parameter;Value\n00:01;HR;3\n", r"set-a/8\.txt has another delimiter \(expected commas"),
        ("Time\tParameter\tValue\n00:01\tHR\t3\n", r"set-a/8\.txt has another delimiter"),
        ("Time,Parameter\n00:01,HR\n", r"set-a/8\.txt lacks the column 'Value' \(expected Time,Parameter,Value"),
        ("", r"set-a/8\.txt lacks the column 'Time'"),
        ("Parameter,Time,Value\nHR,00:01,3\n", r"set-a/8\.txt has other columns"),
        (HEADER + "00:01,HR,3\n00:02,H", r"set-a/8\.txt cannot be parsed.*rows like 00:07,HR,73.*truncated"),
        (HEADER + "00:01;HR;3\n", r"set-a/8\.txt cannot be parsed"),
        (HEADER + "00:01,HR,fast\n", r"set-a/8\.txt cannot be parsed.*fast"),
        (HEADER + "00:01,HR,inf\n", r"set-a/8\.txt has an infinite value"),
        (HEADER + "0:61,HR,3\n", r"set-a/8\.txt has a time that is none \(expected hh:mm, got '0:61'\)"),
        (HEADER + "00:00,RecordID,9\n", r"set-a/8\.txt holds another record's id \(expected 8, got 9\)"),
    ],
)
def test_a_bad_file_among_good_ones_is_named(text, message):
    with pytest.raises(DataError, match=message):
        read_measurements([_good(7), _record("8.txt", text), _good(9)])


# ---- outcomes ----------------------------------------------------------------------------------------------------

COLUMNS = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"


def _outcomes(text, name="Outcomes-a.txt"):
    return Member(PurePosixPath(name), text if isinstance(text, bytes) else text.encode())


def test_outcomes_in_the_order_of_the_ids_with_unknown_lengths():
    file = _outcomes(COLUMNS + "7,6,1,5,-1,0\n8,16,8,-1,3,1\n9,1,1,11,-1,0\n")
    outcomes = read_outcomes([file], np.array(["8", "7"]))
    assert outcomes.death.tolist() == [1, 0]
    np.testing.assert_array_equal(outcomes.length_of_stay, [np.nan, 5.0])
    assert outcomes.n_others == 1


def test_outcomes_of_several_files():
    files = [
        _outcomes(COLUMNS + "7,6,1,5,-1,0\n"),
        _outcomes(COLUMNS + "8,6,1,4,-1,1\n7,6,1,5,-1,0\n", "Outcomes-b.txt"),
    ]
    assert read_outcomes(files, np.array(["7", "8"])).death.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COLUMNS + "7,6,1,5,-1,0\n", r"1 of 2 records have no outcome, first 8 .*in Outcomes-a\.txt"),
        (
            COLUMNS + "7,1,1,5,-1,0\n8,1,1,5,-1,2\n",
            r"Outcomes-a\.txt: In-hospital_death of record 8 .*expected 0 or 1, got 2",
        ),
        (COLUMNS + "7,1,1,5,-1,0\n7,1,1,5,-1,1\n", r"Outcomes-a\.txt contradicts another row on record 7"),
        (COLUMNS + "7,1,1,5,-1,0\n8,1,1", r"Outcomes-a\.txt cannot be parsed"),
        (COLUMNS + "7,1,1,,-1,0\n", r"Outcomes-a\.txt has rows without Length_of_stay"),
        (COLUMNS + "7,1,1,long,-1,0\n", r"Outcomes-a\.txt cannot be parsed.*long"),
        (COLUMNS.replace(",", ";") + "7;1;1;5;-1;0\n", r"Outcomes-a\.txt has another delimiter"),
        (COLUMNS.replace("In-hospital_death", "Died"), r"Outcomes-a\.txt lacks the column 'In-hospital_death'"),
        (COLUMNS.encode() + b"7,1,1,5,-1,0\n\xe9", r"Outcomes-a\.txt is not UTF-8"),
    ],
)
def test_bad_outcomes_are_named(text, message):
    with pytest.raises(DataError, match=message):
        read_outcomes([_outcomes(text)], np.array(["7", "8"]))


# ---- where they are ----------------------------------------------------------------------------------------------


def _write(folder, letter, numbers, outcomes=True):
    (folder / f"set-{letter}").mkdir(parents=True)
    for number in numbers:
        (folder / f"set-{letter}" / f"{number}.txt").write_text(f"{HEADER}00:00,RecordID,{number}\n")
    if outcomes:
        rows = "".join(f"{number},1,1,3,-1,0\n" for number in numbers)
        (folder / f"Outcomes-{letter}.txt").write_text(COLUMNS + rows)


def _described(found):
    return [r.path.stem for r in found.records], found.sets, [o.path.name for o in found.outcomes]


def test_one_set_as_a_folder_has_its_outcomes_beside_it(tmp_path):
    _write(tmp_path, "a", [12, 3])
    _write(tmp_path, "b", [20])
    expected = (["3", "12"], ["a", "a"], ["Outcomes-a.txt"])
    assert _described(find_sources(tmp_path / "set-a")) == expected


def test_several_sets_in_a_folder(tmp_path):
    _write(tmp_path, "b", [20])
    _write(tmp_path, "a", [12, 3])
    expected = (["3", "12", "20"], ["a", "a", "b"], ["Outcomes-a.txt", "Outcomes-b.txt"])
    assert _described(find_sources(tmp_path)) == expected


def test_archives_in_a_folder_unless_unpacked_beside(tmp_path):
    for letter, number in {"a": 1, "b": 2}.items():
        _write(tmp_path, letter, [number])
        shutil.make_archive(str(tmp_path / f"set-{letter}"), "gztar", tmp_path, f"set-{letter}")
    shutil.rmtree(tmp_path / "set-b")
    expected = (["1", "2"], ["a", "b"], ["Outcomes-a.txt", "Outcomes-b.txt"])
    assert _described(find_sources(tmp_path)) == expected
    assert _described(find_sources(tmp_path / "set-b.tar.gz")) == (["2"], ["b"], ["Outcomes-b.txt"])


def test_everything_in_one_archive(tmp_path):
    _write(tmp_path / "all" / "challenge-2012-1.0.0", "c", [5, 6])
    path = shutil.make_archive(str(tmp_path / "download"), "zip", tmp_path / "all")
    assert _described(find_sources(Path(path))) == (["5", "6"], ["c", "c"], ["Outcomes-c.txt"])


def test_records_of_no_set_take_whatever_outcomes_there_are(tmp_path):
    _write(tmp_path, "a", [1])
    (tmp_path / "set-a").rename(tmp_path / "mine")
    assert _described(find_sources(tmp_path / "mine")) == (["1"], [""], ["Outcomes-a.txt"])


def test_sources_that_lack_something(tmp_path):
    _write(tmp_path, "a", [1], outcomes=False)
    with pytest.raises(DataError, match=r"no outcomes in .*set-a or beside it \(expected Outcomes-a\.txt\)"):
        find_sources(tmp_path / "set-a")
    (tmp_path / "Outcomes-b.txt").write_text(COLUMNS)
    with pytest.raises(DataError, match=r"expected Outcomes-a\.txt"):
        find_sources(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no records \(expected files named like 132539\.txt"):
        find_sources(tmp_path / "empty")
    _write(tmp_path, "b", [1])
    with pytest.raises(DataError, match=r"record 1 comes twice: .*set-a/1\.txt and .*set-b/1\.txt"):
        find_sources(tmp_path)
