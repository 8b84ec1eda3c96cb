"""A script from the field, run in this process: its lines, names and warnings."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import amodal
from amodal.cli import main


@dataclass
class Script:
    """What a script did, up to its end or its error.

    Attributes:
        names: Its variables.
        output: What it printed.
        error: The error it ended with; None if it reached its end.
        warned: Texts of its warnings.
    """

    names: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    error: Exception | None = None
    warned: list[str] = field(default_factory=list)

    def line(self, start: str) -> str:
        """The rest of the one line that begins with a text."""
        (rest,) = (line[len(start) :].strip() for line in self.output.splitlines() if line.startswith(start))
        return rest

    def call(self, text: str) -> str:
        """Runs one more statement among the script's variables, and gives what it prints."""
        with _quiet() as (said, _):
            exec(text, self.names)
        return said.getvalue().strip()


def amodal_command(*words: str) -> SimpleNamespace:
    """A command of `amodal` as `subprocess.run` would give it back."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = main(list(words))
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def run_script(path: Path, monkeypatch: Any, edit: Callable[[str], str] = str) -> Script:
    """Runs a script in the working directory, its models tiny and its commands in this process.

    Args:
        path: The script.
        monkeypatch: Pytest's.
        edit: A change of its text first.
    """
    for name in ("MissingModalityClassifier", "MissingModalityRegressor"):
        monkeypatch.setattr(amodal, name, _tiny(getattr(amodal, name)))
    monkeypatch.setattr("subprocess.run", _run_command)
    script = Script({"__name__": "__main__"})
    with _quiet() as (said, caught):
        try:
            exec(compile(edit(path.read_text(encoding="utf-8")), str(path), "exec"), script.names)
        except Exception as error:
            script.error = error
    script.output, script.warned = said.getvalue(), [str(warning.message) for warning in caught]
    return script


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said, caught


def _tiny(estimator: type) -> Callable[..., Any]:
    def make(method: str, **options: Any) -> Any:
        return estimator(method, **options | {"epochs": min(2, options.get("epochs", 2)), "width": 8})

    return make


def _run_command(command: str | list[str], **_: Any) -> SimpleNamespace:
    """What stands in for `subprocess.run`: `rm -rf` and `amodal` only."""
    result = SimpleNamespace(returncode=0, stdout="", stderr="")
    for words in [shlex.split(part) for part in re.split(r";\s*", command)] if isinstance(command, str) else [command]:
        if words[:2] == ["rm", "-rf"]:
            shutil.rmtree(words[2], ignore_errors=True)
        else:
            assert words[0] == "amodal", words
            result = amodal_command(*words[1:])
    return result
