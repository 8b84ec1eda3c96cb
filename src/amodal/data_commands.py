"""The commands `amodal data …`: listing, preparing and describing cohorts.

As in `amodal.cli`, nothing heavy is imported at the top, and there are no imports for type checkers only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

__all__ = ["DATA_COMMANDS", "describe_cohort", "describe_modalities"]


def data_list_command() -> None:
    """List the built-in cohorts and the sources that can be prepared."""
    from amodal.data import COHORTS

    for name, function in COHORTS.items():
        print(f"{name:<12} built in   {_first_line(function)}")
    for name, function in PREPARE.items():
        print(f"{name:<12} prepare    {_first_line(function)}")


def prepare_table_command(
    *,
    manifest: Path,
    schema: Path,
    out: Path,
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
        root: Data folder that all files must lie in; null takes the manifest's.
        workers: Threads that read files; null chooses.
        overwrite: Replace a cohort that is there.
        restart: Begin anew instead of taking up an interrupted preparation.
        quiet: No progress bar.
    """
    from amodal.data.table import prepare
    from amodal.progress import progress_bar

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


def prepare_cinc2012_command(
    *,
    source: Path,
    out: Path,
    task: Literal["death", "length_of_stay"] = "death",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """PhysioNet 2012 ICU data: vital signs and laboratory panels over 48 hours, with natural absence.

    Args:
        source: Folder or archive in the layout of PhysioNet (sets a, b, c alike), outcomes files included or beside it.
        out: Folder of the cohort.
        task: What is predicted.
        seed: Seed of the split.
        overwrite: Replace a cohort that is there.
    """
    from amodal.data.sources.cinc2012.cohort import prepare

    cohort = prepare(source, out, task=task, seed=seed, overwrite=overwrite)
    print(describe_cohort(cohort))
    print(f"The cohort is {out}")


def prepare_avmnist_command(
    *,
    out: Path,
    mnist: Path | None = None,
    fsdd: Path | None = None,
    esc50: Path | None = None,
    multibench: Path | None = None,
    energy: float = 0.25,
    components: int | None = None,
    noise_power: float = 1.5,
    noise_folds: list[int] | int | None = None,
    valid_sounds: Literal["own", "shared"] = "own",
    limit: int | None = None,
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
) -> None:
    """AV-MNIST: degraded written digits, each with a spoken digit in noise.

    Args:
        out: Folder of the cohort.
        mnist: Folder of MNIST's four files.
        fsdd: FSDD's folder, or an archive of it.
        esc50: ESC-50's folder, or a folder with archives of it.
        multibench: Folder of MultiBench's own files, instead of the three above.
        energy: Share of the images' variance after which no further principal component is kept.
        components: Number of principal components kept instead.
        noise_power: Factor on the noise; 0: clean speech.
        noise_folds: Folds of ESC-50 to choose noises from, like 1 or [1,2]; null: all five. Each must be complete.
        valid_sounds: Whether validation has recordings of its own, or shares those of training.
        limit: Rows of each split, at most.
        seed: Seed of the choice of noises.
        workers: Threads.
        overwrite: Replace a cohort that is there.
    """
    from amodal.data.sources.avmnist.cohort import prepare, read_multibench
    from amodal.data.sources.avmnist.recordings import FOLDS
    from amodal.errors import ConfigurationError

    folds = FOLDS if noise_folds is None else [noise_folds] if isinstance(noise_folds, int) else noise_folds
    if multibench is not None:
        cohort = read_multibench(multibench, out, overwrite=overwrite)
    elif mnist is None or fsdd is None or esc50 is None:
        upstream = {"--mnist": mnist, "--fsdd": fsdd, "--esc50": esc50}
        lacking = ", ".join(name for name, folder in upstream.items() if folder is None)
        raise ConfigurationError(f"avmnist also needs {lacking}", hint="Or give --multibench alone.")
    else:
        cohort = prepare(
            mnist,
            fsdd,
            esc50,
            out,
            energy=energy,
            components=components,
            noise_power=noise_power,
            noise_folds=folds,
            valid_sounds=valid_sounds,
            limit=limit,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            say=print,
        )
    print(describe_cohort(cohort))
    print(f"The cohort is {out}")


def prepare_mimic3_command(
    *,
    source: Path,
    out: Path,
    task: str = "mortality",
    split: Literal["stratified", "multibench"] = "stratified",
    zero_unmeasured: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """MIMIC-III in MultiBench's form: five static features and 24 hours of twelve variables.

    Args:
        source: Folder of MIMIC-III's tables, or MultiBench's im.pk, of which only arrays are read.
        out: Folder of the cohort.
        task: mortality, or icd9_0 to icd9_20 (1: neoplasms, 7: respiratory).
        split: By label, or as MultiBench's loader splits.
        zero_unmeasured: Variables that were never measured are 0, as in MultiBench's loader.
        seed: Seed of the split by label.
        overwrite: Replace a cohort that is there.
    """
    from amodal.data.sources.mimic.multibench import prepare

    cohort = prepare(
        source, out, task=task, split=split, zero_unmeasured=zero_unmeasured, seed=seed, overwrite=overwrite
    )
    print(describe_cohort(cohort))
    print(f"The cohort is {out}")


def data_schema_command(manifest: Path, *, out: Path | None = None, target: str | None = None) -> None:
    """Write a first schema for a table by looking at it, with comments, to be corrected.

    Args:
        manifest: The table of cases: CSV, Parquet or Excel.
        out: File to write; null prints it.
        target: Column to be predicted; null guesses by its name.
    """
    from amodal.data.table.guess import guess_schema
    from amodal.errors import ConfigurationError
    from amodal.files import replace_file

    text = guess_schema(manifest, target=target)
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise ConfigurationError(f"there is a file {out} already", hint="It may hold your corrections: choose another.")
    replace_file(out, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"The schema is {out}: check every line of it")


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
    print("suspicious:" if found.suspicions else "nothing looks suspicious")
    for suspicion in found.suspicions:
        print(f"  {suspicion.where}: {suspicion.detail}")
    if out is not None:
        from amodal.report.cohort_page import write_cohort_page

        print(f"The page is {write_cohort_page(cohort, out, found)}")


def describe_cohort(cohort: Any) -> str:
    """What a cohort holds, in lines: sizes, splits, target, presence."""
    import numpy as np

    from amodal.missingness import Natural
    from amodal.removal import draw_presence

    task = cohort.schema.task
    lines = [f"{cohort.name}: {len(cohort):,} cases, {len(np.unique(cohort.groups)):,} groups", cohort.description]
    splits, sizes = np.unique(cohort.splits, return_counts=True)
    lines.append("splits: " + ", ".join(f"{name or 'none'} {size:,}" for name, size in zip(splits, sizes)))
    if cohort.target is not None and task.is_classification:
        sizes = np.bincount(cohort.target, minlength=task.n_outputs)
        shares = ", ".join(f"{c} {n:,} ({n / len(cohort):.1%})" for c, n in zip(task.classes, sizes))
        lines.append(f"{task.name} ({task.kind}): {shares}")
    elif cohort.target is not None and task.kind == "regression":
        low, middle, high = np.quantile(cohort.target, [0.05, 0.5, 0.95])
        lines.append(
            f"{task.name} (regression, {task.units or 'no units'}): 5 % {low:g}, median {middle:g}, 95 % {high:g}"
        )
    else:
        lines.append(f"{task.name} ({task.kind})")
    lines += describe_modalities(cohort)
    lines.append(draw_presence(Natural(), cohort, 0).describe())
    return "\n".join(line for line in lines if line)


def describe_modalities(cohort: Any) -> list[str]:
    """What each modality was taken for, a line each."""
    from amodal.data.table import TableSchema

    record = cohort.source.get("table")
    taken = {source.name: source.taken_for() for source in TableSchema.from_json(record).sources} if record else {}
    lines = []
    for m in cohort.schema.modalities:
        shape = " × ".join(map(str, m.shape))
        parts = [f"{m.kind} {shape}".strip(), taken.get(m.name, "")]
        lines.append(f"  {m.name}: {'; '.join(part for part in parts if part)}")
    return lines


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


PREPARE: dict[str, Any] = {
    "table": prepare_table_command,
    "avmnist": prepare_avmnist_command,
    "cinc2012": prepare_cinc2012_command,
    "mimic3": prepare_mimic3_command,
}
"""How each source is prepared, by name."""

DATA_COMMANDS: dict[str, Any] = {
    "list": data_list_command,
    "schema": data_schema_command,
    "prepare": PREPARE,
    "describe": data_describe_command,
}
"""The subcommands of `amodal data`."""
