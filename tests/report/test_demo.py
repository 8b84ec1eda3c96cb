"""The demo, end to end, in its quick version."""

import re

import pandas as pd
import pytest

from amodal.benchmark import read_run
from amodal.missingness import MCAR
from amodal.report.demo import demo_experiments, run_demo


def test_the_demo_compares_equal_conditions():
    experiments = demo_experiments(seed=3)
    assert len({experiment.setting for experiment in experiments}) == 1
    assert {experiment.test_missingness for experiment in experiments} == {MCAR(0.5)}
    assert {experiment.seed for experiment in experiments} == {3}
    assert [e.name for e in experiments if e.removal is None] == ["fusion"]
    methods = {experiment.method for experiment in experiments}
    assert methods == {"unimodal", "fusion", "modality_dropout", "late_fusion", "primo", "per_pattern", "boosting",
                       "cepa", "cm2"}  # fmt: skip


@pytest.mark.slow
def test_the_quick_demo_writes_its_page_and_uses_what_is_there(tmp_path, monkeypatch):
    lines: list[str] = []
    page = run_demo(tmp_path, quick=True, say=lines.append)
    assert page == tmp_path / "index.html"
    text = page.read_text(encoding="utf-8")
    assert 300_000 < len(text) < 3_000_000
    steps = [line for line in lines if line.startswith("[")]
    assert len(steps) == 12
    assert all(re.search(r"\d s +accuracy 0\.\d{3}", line) for line in steps)
    runs = [read_run(folder) for folder in tmp_path.iterdir() if folder.is_dir()]
    assert len({run.presence_hash() for run in runs}) == 1
    rows = pd.read_csv(tmp_path / "results.csv")
    assert rows["name"].nunique() == 12
    methods = pd.read_csv(tmp_path / "methods.csv").set_index("name")
    for run in runs:
        if run.name in methods.index:
            value = next(p for p in run.metrics["patterns"] if p["pattern"] == "overall")["metrics"]["accuracy"]
            assert methods.loc[run.name, "accuracy"] == pytest.approx(value["value"])
            assert f"{value['value']:.3f}" in text
    assert sum(name.startswith("unimodal") for name in methods.index) == 1

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("amodal.benchmark.run.fit", refuse)
    lines.clear()
    run_demo(tmp_path, quick=True, say=lines.append)
    assert sum("there already" in line for line in lines) == 12
    assert page.read_text(encoding="utf-8") == text
