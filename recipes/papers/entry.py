"""Entries: what a table of a paper needs to run, on real or on made data, and the blocks of its page."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from amodal import METHODS
from amodal.benchmark import Experiment, Results, run_all
from amodal.benchmark.recipe import tell_run
from amodal.data import Cohort
from amodal.data.sources.mimic import multibench
from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.stays import Database
from amodal.errors import AmodalError
from amodal.methods import method_options
from amodal.missingness import BalancedCounts, Mechanism, Natural
from amodal.report.papers import Block, Exhibit
from amodal.schema import Schema
from amodal.settings import TrainingSettings

__all__ = ["CohortSpec", "Entry", "Rival", "Setting", "recipe", "run_entry"]


def recipe(name: str) -> Any:
    """Another recipe, as a module."""
    file = Path(__file__).resolve().parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_recipe", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class CohortSpec:
    """A cohort: what `amodal data prepare` is asked for."""

    database: Database
    task: str
    modalities: str = ""
    preset: str = "benchmark"
    pairing: str = "partial"
    hours: int | None = None

    def prepare(self, source: Path, out: Path) -> Cohort:
        """The cohort of these tables, prepared below `out` unless it is there."""
        key = hashlib.sha256(json.dumps([str(source.resolve()), *map(str, vars(self).values())]).encode())
        folder = out / f"{self.database}-{self.task}-{self.pairing}-{key.hexdigest()[:8]}"
        if folder.is_dir():
            return Cohort.open(folder)
        if self.preset == "multibench":
            return multibench.prepare(source, folder, task=self.task)
        return prepare_mimic(
            self.database,
            source,
            folder,
            task=self.task,
            modalities=self.modalities,
            preset=self.preset,  # type: ignore[arg-type]
            pairing=self.pairing,  # type: ignore[arg-type]
            hours=self.hours,
        )


@dataclass(frozen=True)
class Rival:
    """A method of a table, under the name that the published results have.

    Args:
        method: Its name in `amodal.METHODS`; one that is not there is named on the page and not run.
        options: Its options; "dropout" and "preset" are left out where the method has no such option or preset.
        removal: Further removal in training: "auto", None, or "thirds": of methods that do not remove modalities
            themselves, each number of modalities equally often in a batch.
        rows: "all", or "complete": those of the training rows that have everything.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    removal: str | None = "auto"
    rows: str = "all"

    @property
    def is_here(self) -> bool:
        """Whether the method is in this version."""
        return self.method in METHODS

    def own_options(self) -> dict[str, Any]:
        """The options, without a dropout or a preset that the method does not have."""
        method, options = METHODS[self.method], dict(self.options)
        if "dropout" not in inspect.signature(method).parameters:
            options.pop("dropout", None)
        if options.get("preset") not in getattr(method, "PRESETS", {}):
            options.pop("preset", None)
        return options

    def own_removal(self, schema: Schema) -> Mechanism | str | None:
        """Further removal in training, as an experiment takes it."""
        if self.removal != "thirds":
            return self.removal
        method = METHODS[self.method](schema, **method_options(self.method, self.own_options()))
        return "auto" if method.meets_all_patterns else BalancedCounts(equal=True)


@dataclass(frozen=True)
class Setting:
    """One setting of a table.

    Args:
        title: Its name on the page.
        cohort: The cohort.
        published: Names of cohort, task and setting in the published results.
        rivals: Methods by their published names.
        metrics: Metrics, as this library names them.
        settings: Training settings of the paper.
        train: What training and validation data lack beyond natural absence.
        test: What test data lack.
        conditions: For each published setting the condition of the test cases; empty: the one of `published`.
        backbone: What the entry's encoders are told of this setting.
        note: For the page.
    """

    title: str
    cohort: CohortSpec
    published: tuple[str, str, str]
    rivals: Mapping[str, Rival]
    metrics: tuple[str, ...]
    settings: Mapping[str, Any]
    train: Mechanism = field(default_factory=Natural)
    test: Mechanism = field(default_factory=Natural)
    conditions: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    backbone: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """A table or figure of a paper.

    Args:
        paper: "cepa", "cm2" or "primo".
        source: "table 1", …
        title: What it shows.
        settings: Its settings; none where another recipe makes it.
        favourite: The paper's own method.
        seeds: Runs of the paper.
        hours: About how long it takes on one GPU of 24 GB by the paper's own account; None: not stated.
        command: The recipe that makes it, where there are no settings, or what stands in for its data.
        encoders: Choices of encoders by the modalities' names and kinds, with a folder of networks or None.
        grid: The paper's grid: values by the name of a training setting or of an option.
    """

    paper: str
    source: str
    title: str
    settings: tuple[Setting, ...] = ()
    favourite: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    hours: float | None = None
    command: str = ""
    encoders: Callable[..., dict[str, Any]] | None = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return f"{self.paper}-{self.source.replace(' ', '').replace('.', '')}"


def run_entry(entry: Entry, sources: Mapping[str, Path | None], given: Any) -> Exhibit:
    """Runs what can be run of an entry, and gives what its page shows.

    Args:
        entry: The entry.
        sources: Folder of each database; None: not at hand.
        given: The command line: out, seeds, epochs, methods, select, networks, encoders, jobs, where, width.
    """
    blocks: list[Block] = []
    for setting in entry.settings:
        source = sources.get(setting.cohort.database)
        results, data, note = None, "", setting.note
        if source is not None:
            data = "made" if (source / "made.json").is_file() else "real"
            try:
                results = _run(entry, setting, source, given)
            except AmodalError as error:  # the other settings are run all the same
                note, data = f"{note} It ended with: {error}", ""
                print(f"{entry.name}, {setting.title}: {error}", flush=True)
        for published, (condition, only) in (setting.conditions or {setting.published[2]: ("test", ())}).items():
            names = {
                name: (name if rival.is_here else None)
                for name, rival in setting.rivals.items()
                if not only or name in only
            }
            title = setting.title if len(setting.conditions) < 2 else f"{setting.title}, {published}"
            blocks.append(
                Block(
                    title, *setting.published[:2], published, setting.metrics, names, results, data, note, condition
                )
            )  # fmt: skip
    return Exhibit(entry.paper, entry.source, entry.title, blocks, entry.favourite)


def _run(entry: Entry, setting: Setting, source: Path, given: Any) -> Results:
    cohort = setting.cohort.prepare(source, given.out / "cohorts")
    kinds = {modality.name: modality.kind for modality in cohort.schema.modalities}
    print(f"{entry.name}, {setting.title}: {len(cohort):,} cases", flush=True)
    encoders: dict[str, Any] = {}
    if given.encoders == "paper" and entry.encoders is not None:
        encoders = entry.encoders(kinds, given.networks, **setting.backbone)
    seeds = given.seeds or entry.seeds
    common = {
        "cohort": f"{entry.name}, {setting.title}",
        "encoders": encoders,
        "width": given.width,
        "train_missingness": setting.train,
        "test_missingness": setting.test,
        "patterns": "all" if setting.conditions else "met",
    }
    first = []
    for name, rival in setting.rivals.items():
        if rival.is_here and (not given.methods or name in given.methods):
            settings = dict(setting.settings) | ({} if given.epochs is None else {"epochs": given.epochs})
            first.append(
                Experiment(
                    rival.method,
                    name=name,
                    options=rival.own_options(),
                    removal=rival.own_removal(cohort.schema),
                    rows=rival.rows,  # type: ignore[arg-type]
                    seed=seeds[0],
                    settings=settings,
                    **common,
                )
            )
    out = given.out / entry.name / setting.title.replace(" ", "-").replace(",", "")
    run = partial(run_all, cohort=cohort, jobs=given.jobs, where=given.where, tell=tell_run)
    if given.select:
        first = [_select(one, entry.grid, partial(run, out=out / "selection")) for one in first]
    return run([replace(one, seed=seed) for seed in seeds for one in first], out=out)


def _select(start: Experiment, grid: Mapping[str, Sequence[Any]], run: Callable[..., Results]) -> Experiment:
    """The experiment with the values of a grid that have the lowest validation loss, one hyperparameter after another.

    The paper's grids are searched in the order of their names with the first seed; what the method has no option for is
    left out. The test rows decide nothing.
    """
    best, taken = start, inspect.signature(METHODS[start.method]).parameters
    for name, values in grid.items():
        where = "settings" if name in asdict(TrainingSettings()) else "options"
        if where == "options" and name not in taken:
            continue
        tried = [
            replace(best, name=f"{start.name}, {name} {value}", **{where: {**getattr(best, where), name: value}})
            for value in values
        ]
        losses = {run.name: run.record["result"]["best_valid_loss"] for run in run(tried).runs}
        known = [one for one in tried if losses.get(one.name) is not None]
        if known:
            best = min(known, key=lambda one: losses[one.name])
    print(f"{start.name}: chosen {dict(best.settings)} {dict(best.options)}", flush=True)
    return replace(best, name=start.name)
