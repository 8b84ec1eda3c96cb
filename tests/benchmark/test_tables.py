"""Tables: the numbers of the results, in CSV and in LaTeX that compiles whatever the names."""

import pandas as pd
import pytest

from amodal.benchmark import Results, difference_table, method_table, save_tables, to_latex


@pytest.fixture
def results(make_run) -> Results:
    return Results([make_run(name, seed, skill=s) for name, s in (("50%_a&b", 2.0), ("b", 0.5)) for seed in (0, 1)])


def test_the_methods_table_has_the_numbers_of_the_results(results):
    table = method_table(results, ["auroc"]).set_index("name")
    found = results.summary("b", "auroc")
    assert table.loc["b", "seeds"] == 2
    assert table.loc["b", ["auroc", "auroc_low", "auroc_high", "auroc_seed_sd"]].tolist() == [
        found.interval.estimate,
        found.interval.low,
        found.interval.high,
        found.spread,
    ]


def test_the_differences_are_those_of_the_results(results):
    (row,) = difference_table(results, ["b"], ["auroc"]).to_dict("records")
    (found,) = results.compare("b", "auroc")
    assert (row["name"], row["difference"], row["p_adjusted"]) == (
        "50%_a&b",
        found.difference.estimate,
        found.p_adjusted,
    )
    assert row["verdict"] == found.verdict


def test_latex_is_escaped_and_complete(results):
    latex = to_latex(results)
    assert r"50\%\_a\&b" in latex
    assert latex.startswith(r"\begin{tabular}{lcc}")
    value = results.summary("b", "auroc").interval
    assert f"{value.estimate:.3f} ({value.low:.3f} to {value.high:.3f})" in latex


def test_tables_are_written(results, tmp_path):
    written = save_tables(results, tmp_path, ["b"])
    assert [path.name for path in written] == ["methods.csv", "methods.tex", "differences.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "methods.csv"), method_table(results))


def test_settings_stand_below_one_another(make_run):
    runs = [make_run(name, presence_seed=i, setting=f"setting {i}") for i in (1, 2) for name in ("a", "b")]
    results = Results(runs)
    table = method_table(results, ["auroc"])
    assert table[["setting", "name"]].to_numpy().tolist() == [[f"setting {i}", n] for i in (1, 2) for n in ("a", "b")]
    alone = results.of_setting("setting 2").summary("b", "auroc").interval.estimate
    assert table["auroc"].iloc[3] == alone
    assert difference_table(results, ["a"])["setting"].tolist() == ["setting 1", "setting 2"]
    assert to_latex(results).startswith(r"\begin{tabular}{llcc}")
