"""The documentation's pages are true: their Python runs, and their commands are commands."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest

from amodal.cli import main
from amodal.method import SamplingMethod
from amodal.methods import METHODS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    "absence",
    "clinical_series",
    "copulas",
    "decisions",
    "encoders",
    "estimators",
    "extending",
    "impact",
    "index",
    "install",
    "metrics",
    "missingness",
    "start",
    "training",
    "methods/index",
]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page}
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for number, block in enumerate(blocks(page, "python")):
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, names, f"{page}.md block {number}", None, 0)
            runner.run(test, clear_globs=False)
            names = test.globs
        else:
            exec(compile(block, f"{page}.md block {number}", "exec"), names)
    assert runner.failures == 0


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "amodal " in "".join(blocks(page, "sh"))])
def test_commands_run_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    commands = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("amodal ")]
    assert commands
    monkeypatch.chdir(tmp_path)
    for command in commands:
        words = shlex.split(command)[1:]
        if "PHYSIONET" in words:
            words[words.index("PHYSIONET")] = str(request.getfixturevalue("shared_data") / "cinc2012")
        if words[0] == "fit":
            words += ["--epochs", "1", "--quiet"]
            words += ["--options", '{"steps": 5, "redraws": 1}'] if words[1] == "boosting" else []
        assert main(words) == 0, command


@pytest.mark.parametrize("page", sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str):
    text = (DOCS / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#\s]+)\)", text):
        made = link.startswith("generated/")  # when the site is built: tutorials from their sources, commands, encoders
        source = DOCS / "tutorials" / Path(link).name if made else (DOCS / page).parent / link
        assert source.exists() or link == "generated/commands.md", link


def test_every_citation_of_the_sources_is_in_the_bibliography():
    source = DOCS.parent / "src" / "amodal"
    keys = set(re.findall(r"^@\w+\{([^,]+),", (source / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    for path in [*source.rglob("*.py"), *DOCS.glob("*.md"), *DOCS.glob("methods/*.md")]:
        for role in re.findall(r":cite:`([^`]+)`|\{cite(?::\w+)?\}`([^`]+)`", path.read_text(encoding="utf-8")):
            for key in "".join(role).split(","):
                assert key.strip() in keys, f"{path.name} cites {key.strip()}"


def test_the_table_of_methods_says_what_the_classes_declare():
    """Columns "draws completions", "no modality at all" and "rows coupled" of docs/methods/index.md."""
    text = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    table = text[text.index("| method | absence in training") :]
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \|(.*)\|$", table, re.MULTILINE))
    assert set(rows) == set(METHODS)
    for name, method in METHODS.items():
        cells = [cell.strip() for cell in rows[name].split("|")]
        declared = (issubclass(method, SamplingMethod), method.accepts_empty, method.couples_rows)
        assert tuple(cell == "yes" for cell in cells[-3:]) == declared, name


def test_every_method_s_page_begins_with_when_to_use_it_and_how():
    for name in METHODS:
        text = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert text.splitlines()[0] == f"# {name}"
        assert text.splitlines()[2].startswith(("**When**: ", "Take it ")), name
        first = blocks(f"methods/{name}", "python")[0]
        assert f'amodal.fit("{name}"' in first, name
        assert text.index("```python") < 1200, name


def test_every_page_is_in_a_menu():
    listed = {"index"}
    for page in [*DOCS.glob("*.md"), *DOCS.glob("methods/*.md")]:
        for tree in re.findall(r"```\{toctree\}(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            listed |= {line.strip() for line in tree.splitlines()}
    for page in DOCS.glob("*.md"):
        assert page.stem in listed, page
    for page in (DOCS / "tutorials").glob("*.md"):
        assert f"generated/{page.stem}" in listed, page


def test_generated_pages_name_everything_there_is():
    """The commands, the encoders and the public names, from the parser and the registries."""
    import sys

    import amodal
    from amodal.encoders import ENCODERS

    sys.path.insert(0, str(DOCS))
    try:
        generate = __import__("generate")
    finally:
        sys.path.remove(str(DOCS))
    page = generate.front_page()
    assert all(f"amodal.{name}" in page for name in amodal.__all__)
    tables = generate.encoder_tables()
    assert all(f"| `{name}` |" in tables for name in ENCODERS)
    commands = [" ".join(words) for words in generate._commands()]
    assert {"fit", "data prepare table", "data schema", "impact", "serve"} <= set(commands)
    assert "--max_megabytes" in generate._help(["serve"])


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(path.stem for path in (DOCS / "tutorials").glob("*.md")))
def test_tutorials_run_and_show_what_came_out(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import generate

    text = generate.execute_page(DOCS / "tutorials" / f"{page}.md", tmp_path)
    assert text.count("```text") >= 3
    assert list(tmp_path.glob(f"{page}-*.svg"))


@pytest.mark.parametrize("block", blocks("tables", "yaml"))
def test_parts_of_schemas_can_be_used(block: str, tmp_path: Path):
    from amodal.data.table import TableSchema
    from amodal.data.table.section import load_record

    (tmp_path / "part.yaml").write_text(block, encoding="utf-8")
    whole = {"task": {"kind": "binary", "column": "y", "classes": ["a", "b"]},
             "modalities": {"t": {"kind": "tabular", "columns": ["x"]}}}  # fmt: skip
    schema = TableSchema.from_json(whole | load_record(tmp_path / "part.yaml"))
    assert TableSchema.from_json(schema.to_json()) == schema
