"""Published numbers as data, the rules of the verdicts, and the page of paper against ours."""

import importlib.util
import sys
from pathlib import Path

import pytest

from amodal.report.papers import Block, Exhibit, paper_page
from amodal.report.published import (
    PrintedValue,
    judge_difference,
    judge_value,
    printed_values,
    read_published,
    remarks_on,
)

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "papers"


@pytest.fixture(scope="module")
def run():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("papers_run", FOLDER / "run.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("cepa", "cm2", "primo", "entry"):
            sys.modules.pop(name, None)


def test_the_printed_numbers_are_all_there():
    table = read_published()
    assert len(table) == 597
    assert table.value.isna().sum() == 12  # lost in the extraction, excluded by the paper, or dashes
    assert table.groupby("paper").size().to_dict() == {"cepa": 98, "cm2": 473, "primo": 26}
    assert len(read_published("settings")) == 138
    assert len(remarks_on("cm2", "table 3")) == 1


def test_units_and_intervals_are_those_of_our_metrics():
    found = {(v.method, v.metric): v for v in printed_values(
        "cepa", "table 1", cohort="mimic4+cxr+text", task="length_of_stay")}  # fmt: skip
    assert found["cepa", "mae"].value == pytest.approx(72.9)  # hours
    assert found["cepa", "kappa"].value == pytest.approx(0.302)
    assert str(found["muse", "mae"]) == "not given"
    cm2 = printed_values("cm2", "table 3", cohort="mimic4+cxr", task="ihm", setting="partially matched")
    best = next(v for v in cm2 if (v.method, v.metric) == ("cm2", "auroc"))
    assert best.value == pytest.approx(0.858)
    assert best.low < best.value < best.high


def test_verdicts():
    one = PrintedValue("m", "auroc", 0.8, 0.78, 0.82)
    nan = float("nan")
    assert judge_value(one, 0.82, 0.9, same_data=True) == "agrees"  # they touch
    assert judge_value(one, 0.83, 0.9, same_data=True) == "does not agree"
    assert judge_value(one, nan, nan, same_data=True) == "cannot be told"
    assert judge_difference(nan, 0.1, 0.2, same_data=True) == "cannot be told"
    assert judge_difference(-0.1, 0.1, 0.2, same_data=False) == "cannot be told"


def test_a_table_that_was_not_run_says_what_it_needs():
    methods = {"cm2": "cm2", "unknown rival": None}
    block = Block("one", "mimic4+cxr", "ihm", "partially matched", ("auroc",), methods)
    page = paper_page([Exhibit("cm2", "table 3", "partially matched stays", [block], "cm2")])
    assert "needs credentials" in page
    assert "not in this version" in page
    assert "0.858 (0.8" in page
    assert "exchanged intervals" in page  # a contradiction inside the paper


def test_every_entry_has_published_numbers_and_a_command(run, capsys):
    run.main(["--list"])
    listed = capsys.readouterr().out
    for entry in run.ENTRIES.values():
        assert entry.name in listed
        assert bool(entry.settings) != bool(entry.command)
        for setting in entry.settings:
            names = setting.conditions or {setting.published[2]: None}
            for published in names:
                printed = printed_values(entry.paper, entry.source, cohort=setting.published[0],
                                         task=setting.published[1], setting=published)  # fmt: skip
                assert printed, (entry.name, setting.title, published)
                assert {one.metric for one in printed} == set(setting.metrics)
            for rival in setting.rivals.values():
                if rival.is_here:
                    rival.own_options()


def test_without_data_the_page_is_written_all_the_same(run, tmp_path, capsys):
    run.main(["cm2-table7", "cepa-table1", "--out", str(tmp_path), "--data", str(tmp_path / "none")])
    assert "amodal data make mimic4" in capsys.readouterr().out
    assert "needs credentials" in (tmp_path / "papers.html").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_table_on_made_data(run, tmp_path):
    from amodal.data.sources.mimic.made.tables import make

    make("mimic3", tmp_path / "data" / "mimic3", patients=120)
    words = ["primo-table2", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs"), "--epochs", "1"]
    (exhibit,) = run.main([*words, "--seeds", "0", "--width", "8", "--encoders", "small"])
    assert all(block.results is not None and not block.results.failed for block in exhibit.blocks)
    page = (tmp_path / "runs" / "papers.html").read_text()
    assert "made data" in page
    assert "primo less unimodal" in page
