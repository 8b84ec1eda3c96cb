"""No file asks for a kind by its name where the kind's object can answer."""

import re
from pathlib import Path

from amodal.kinds import MODALITY_KINDS, TASK_KINDS

SOURCE = Path(__file__).parents[2] / "src" / "amodal"

ALLOWED = {
    "data/sources/mimic/multibench.py": "one of its modalities is called 'series'",
    "data/sources/synthetic.py": "its generators are named like the kinds of task they make",
    "data/table/guess.py": "kinds of a column of a file, not of a modality",
    "methods/ensemble.py": "which encoder of a kind its second network has, an option by default",
    "report/templates/macros.html": "kinds of an exhibit",
    "serve/form.html": "kinds of a source of a modality",
    "serve/interface.html": "a format of OpenAPI is called 'binary'",
}
"""Files that compare something else that has the name of a kind, and what."""

_NAME = rf"""["'](?:{"|".join([*MODALITY_KINDS, *TASK_KINDS])})["']"""
COMPARISON = re.compile(
    rf"(?:[!=]= *{_NAME})|(?:{_NAME} *[!=]=)|(?:\bin *[(\[{{] *{_NAME})|(?:[{{,] *{_NAME} *:)|(?:\.get\( *{_NAME})"
)
"""`== "text"`, `in ("text", …)`, and dictionaries by kind."""


def test_the_pattern_finds_comparisons():
    for line in ('if kind == "text":', "x in ('series', 'text')", '{"binary": 2}', 'if "image" != kind:'):
        assert COMPARISON.search(line), line
    assert not COMPARISON.search('Modality("note", "text", ())')


def test_kinds_answer_themselves():
    files = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".html")]
    found = {}
    for path in files:
        name = path.relative_to(SOURCE).as_posix()
        text = re.sub(r"preferred_encoders: ClassVar = \{[^}]*\}", "", path.read_text())  # what a method wants by kind
        lines = [line.strip() for line in text.splitlines() if COMPARISON.search(line)]
        if lines and not name.startswith("kinds/"):
            found[name] = lines
    strangers = {name: lines for name, lines in found.items() if name not in ALLOWED}
    assert not strangers, f"use `modality.traits` or `task.traits`: {strangers}"
