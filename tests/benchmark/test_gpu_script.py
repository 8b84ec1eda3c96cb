"""The script for a GPU runs on the processor, in small, and says what failed."""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")
FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_script_in_small(tmp_path):
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.OPTIONS["fusion"] = {"no_such_option": 1}
    found = script.main(["--small", "--methods", "modality_dropout", "fusion", "--out", str(tmp_path / "gpu.json")])
    assert json.loads((tmp_path / "gpu.json").read_text())["device"] == found["device"]
    assert found["encoder"]["share"] > 0
    by_name = {name: [r for r in found["methods"] if r["method"] == name] for name in ("modality_dropout", "fusion")}
    assert all("no_such_option" in one["error"] for one in by_name["fusion"])
    assert {one["precision"] for one in by_name["modality_dropout"]} == {"32-true", "bf16-mixed"}
    exact = [one["difference"] for one in by_name["modality_dropout"] if one["precision"] == "32-true"]
    assert max(exact) == 0 if found["device"] == "cpu" else max(exact) < 0.05
