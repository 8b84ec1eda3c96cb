"""Entries: what a table or figure of a paper needs to run, on real, open or made data, and what its page shows."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from figures import Shown

from amodal import METHODS
from amodal.benchmark import Experiment, Results, run_all
from amodal.benchmark.recipe import tell_run
from amodal.data import Cohort
from amodal.data.sources.mimic import multibench
from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.errors import AmodalError, DataError
from amodal.methods import method_options
from amodal.missingness import BalancedCounts, Mechanism, Natural
from amodal.report.papers import Block, Exhibit, file_drawing, file_table
from amodal.schema import Schema
from amodal.settings import TrainingSettings

__all__ = ["CohortSpec", "Entry", "Rival", "Script", "Setting", "recipe", "run_entry"]

DATABASES = ("mimic3", "mimic4", "avmnist")
"""What the data of an entry can be, as folders of these names."""


@cache
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
    """A cohort: what `amodal data prepare` is asked for; of AV-MNIST the folder that it has written."""

    database: str
    task: str = ""
    modalities: str = ""
    preset: str = "benchmark"
    pairing: str = "partial"
    hours: int | None = None

    def folder(self, source: Path, out: Path) -> Path:
        """Where the cohort is or goes."""
        if self.database == "avmnist":
            return source
        key = hashlib.sha256(json.dumps([str(source.resolve()), *map(str, vars(self).values())]).encode())
        return out / f"{self.database}-{self.task}-{self.pairing}-{key.hexdigest()[:8]}"

    def prepare(self, source: Path, out: Path) -> Cohort:
        """The cohort of these tables, prepared below `out` unless it is there."""
        folder = self.folder(source, out)
        if self.database == "avmnist" or folder.is_dir():
            return Cohort.open(folder)
        if self.preset == "multibench":
            return multibench.prepare(source, folder, task=self.task)
        return prepare_mimic(
            self.database,  # type: ignore[arg-type]
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
        method: Its name in `amodal.METHODS`.
        options: Its options; "dropout" and "preset" are left out where the method has no such option or preset.
        removal: Further removal in training: "auto", None, or "thirds": of methods that do not remove modalities
            themselves, each number of modalities equally often in a batch.
        rows: "all", or "complete": those of the training rows that have everything.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    removal: str | None = "auto"
    rows: str = "all"

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
        impose: Whether every pattern of presence is imposed on the complete test cases.
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
    impose: bool = False
    conditions: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    backbone: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Script:
    """Another recipe that makes an exhibit.

    Args:
        recipe: Its name.
        words: Its command line; "{cohort}" is the folder of `cohort`.
        small: Further words for the smallest size that is real.
        files: What it leaves in its folder, pictures and tables, with what they show.
        cohort: The cohort that it is given; None: it has its own data.
    """

    recipe: str
    words: tuple[str, ...]
    small: tuple[str, ...]
    files: Mapping[str, str]
    cohort: CohortSpec | None = None


@dataclass(frozen=True)
class Entry:
    """A table or figure of a paper.

    Args:
        paper: "cepa", "cm2" or "primo".
        source: "table 1", …
        title: What it shows.
        settings: Its settings.
        scripts: Other recipes that make it, where it has no settings.
        favourite: The paper's own method.
        seeds: Runs of the paper.
        encoders: Choices of encoders by the modalities' names and kinds, with a folder of networks or None.
        grid: The paper's grid: values by the name of a training setting or of an option.
        draw: What it shows in place of published numbers, from results by the settings' titles; see `figures`.
        note: For the page.
    """

    paper: str
    source: str
    title: str
    settings: tuple[Setting, ...] = ()
    scripts: tuple[Script, ...] = ()
    favourite: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    encoders: Callable[..., dict[str, Any]] | None = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    draw: Callable[[Mapping[str, Results]], Shown] | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return f"{self.paper}-{self.source.replace(' ', '').replace('.', '')}"


def run_entry(entry: Entry, sources: Mapping[str, Path | None], given: Any) -> Exhibit:
    """Runs what can be run of an entry, and gives what its page shows.

    Args:
        entry: The entry.
        sources: Folder of each of `DATABASES`; None: not at hand.
        given: The command line: out, seeds, epochs, methods, select, networks, encoders, jobs, where, width, small.
    """
    shown = partial(Exhibit, entry.paper, entry.source, entry.title)
    if entry.scripts:
        return _run_scripts(entry, sources, given, shown)
    found: dict[str, tuple[Results | None, str, str]] = {}
    for setting in entry.settings:
        source, database = sources.get(setting.cohort.database), setting.cohort.database
        results, data, note = None, "", setting.note
        if source is not None:
            data = _kind(source, database)
            if given.encoders == "small":
                note = f"The encoders are the library's own, not the paper's. {note}".strip()
            try:
                results = _run(entry, setting, source, given)
            except AmodalError as error:  # the other settings are run all the same
                note, data = f"{note} It ended with: {error}", ""
                print(f"{entry.name}, {setting.title}: {error}", flush=True)
        found[setting.title] = results, data, note
    if entry.draw is None:
        blocks = [b for setting in entry.settings for b in _blocks(setting, *found[setting.title])]
        return shown(blocks, entry.favourite, note=entry.note)
    done = {title: results for title, (results, _, _) in found.items() if results is not None}
    drawn = entry.draw(done) if done else Shown()
    kinds, notes = ({one[place]: None for one in found.values()} for place in (1, 2))
    data = next((kind for kind in kinds if kind), "")
    note = " ".join(part for part in (entry.note, *notes) if part)
    return shown([], entry.favourite, **drawn._asdict(), note=note, data=data)


def _kind(source: Path, database: str) -> str:
    """What data a folder has: "real", "made" or "other", open data that stand in for the paper's."""
    if database == "avmnist":
        return "other"
    return "made" if (source / "made.json").is_file() else "real"


def _blocks(setting: Setting, results: Results | None, data: str, note: str) -> list[Block]:
    """A block for each published setting."""
    blocks = []
    for published, (condition, only) in (setting.conditions or {setting.published[2]: ("test", ())}).items():
        names = {name: name for name in setting.rivals if not only or name in only}
        title = setting.title if len(setting.conditions) < 2 else f"{setting.title}, {published}"
        blocks.append(
            Block(title, *setting.published[:2], published, setting.metrics, names, results, data, note, condition)
        )
    return blocks


def _run_scripts(
    entry: Entry, sources: Mapping[str, Path | None], given: Any, shown: Callable[..., Exhibit]
) -> Exhibit:
    """Runs other recipes, and shows what they leave."""
    drawings, tables, notes, kinds = [], [], [entry.note], {}
    for number, script in enumerate(entry.scripts):
        where, words = given.out / script.recipe, list(script.words)
        if script.cohort is not None:
            source = sources.get(script.cohort.database)
            if source is None:
                kinds[""] = None
                continue
            kinds[_kind(source, script.cohort.database)] = None
            folder = script.cohort.folder(source, given.out / "cohorts")
            script.cohort.prepare(source, given.out / "cohorts")
            words = [word.replace("{cohort}", str(folder)) for word in words]
            where = given.out / f"{script.recipe}-{folder.name}"
        else:
            kinds["other"] = None
        words += [*(script.small if given.small else ()), "--out", str(where)]
        words += ["--seeds", *map(str, given.seeds)] if given.seeds else []
        words += ["--epochs", str(given.epochs)] if given.epochs is not None else []
        print(f"{entry.name}: python recipes/{script.recipe}.py {' '.join(words)}", flush=True)
        try:
            recipe(script.recipe).main(words)
            for file, said in script.files.items():
                if file.endswith(".csv"):
                    tables.append(file_table(where / file, said))
                else:
                    drawings.append(file_drawing(where / file, f"{entry.name}-{number}-{Path(file).stem}", said))
        except AmodalError as error:
            notes.append(f"{script.recipe} ended with: {error}")
            print(notes[-1], flush=True)
    data = next((kind for kind in kinds if kind), "")
    note = " ".join(part for part in notes if part)
    return shown([], entry.favourite, drawings=drawings, tables=tables, note=note, data=data)


def _run(entry: Entry, setting: Setting, source: Path, given: Any) -> Results:
    cohort = setting.cohort.prepare(source, given.out / "cohorts")
    kinds = {modality.name: modality.kind for modality in cohort.schema.modalities}
    print(f"{entry.name}, {setting.title}: {len(cohort):,} cases", flush=True)
    encoders: dict[str, Any] = {}
    if given.encoders == "paper" and entry.encoders is not None:
        encoders = entry.encoders(kinds, given.networks, **setting.backbone)
    seeds = given.seeds or entry.seeds
    name = setting.cohort.folder(source, given.out).name
    common = {
        "cohort": name,
        "encoders": encoders,
        "width": given.width,
        "train_missingness": setting.train,
        "test_missingness": setting.test,
        "patterns": "all" if setting.conditions or setting.impose else "met",
    }
    settings = dict(setting.settings) | ({} if given.epochs is None else {"epochs": given.epochs})
    chosen = {n: rival for n, rival in setting.rivals.items() if not given.methods or n in given.methods}
    if not chosen:
        raise DataError("no method of this table is asked for", expected=", ".join(setting.rivals))
    first = [
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
        for name, rival in chosen.items()
    ]
    # Runs of one cohort lie together: what several tables have in common is trained once.
    run = partial(run_all, cohort=cohort, jobs=given.jobs, where=given.where, tell=tell_run)
    out = given.out / "runs" / name
    if given.select:
        first = [_select(one, entry.grid, partial(run, out=out / "selection")) for one in first]
    return run([replace(one, seed=seed) for seed in seeds for one in first], out=out)


def _select(start: Experiment, grid: Mapping[str, Sequence[Any]], run: Callable[..., Results]) -> Experiment:
    """The experiment with the values of a grid that have the lowest validation loss, one hyperparameter after another.

    The paper's grid is searched in its order with the first seed; what the method has no option for is left out. The
    test rows decide nothing.
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
