"""What looks suspicious in a cohort, planted beforehand; nothing else is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import fisher_exact

from amodal.cli import main
from amodal.data.cohort import Cohort
from amodal.data.inspection import inspect_cohort
from amodal.report.cohort_page import cohort_page
from amodal.schema import Task

N = 200


def made(*, note: list[str] | None = None, name: str = "made") -> Cohort:
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    clean = rng.normal(size=(N, 2))
    table = np.stack(
        [rng.normal(size=N), np.full(N, 7.0), y * 3 + rng.uniform(size=N), rng.permutation(N) + 1000.0], axis=1
    )
    after = np.where((y == 1)[:, None] & (rng.random(N) < 0.6)[:, None], rng.normal(size=(N, 1)), np.nan)
    return Cohort.from_arrays(
        {"clean": clean, "table": table, "after": after, "note": note or [f"note {i}" for i in range(N)]},
        task=Task("binary", classes=("no", "yes")),
        target=np.array(["no", "yes"])[y],
        splits=np.where(rng.random(N) < 0.7, "train", "test"),
        features={"table": ("noise", "constant", "answer", "number")},
        name=name,
    )


def test_planted_mistakes_are_found_and_nothing_else():
    found = {(s.kind, s.where) for s in inspect_cohort(made()).suspicions}
    assert found == {
        ("constant", "table.constant"),
        ("target", "table.answer"),
        ("identifier", "table.number"),
        ("presence", "after"),
    }


def test_texts_in_two_splits():
    notes = [f"note {i}" for i in range(N)]
    cohort = made()
    a, b = np.flatnonzero(cohort.splits == "train")[0], np.flatnonzero(cohort.splits == "test")[0]
    notes[b] = notes[a]
    suspicion = [s for s in inspect_cohort(made(note=notes)).suspicions if s.kind == "copies"]
    assert [s.where for s in suspicion] == ["note"]
    assert suspicion[0].detail.startswith("1 texts")


def test_a_regression_target_in_other_words():
    y = np.random.default_rng(1).normal(size=N)
    cohort = Cohort.from_arrays({"t": np.stack([np.exp(y), y[::-1]], 1)}, task=Task("regression"), target=y)
    assert [s.where for s in inspect_cohort(cohort).suspicions if s.kind == "target"] == ["t.feature 0"]


def test_presence_that_depends_on_chance_is_not_told():
    """Of three cases that have it all may be positive by chance: Fisher's exact test says so."""
    y = np.arange(40) % 2
    value = np.full((40, 1), np.nan)
    value[[1, 3, 5]] = [[0.1], [0.2], [0.3]]
    cohort = Cohort.from_arrays(
        {"rare": value, "all": np.random.default_rng(0).normal(size=(40, 1))},
        task=Task("binary", classes=(0, 1)), target=y, observed={"rare": ~np.isnan(value[:, 0])},
    )  # fmt: skip
    assert fisher_exact([[3, 17], [0, 20]])[1] > 0.2
    assert not [s for s in inspect_cohort(cohort).suspicions if s.kind == "presence"]


def test_ranges_and_rates_are_those_of_numpy():
    cohort = made()
    found = inspect_cohort(cohort)
    feature = next(f for f in found.features if f.name == "answer")
    column = cohort.batch(np.arange(N)).values["table"][:, 2].numpy()
    assert (feature.low, feature.high) == (column.min(), column.max())
    np.testing.assert_allclose(feature.quantiles, np.quantile(column, [0.05, 0.5, 0.95]), rtol=1e-6)
    assert found.rates["no"].tolist() == [1, 1, 0, 1]
    assert found.rates["yes"][2] == pytest.approx(cohort.observed[cohort.target == 1, 2].mean())


def test_the_page_escapes_what_comes_from_data():
    page = cohort_page(made(name="<script>alert(1)</script>"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 1
    assert "table.answer" in page


@pytest.mark.parametrize("ending", ["html", "svg", "png"])
def test_describe_draws(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made().save(tmp_path / "c")
    out = tmp_path / "new" / f"page.{ending}"
    assert main(["data", "describe", str(tmp_path / "c"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "table.answer: tells 'yes' by itself" in printed
    assert "suspicious:" in printed
    start = out.read_bytes()[:100]
    assert {"html": b"<!DOCTYPE html>", "svg": b"<?xml", "png": b"\x89PNG"}[ending] in start
    assert main(["data", "describe", str(tmp_path / "c"), "--out", str(tmp_path / "page.pdf")]) == 2


def test_describe_of_a_clean_cohort(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    cohort = Cohort.from_arrays({"t": rng.normal(size=(50, 2))}, task=Task("regression"), target=rng.normal(size=50))
    cohort.save(tmp_path / "c")
    assert main(["data", "describe", str(tmp_path / "c")]) == 0
    assert "nothing looks suspicious" in capsys.readouterr().out
