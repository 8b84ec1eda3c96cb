"""Pages that are made when the documentation is built: the interface, the commands, the encoders, the tutorials."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amodal

__all__ = ["execute_page", "write_generated_pages"]

HERE = Path(__file__).resolve().parent
OUT = HERE / "generated"
TUTORIALS = HERE / "tutorials"


def write_generated_pages() -> None:
    """Writes everything below docs/generated and docs/api; what has not changed is not written again."""
    OUT.mkdir(exist_ok=True)
    _write(HERE / "api" / "index.md", front_page())
    _write(OUT / "commands.md", command_reference())
    _write(OUT / "encoders.md", encoder_tables())
    for page in sorted(TUTORIALS.glob("*.md")):
        _write(OUT / page.name, execute_page(page, OUT))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# The interface ---------------------------------------------------------------------------------------------------


def front_page() -> str:
    """The names of `amodal.__all__`, each with what it is and a link to its description."""
    lines = ["# The names of `amodal`", "", "What programs outside use; these names are promises.", ""]
    lines += ["| name | what it is |", "|---|---|"]
    for name in sorted(amodal.__all__, key=str.lower):
        value = getattr(amodal, name)
        if isinstance(value, dict):
            lines.append(f"| [`amodal.{name}`](../methods/index.md) | The methods by name. |")
            continue
        role = "class" if inspect.isclass(value) else "func"
        target = f"{value.__module__}.{value.__qualname__}"
        first = (inspect.getdoc(value) or "").partition("\n")[0]
        lines.append(f"| {{py:{role}}}`amodal.{name} <{target}>` | {first} |")
    lines += [
        "",
        "Everything else, module by module:",
        "",
        "```{toctree}",
        ":maxdepth: 1",
        ":glob:",
        "",
        "*",
        "```",
        "",
    ]
    return "\n".join(lines)


# The commands ----------------------------------------------------------------------------------------------------


def command_reference() -> str:
    """The help of every command, as the parser prints it."""
    lines = [
        "# Commands",
        "",
        "Every option as its parser describes it. All commands also take `--config FILE`, a YAML file with the same",
        "names, and `--print_config`, which prints such a file: see [configuration](../training.md#configuration).",
        "",
    ]
    for words in _commands():
        lines += [f"## amodal {' '.join(words)}", "", "```text", _help(words).rstrip(), "```", ""]
    return "\n".join(lines)


def _commands() -> Iterator[list[str]]:
    from amodal.cli import _COMMANDS

    def walk(part: dict[str, Any], before: list[str]) -> Iterator[list[str]]:
        for name, value in part.items():
            if isinstance(value, dict):
                yield from walk(value, [*before, name])
            else:
                yield [*before, name]

    return walk(_COMMANDS, [])


def _help(words: list[str]) -> str:
    from amodal.cli import main

    out, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


# The encoders ----------------------------------------------------------------------------------------------------


def encoder_tables() -> str:
    """What each kind of modality gets by default, and every encoder with its options."""
    from amodal.encoders import ENCODERS
    from amodal.kinds import MODALITY_KINDS
    from amodal.methods import METHODS

    lines = ["| kind | by default | some methods prefer |", "|---|---|---|"]
    for kind, traits in MODALITY_KINDS.items():
        prefer: dict[str, list[str]] = {}
        for name, method in METHODS.items():
            if kind in method.preferred_encoders:
                wanted = method.preferred_encoders[kind]
                prefer.setdefault(wanted if isinstance(wanted, str) else str(wanted["name"]), []).append(name)
        said = "; ".join(f"`{encoder}` ({', '.join(names)})" for encoder, names in prefer.items())
        lines.append(f"| {kind} | `{traits.encoder}` | {said or '–'} |")
    lines += ["", "| encoder | of | what it is | options and their defaults |", "|---|---|---|---|"]
    for name, encoder in ENCODERS.items():
        options = [
            f"`{p.name}`" + ("" if p.default is p.empty else f" {p.default}")
            for p in inspect.signature(encoder).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name != "width"
        ]
        first = " ".join((inspect.getdoc(encoder) or "").partition("\n\n")[0].split())
        first = re.sub(r":\w+:`([^`]*)`", r"\1", first)
        lines.append(f"| `{name}` | {', '.join(sorted(encoder.kinds))} | {first} | {', '.join(options) or '–'} |")
    return "\n".join([*lines, ""])


# The tutorials ---------------------------------------------------------------------------------------------------


def execute_page(page: Path, out: Path) -> str:
    """A page with what its blocks print and draw below each.

    Python blocks share their names; what stands in their last line is shown as a console would, a figure as a picture.
    Lines of shell blocks that begin with `amodal` are run. Everything happens in a folder that is gone afterwards.

    Args:
        page: Markdown.
        out: Where pictures are written.
    """
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page.stem}
    pictures: list[int] = []
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="amodal-docs-") as folder:
        os.chdir(folder)
        try:

            def run(block: re.Match[str]) -> str:
                language, code = block[1], block[2]
                if language == "python":
                    said = _run_python(code, names, out / page.stem, pictures)
                else:
                    said = _run_commands(code, out / page.stem, pictures)
                return block[0] + said

            return re.sub(r"^```(python|sh)\n(.*?)^```\n", run, text, flags=re.DOTALL | re.MULTILINE)
        finally:
            os.chdir(before)


def _run_python(code: str, names: dict[str, Any], stem: Path, pictures: list[int]) -> str:
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    out, value = io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(tree, stem.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), stem.name, "eval"), names)  # type: ignore[attr-defined]
    if hasattr(value, "savefig"):
        return _picture(stem, pictures, lambda path: value.savefig(path, bbox_inches="tight"))
    text = out.getvalue() + (repr(value) if value is not None else "")
    return _block(text)


def _run_commands(code: str, stem: Path, pictures: list[int]) -> str:
    from amodal.cli import main

    text, drawn = "", ""
    for line in code.replace("\\\n", " ").splitlines():
        if not line.startswith("amodal "):
            continue
        out, words = io.StringIO(), shlex.split(line, comments=True)[1:]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = main(words)
        if status:
            raise RuntimeError(f"{stem.name}: `{line}` ended with {status}: {out.getvalue()[-500:]}")
        text += out.getvalue()
        for word in words:
            if word.endswith(".svg") and Path(word).is_file():
                drawn += _picture(stem, pictures, lambda path, made=word: path.write_bytes(Path(made).read_bytes()))
    return _block(text) + drawn


def _block(text: str) -> str:
    lines = text.replace(tempfile.gettempdir(), "/tmp").rstrip().splitlines()
    shown = [*lines[:30], "…"] if len(lines) > 31 else lines
    return "\n```text\n" + "\n".join(shown) + "\n```\n" if shown else ""


def _picture(stem: Path, pictures: list[int], save: Any) -> str:
    pictures.append(len(pictures))
    path = stem.with_name(f"{stem.name}-{len(pictures)}.svg")
    save(path)
    return f"\n```{{image}} {path.name}\n:alt: What the code above draws\n:class: drawn\n```\n"
