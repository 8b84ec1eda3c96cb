"""The commands `amodal data …`: listing, preparing and describing cohorts.

As in `amodal.cli`, nothing heavy is imported at the top, and there are no imports for type checkers only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from amodal.commands import command

__all__ = ["DATA_COMMANDS", "describe_cohort", "describe_modalities", "prepare_commands"]


def data_list_command() -> None:
    """List the built-in cohorts and the sources that can be prepared."""
    from amodal.data import COHORTS

    for name, function in COHORTS.items():
        print(f"{name:<12} built in   {_first_line(function)}")
    for name, (line, _) in PREPARE.items():
        print(f"{name:<12} prepare    {line}")


def prepare_table_command(
    *,
    manifest: Path,
    schema: Path,
    out: Path | None = None,
    check: bool = False,
    root: Path | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    quiet: bool = False,
) -> None:
    """Your own data: a table of cases (CSV, Parquet, Excel) and the files it names, read as a schema says.

    Args:
        manifest: The table of cases, a row each.
        schema: How it is read; `amodal data schema` writes a first one.
        out: Folder of the cohort.
        check: Only read everything, write nothing, and list all that does not fit, with the lines that would solve it.
        root: Data folder that all files must lie in; null takes the manifest's.
        workers: Threads that read files; null chooses.
        overwrite: Replace a cohort that is there.
        restart: Begin anew instead of taking up an interrupted preparation.
        quiet: No progress bar.
    """
    from amodal.data.table import prepare
    from amodal.errors import ConfigurationError
    from amodal.progress import progress_bar

    if check:
        _check_table(manifest, schema, root, workers, quiet)
        return
    if out is None:
        raise ConfigurationError("the cohort has no folder", expected="--out DIR, or --check to write nothing")
    with progress_bar("preparing", quiet=quiet) as progress:
        prepared = prepare(
            manifest,
            schema,
            out,
            root=root,
            overwrite=overwrite,
            resume=not restart,
            workers=workers,
            progress=progress,
        )
    print(describe_cohort(prepared.cohort))
    for line in prepared.problems.taken:
        print(f"read: {line}")
    if prepared.problems.counts:
        print(f"odd, but no error (every id in {out / 'preparation.csv'}):\n{prepared.problems.describe()}")
    print(f"The cohort is {out}")


def _check_table(manifest: Path, schema: Path, root: Path | None, workers: int | None, quiet: bool) -> None:
    from amodal.data.table.check import check
    from amodal.errors import DataError
    from amodal.progress import progress_bar

    with progress_bar("checking", quiet=quiet) as progress:
        found = check(manifest, schema, root=root, workers=workers, progress=progress)
    if found.odd.counts:
        print(f"odd, but no error:\n{found.odd.describe()}")
    if not found.findings:
        print("everything fits")
        return
    print(found.describe())
    n = len(found.findings)
    raise DataError(f"{n} thing{'s do' if n > 1 else ' does'} not fit", hint="Lines to paste stand under each.")


def _prepared(out: Path, prepare: Callable[..., Any], *given: Any, **more: Any) -> None:
    """Prepares a cohort and says what it holds."""
    cohort = prepare(*given, out, **more)
    print(describe_cohort(cohort))
    print(f"The cohort is {out}")


def _teller(quiet: bool) -> Callable[[str], object] | None:
    return None if quiet else _say


def _say(line: str) -> None:
    print(line, flush=True)


def _cinc2012() -> Callable[..., Any]:
    from amodal.data.sources.cinc2012.cohort import prepare

    def prepare_cinc2012(*, source: Path, out: Path, **more: Any) -> None:
        """PhysioNet 2012 ICU data: vital signs and laboratory panels over 48 hours, with natural absence."""
        _prepared(out, prepare, source, **more)

    return command(prepare_cinc2012, prepare)


def _mimic3() -> Callable[..., Any]:
    from amodal.data.sources.mimic import multibench
    from amodal.data.sources.mimic.cohort import prepare_mimic
    from amodal.errors import ConfigurationError

    def prepare_mimic3(
        *,
        source: Path,
        out: Path,
        preset: Literal["benchmark", "medfuse", "cm2", "cepa", "multibench"] = "benchmark",
        split: Literal["stratified", "multibench"] = "stratified",
        zero_unmeasured: bool = False,
        quiet: bool = False,
        **more: Any,
    ) -> None:
        """MIMIC-III: five tasks of the benchmark from hourly vital signs, statics and notes; or MultiBench's form.

        Args:
            split: Of the preset multibench: by label, or as MultiBench's loader splits rows.
            zero_unmeasured: Of the preset multibench: variables that were never measured are 0, as in its loader.
            quiet: No lines on progress.
        """
        if preset == "multibench":
            kept = {name: more.pop(name) for name in ("task", "seed", "fractions", "overwrite") if name in more}
            defaults = {name: parameter.default for name, parameter in signature(prepare_mimic).parameters.items()}
            idle = [f"--{name}" for name, value in more.items() if value != defaults[name]]
            if idle:
                raise ConfigurationError("the preset multibench has no use for some options", got=", ".join(idle))
            _prepared(out, multibench.prepare, source, split=split, zero_unmeasured=zero_unmeasured, **kept)
            return
        if split != "stratified" or zero_unmeasured:
            raise ConfigurationError("split and zero_unmeasured are of the preset multibench", got=f"preset {preset}")
        _prepared(out, partial(prepare_mimic, "mimic3"), source, preset=preset, say=_teller(quiet), **more)

    beside = ("cxr", "reports", "notes", "ed")
    return command(prepare_mimic3, prepare_mimic, without=("database", "say", *beside))


def _mimic4() -> Callable[..., Any]:
    from amodal.data.sources.mimic.cohort import prepare_mimic

    def prepare_mimic4(*, source: Path, out: Path, quiet: bool = False, **more: Any) -> None:
        """MIMIC-IV: five tasks of the benchmark from hourly vital signs, statics, chest X-rays, reports and notes.

        Args:
            quiet: No lines on progress.
        """
        _prepared(out, partial(prepare_mimic, "mimic4"), source, say=_teller(quiet), **more)

    return command(prepare_mimic4, prepare_mimic, without=("database", "say"))


def _avmnist() -> Callable[..., Any]:
    from amodal.data.sources.avmnist.cohort import prepare, read_multibench
    from amodal.errors import ConfigurationError

    def prepare_avmnist(
        *,
        out: Path,
        mnist: Path | None = None,
        fsdd: Path | None = None,
        esc50: Path | None = None,
        multibench: Path | None = None,
        noise_folds: list[int] | int | None = None,
        workers: int = 2,
        overwrite: bool = False,
        **more: Any,
    ) -> None:
        """AV-MNIST: degraded written digits, each with a spoken digit in noise.

        Args:
            multibench: Folder of MultiBench's own files, instead of the three others.
            noise_folds: Folds of ESC-50 to choose noises from, like 1 or [1,2]; null: all five. Each must be complete.
        """
        if multibench is not None:
            _prepared(out, read_multibench, multibench, overwrite=overwrite)
            return
        upstream = {"--mnist": mnist, "--fsdd": fsdd, "--esc50": esc50}
        lacking = ", ".join(name for name, folder in upstream.items() if folder is None)
        if lacking:
            raise ConfigurationError(f"avmnist also needs {lacking}", hint="Or give --multibench alone.")
        if noise_folds is not None:
            more["noise_folds"] = [noise_folds] if isinstance(noise_folds, int) else noise_folds
        _prepared(out, prepare, mnist, fsdd, esc50, workers=workers, overwrite=overwrite, say=print, **more)

    return command(prepare_avmnist, prepare, without=("say",))


def make_mimic3_command(
    *,
    out: Path,
    patients: int = 1000,
    absence: Literal["mcar", "mar", "mnar"] = "mar",
    other_rows: int = 0,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Made tables in the layout of MIMIC-III, with notes and a known truth: for tests, demonstrations, benchmarks.

    Args:
        out: Folder to write.
        patients: How many patients.
        absence: Notes are absent at random (mcar), by age (mar), or by what they would say (mnar).
        other_rows: Charted rows an hour that no cohort uses, so that tables become as long as the real ones.
        seed: Decides everything.
        quiet: No progress bar.
    """
    _make("mimic3", out, quiet, patients=patients, absence=absence, other_rows=other_rows, seed=seed)


def make_mimic4_command(
    *,
    out: Path,
    patients: int = 1000,
    absence: Literal["mcar", "mar", "mnar"] = "mar",
    images: bool = True,
    other_rows: int = 0,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Made tables in the layout of MIMIC-IV, with chest X-rays, reports, notes and a known truth.

    Args:
        out: Folder to write: hosp, icu, mimic-cxr-jpg, mimic-cxr, mimic-iv-note and mimic-iv-ed in it.
        patients: How many patients.
        absence: X-rays and notes are absent at random (mcar), by age (mar), or by what they would show (mnar).
        images: Whether X-rays are drawn.
        other_rows: Charted rows an hour that no cohort uses, so that tables become as long as the real ones.
        seed: Decides everything.
        quiet: No progress bar.
    """
    _make("mimic4", out, quiet, patients=patients, absence=absence, images=images, other_rows=other_rows, seed=seed)


def _make(database: Literal["mimic3", "mimic4"], out: Path, quiet: bool, **more: Any) -> None:
    from amodal.data.sources.mimic.made.tables import make
    from amodal.progress import progress_bar

    with progress_bar("making", quiet=quiet) as progress:
        make(database, out, progress=progress, **more)
    print(f"The tables are in {out}; truth.csv.gz there has what decided each outcome")


def data_schema_command(
    manifest: Path,
    *,
    out: Path | None = None,
    target: str | None = None,
    events: Path | list[Path] | None = None,
    table: Path | list[Path] | None = None,
) -> None:
    """Write a first schema by looking at the tables of a cohort together, with comments, to be corrected.

    Args:
        manifest: The table of cases: CSV, Parquet or Excel.
        out: File to write; null prints it.
        target: Column to be predicted; without it the columns that could be are listed with counts.
        events: Long tables with a row a measurement, joined by id: one file, or [a.csv,b.csv].
        table: Tables with a row a case, joined by id: one file, or [a.csv,b.csv].
    """
    from amodal.data.table.guess import guess_schema
    from amodal.errors import ConfigurationError
    from amodal.files import replace_file

    if out is not None and out.exists():
        raise ConfigurationError(f"there is a file {out} already", hint="It may hold your corrections: choose another.")
    text = guess_schema(manifest, target=target, events=_several(events), tables=_several(table))
    if out is None:
        print(text, end="")
        return
    replace_file(out, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"The schema is {out}: check every line of it")


def data_example_command(name: str, *, out: Path | None = None) -> None:
    """Write a schema that comes with amodal: covid_cxr, heart or support2.

    Args:
        name: Name of the example.
        out: File to write; null prints it.
    """
    from importlib.resources import files

    from amodal.errors import ConfigurationError, UnknownNameError
    from amodal.files import replace_file

    folder = files("amodal.data.table") / "examples"
    known = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in known:
        raise UnknownNameError("example", name, known)
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise ConfigurationError(f"there is a file {out} already", hint="It may hold your corrections: choose another.")
    replace_file(out, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"The schema is {out}")


def data_json_schema_command(*, out: Path | None = None) -> None:
    """Write the JSON Schema of table schemas, with which editors complete and check them.

    Args:
        out: File to write; null prints it.
    """
    import json

    from amodal.data.table.json_schema import json_schema
    from amodal.files import replace_file

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    replace_file(out, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"The JSON Schema is {out}; a schema's first line may name it: # yaml-language-server: $schema={out.name}")


def _several(paths: Path | list[Path] | None) -> list[Path]:
    return [] if paths is None else [paths] if isinstance(paths, Path) else paths


def data_describe_command(data: str, *, out: Path | None = None) -> None:
    """Say and draw what a cohort holds: counts, presence patterns, rates by class, ranges, and what looks suspicious.

    Args:
        data: A cohort's folder or name.
        out: A page (.html), or a picture of the presence patterns (.svg, .png); null draws nothing.
    """
    from amodal.data import load_cohort
    from amodal.data.inspection import inspect_cohort

    cohort = load_cohort(data)
    found = inspect_cohort(cohort)
    print(describe_cohort(cohort))
    width = max(len(name) for name in ("modality", *cohort.schema.names))
    labels = [label[:18] for label in found.rates]
    print("share of cases that have each modality, by class")
    print(f"  {'modality':<{width}}  " + "  ".join(f"{label:>7}" for label in labels))
    for m, name in enumerate(cohort.schema.names):
        cells = "  ".join(f"{rate[m]:>{max(7, len(label))}.1%}" for label, rate in zip(labels, found.rates.values()))
        print(f"  {name:<{width}}  {cells}")
    for f in found.features:
        print(
            f"  {f.modality}.{f.name}: {f.low:g} … {f.quantiles[1]:g} … {f.high:g} {f.units}, "
            f"measured in {f.measured:.0%} of the cases that have {f.modality}"
        )
    _print_preparation((cohort.source or {}).get("preparation", {}))
    print("suspicious:" if found.suspicions else "nothing looks suspicious")
    for suspicion in found.suspicions:
        print(f"  {suspicion.where}: {suspicion.detail}")
    if out is not None:
        from amodal.report.cohort_page import write_cohort_page

        print(f"The page is {write_cohort_page(cohort, out, found)}")


def _print_preparation(record: dict[str, Any]) -> None:
    """Prints how the tables of a cohort were read, and what was left out."""
    for line in record.get("taken", []):
        print(f"read: {line}")
    for what, count in sorted(record.get("counts", {}).items(), key=lambda pair: -pair[1]):
        print(f"counted: {count:,} {what} ({', '.join(record['first'].get(what, []))})")


def describe_cohort(cohort: Any) -> str:
    """Description of a cohort in lines: sizes, splits, target, presence."""
    import numpy as np

    from amodal.missingness import Natural
    from amodal.presence import draw_presence

    task, labelled = cohort.schema.task, cohort.take(cohort.labelled)
    lines = [f"{cohort.name}: {len(cohort):,} cases, {len(np.unique(cohort.groups)):,} groups", cohort.description]
    splits, sizes = np.unique(cohort.splits, return_counts=True)
    lines.append("splits: " + ", ".join(f"{name or 'none'} {size:,}" for name, size in zip(splits, sizes)))
    if cohort.target is not None and task.is_classification:
        sizes = np.bincount(labelled.target, minlength=task.n_outputs)
        shares = ", ".join(f"{c} {n:,} ({n / max(1, len(labelled)):.1%})" for c, n in zip(task.classes, sizes))
        lines.append(f"{task.name} ({task.kind}): {shares}")
    elif cohort.target is not None and task.traits.one_value:
        low, middle, high = np.quantile(labelled.target, [0.05, 0.5, 0.95]) if len(labelled) else [np.nan] * 3
        lines.append(
            f"{task.name} (regression, {task.units or 'no units'}): 5 % {low:g}, median {middle:g}, 95 % {high:g}"
        )
    elif cohort.target is not None:
        known = ~np.isnan(cohort.target)
        shares = [
            f"{c} {int((cohort.target[:, k] == 1).sum()):,} of {int(known[:, k].sum()):,} known"
            for k, c in enumerate(task.classes)
        ]
        lines.append(f"{task.name} ({task.kind}): {', '.join(shares)}")
    else:
        lines.append(f"{task.name} ({task.kind})")
    if cohort.target is not None and len(labelled) < len(cohort):
        lines.append(f"labels: {len(labelled):,} cases have one, {len(cohort) - len(labelled):,} have none")
    lines += describe_modalities(cohort)
    lines.append(draw_presence(Natural(), cohort, 0).describe())
    return "\n".join(line for line in lines if line)


def describe_modalities(cohort: Any) -> list[str]:
    """Description of each modality, a line each."""
    from amodal.data.table import TableSchema

    record = (cohort.source or {}).get("table")
    taken = {source.name: source.taken_for() for source in TableSchema.from_json(record).sources} if record else {}
    lines = []
    for m in cohort.schema.modalities:
        shape = " × ".join(map(str, m.shape))
        parts = [f"{m.kind} {shape}".strip(), taken.get(m.name, "")]
        lines.append(f"  {m.name}: {'; '.join(part for part in parts if part)}")
    return lines


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


def _table() -> Callable[..., Any]:
    return prepare_table_command


PREPARE: dict[str, tuple[str, Callable[[], Callable[..., Any]]]] = {
    "table": ("a user's own table and the files that it names", _table),
    "avmnist": ("AV-MNIST: written digits, each with a spoken digit in noise", _avmnist),
    "cinc2012": ("PhysioNet 2012 ICU data: vital signs and laboratory panels", _cinc2012),
    "mimic3": ("MIMIC-III: vital signs, statics and notes, five tasks; or MultiBench's form", _mimic3),
    "mimic4": ("MIMIC-IV: vital signs, statics, chest images, reports and notes, five tasks", _mimic4),
}
"""What each source is, and its command, made when it is asked for: the code of a source imports heavy packages."""


def prepare_commands(words: list[str]) -> dict[str, Callable[..., Any]]:
    """The subcommands of `amodal data prepare`; where other words stand, only their names and what they are.

    Args:
        words: The command line after `amodal`.
    """
    if words[:2] == ["data", "prepare"] and words[2:3] and words[2] in PREPARE:
        return {name: PREPARE[name][1]() if name == words[2] else _named(line) for name, (line, _) in PREPARE.items()}
    return {name: _named(line) for name, (line, _) in PREPARE.items()}


def _named(line: str) -> Callable[..., Any]:
    def prepare() -> None: ...

    prepare.__doc__ = f"{line[0].upper()}{line[1:]}."
    return prepare


DATA_COMMANDS: dict[str, Any] = {
    "list": data_list_command,
    "schema": data_schema_command,
    "example": data_example_command,
    "json_schema": data_json_schema_command,
    "prepare": prepare_commands([]),
    "make": {"mimic3": make_mimic3_command, "mimic4": make_mimic4_command},
    "describe": data_describe_command,
}
"""The subcommands of `amodal data`."""
