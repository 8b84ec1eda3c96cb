"""Published numbers as data, the rules of the verdicts, and the page of paper against ours."""

import importlib.util
import sys
from pathlib import Path

import pytest

from amodal.errors import DataError, UnknownNameError
from amodal.methods import METHODS
from amodal.report.papers import Block, Exhibit, file_drawing, file_table, paper_page
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
        for name in ("cepa", "cm2", "primo", "entry", "figures"):
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
    block = Block("one", "mimic4+cxr", "ihm", "partially matched", ("auroc",), {"cm2": "cm2"})
    page = paper_page([Exhibit("cm2", "table 3", "partially matched stays", [block], "cm2")])
    assert "needs credentials" in page
    assert "0.858 <span" in page  # the number, its interval below
    assert "exchanged intervals" in page  # a contradiction inside the paper
    assert "1 table and figure" in page
    assert "6 cannot be told" in page  # in the overview: cm2 and the five rivals that the paper prints


def test_pictures_and_tables_of_other_recipes_are_part_of_the_page(tmp_path):
    (tmp_path / "a.svg").write_text('<svg viewBox="0 0 400 100" xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "a.csv").write_text("name,value\none,0.123456\ntwo,\n")
    shown = {
        "drawings": [file_drawing(tmp_path / "a.svg", "k", "<b>")],
        "tables": [file_table(tmp_path / "a.csv", "t")],
    }
    page = paper_page([Exhibit("primo", "figure 3", "XOR", [], "primo", data="other", **shown)])
    assert "data:image/svg+xml;base64," in page
    assert '<figure class="wide">' in page
    assert 'alt="&lt;b&gt;"' in page
    assert "0.1235" in page
    assert "open or generated data" in page
    with pytest.raises(DataError, match=r"a figure is missing: .*b\.svg"):
        file_drawing(tmp_path / "b.svg", "k", "")
    with pytest.raises(DataError, match=r"a table is missing .*b\.csv"):
        file_table(tmp_path / "b.csv", "")


def test_every_entry_has_published_numbers_or_says_what_it_draws(run, capsys):
    run.main(["--list"])
    listed = capsys.readouterr().out
    figures = {f"primo-figure{n}" for n in range(3, 16)} | {f"cm2-figure{n}" for n in range(2, 6)}
    tables = {f"cm2-table{n}" for n in (2, 3, 4, 5, 6, 7, 9, 10, 11)} | {"primo-table1", "primo-table2"}
    cepa = {"cepa-table1", "cepa-table2", "cepa-table3", "cepa-figure2", "cepa-figure3"}
    assert set(run.ENTRIES) == figures | tables | cepa
    for entry in run.ENTRIES.values():
        assert entry.name in listed
        assert bool(entry.settings) != bool(entry.scripts)
        assert len({setting.title for setting in entry.settings}) == len(entry.settings)
        for setting in entry.settings:
            for rival in setting.rivals.values():
                assert rival.method in METHODS
                rival.own_options()
            for published in () if entry.draw else setting.conditions or {setting.published[2]: None}:
                printed = printed_values(entry.paper, entry.source, cohort=setting.published[0],
                                         task=setting.published[1], setting=published)  # fmt: skip
                assert printed, (entry.name, setting.title, published)
                assert {one.metric for one in printed} == set(setting.metrics)


@pytest.mark.parametrize(
    ("table", "without"), [("cepa-table1", {"zero"}), ("cm2-table2", set()), ("cm2-table9", set())]
)
def test_all_methods_that_a_table_prints_are_run(run, table, without):
    entry = run.ENTRIES[table]
    for setting in entry.settings:
        cohort, task, published = setting.published
        printed = printed_values(entry.paper, entry.source, cohort=cohort, task=task, setting=published)
        given = {one.method for one in printed if one.value == one.value or one.note.startswith("lost")}
        assert given - without <= set(setting.rivals)


def test_without_data_the_page_is_written_all_the_same(run, tmp_path, capsys):
    run.main(["cm2-table7", "cepa-figure3", "--out", str(tmp_path), "--data", str(tmp_path / "none")])
    assert "amodal data make mimic4" in capsys.readouterr().out
    assert "needs credentials" in (tmp_path / "papers.html").read_text()


def test_unknown_names_are_told_before_anything_is_run(run, tmp_path):
    with pytest.raises(UnknownNameError, match="table or figure.*cm2-tabel2.*Did you mean 'cm2-table2'"):
        run.main(["cm2-tabel2", "--out", str(tmp_path)])
    with pytest.raises(UnknownNameError, match="method of the papers.*medfuze.*medfuse"):
        run.main(["cm2-table2", "--methods", "medfuze", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_table_on_made_data(run, tmp_path):
    from amodal.data.sources.mimic.made.tables import make

    make("mimic3", tmp_path / "data" / "mimic3", patients=120)
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs"), "--small", "--width", "8"]
    table, figure = run.main(["primo-table2", "primo-figure9", *words])
    assert all(block.results is not None and not block.results.failed for block in table.blocks)
    assert [len(part.svg) > 10_000 for part in figure.drawings] == [True] * 3
    page = (tmp_path / "runs" / "papers.html").read_text()
    assert "made data" in page
    assert "primo less" in page


@pytest.fixture(scope="module")
def mimic4(tmp_path_factory):
    from amodal.data.sources.mimic.made.tables import make

    folder = tmp_path_factory.mktemp("made")
    make("mimic4", folder / "mimic4", patients=90)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_figures_and_tests_are_drawn_from_the_runs_of_tables(run, mimic4, tmp_path, capsys):
    words = ["--data", str(mimic4), "--out", str(tmp_path), "--small", "--width", "8", "--methods", "cm2", "mmtm"]
    table, tests, *figures = run.main(["cm2-table2", "cm2-table11", *(f"cm2-figure{n}" for n in (3, 4)), *words])
    assert [block.results is None for block in table.blocks] == [True, True, False, False]  # without MIMIC-III
    assert len(tests.tables) == 2
    assert all(len(figure.drawings) == 1 for figure in figures)
    assert "cm2-table11, mimic4+cxr, mortality, matched" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").glob("*matched*/mmtm-seed0*"))) == 2  # trained once for both tables


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_grid_is_searched_on_validation_rows(run, mimic4, tmp_path, capsys):
    words = ["--data", str(mimic4), "--out", str(tmp_path), "--small", "--width", "8", "--methods", "mmtm", "--select"]
    (exhibit,) = run.main(["cm2-table2", *words])
    assert "mmtm: chosen {" in capsys.readouterr().out
    tried = {path.name.rpartition("-seed")[0] for path in (tmp_path / "runs").glob("*/selection/mmtm*")}
    assert len(tried) == 3 + 4  # learning rates and shares of dropout; mmtm has no components
    chosen = [run for block in exhibit.blocks if block.results for run in block.results.runs]
    assert {run.name for run in chosen} == {"mmtm"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_degradation_is_drawn_by_both_rates(run, mimic4, tmp_path):
    words = ["--data", str(mimic4), "--out", str(tmp_path), "--small", "--width", "8", "--methods", "shaspec"]
    (exhibit,) = run.main(["cepa-figure3", *words])
    assert len(exhibit.drawings) == 3 * 2 * 2  # tasks, metrics, rates
    for entry, sample in zip(exhibit.drawings[::2], exhibit.drawings[1::2], strict=True):
        assert entry.caption.endswith("by entry rate before repair.")
        assert sample.caption.endswith("by sample rate.")
        assert entry.table.head == ["method", *(f"{rate}%" for rate in range(0, 100, 10))]
        assert [row[1] for row in entry.table.rows] == [row[1] for row in sample.table.rows]  # nothing is absent at 0 %
        absent = [float(cell.strip("%")) for cell in sample.table.rows[0][1:]]
        assert absent == pytest.approx([5 * step for step in range(10)], abs=6)  # half lose a third, half two thirds
        assert [row[0] for row in entry.table.rows] == ["absent entries", "shaspec"]
