"""CEPA against the core's methods and its own ablations, on digits or a prepared cohort (tables 2 and 3, figure 3).

Command:  python recipes/cepa.py --out runs/cepa
Time:     digits, 30 epochs: about 55 s of an idle core a fit for cepa, 40 s with one pattern, 15 s for modality_dropout
          and fusion; twice that and more on a core that is shared; the whole command is 95 fits
Expected: not measured again since CEPA hides inputs and its alignment conditions (docs/log.md, 2026-11-30). Before that
          change, accuracy under MCAR 0.5, five seeds: cepa 0.895, modality_dropout 0.878 (0.018 less, 0.002 to 0.033),
          fusion 0.875, late_fusion 0.870, boosting 0.862, cepa with one pattern 0.872; NLL 0.298, 0.345, 0.343, 0.506,
          0.422; on PhysioNet 2012 AUROC 0.869 (natural absence) and 0.812 (MCAR 0.5), level with modality_dropout; see
          docs/log.md, 2026-11-21, also for the ablations.

Every method of a seed gets the same rows, the same training settings and the same removal from the test rows (MCAR
0.5, at least one modality kept). Training data are complete (but for natural absence) unless `--train-rate` says what
they lack, and what a method removes further while it trains is `amodal.fit`'s own choice. The degradation curve
predicts the test rows again under MCAR at each of the rates, which are *marginal* fractions of removed modalities after
the repair that keeps one: at 4 modalities no rate above 0.75 can be reached, so that the recipe leaves those out. With
`--before-repair 0.8 0.9` the finished models are asked once more, under *Bernoulli rates before the repair*, a reading
under which the curve of few modalities goes to 0.9, as figure 3 does; the table names the marginal rate that came out.

Nothing is chosen on test data. Intervals are for test cases and seeds together. Runs that are in the folder are not run
again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

import amodal
from amodal.benchmark import Experiment, Results, difference_table, method_table, run_all, save_tables
from amodal.benchmark.recipe import recipe_parser, tell_run
from amodal.benchmark.stored import Condition
from amodal.checkpoint import TrainedModel
from amodal.data import load_cohort
from amodal.data.cohort import Cohort
from amodal.missingness import MCAR, Mechanism, Natural
from amodal.presence import draw_presence

CORE: dict[str, tuple[str, dict[str, Any]]] = {
    "modality_dropout": ("modality_dropout", {}),
    "fusion": ("fusion", {}),
    "late_fusion": ("late_fusion", {}),
    "per_pattern": ("per_pattern", {}),
    "boosting": ("boosting", {}),
}
CEPA: dict[str, tuple[str, dict[str, Any]]] = {
    "cepa": ("cepa", {}),
    "cepa, one pattern": ("cepa", {"preset": "one_pattern"}),
    "cepa, paper": ("cepa", {"preset": "paper"}),
}
# Table 2, with one pattern a step as in the paper; the full objective is "cepa, one pattern".
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "cepa, obs": ("cepa", {"preset": "one_pattern", "cross_weight": 0.0, "cf_weight": 0.0}),
    "cepa, obs + cross": ("cepa", {"preset": "one_pattern", "cf_weight": 0.0}),
    "cepa, obs + CF": ("cepa", {"preset": "one_pattern", "cross_weight": 0.0}),
    "cepa, EP": ("cepa", {"preset": "one_pattern", "alignment": "marginal"}),
    "cepa, task only": (
        "cepa",
        {"preset": "one_pattern", "observed_weight": 0.0, "cross_weight": 0.0, "cf_weight": 0.0},
    ),
}
# Table 3, likewise; "cepa, one pattern" has cross-modal masks whose scores are adversarial.
MASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "cepa, no masks": ("cepa", {"preset": "one_pattern", "masking": "none"}),
    "cepa, random masks": ("cepa", {"preset": "one_pattern", "masking": "random"}),
    "cepa, block masks": ("cepa", {"preset": "one_pattern", "masking": "block"}),
    "cepa, cooperative masks": ("cepa", {"preset": "one_pattern", "mask_objective": "cooperative"}),
    "cepa, frozen masks": ("cepa", {"preset": "one_pattern", "mask_objective": "frozen"}),
}
# As many patterns of each row as the four a step of "cepa": four times the epochs, and no early stop.
LONGER: dict[str, tuple[str, dict[str, Any]]] = {
    "modality_dropout, longer": ("modality_dropout", {}),
    "cepa, one pattern, longer": ("cepa", {"preset": "one_pattern"}),
}
GROUPS = {"core": CORE, "cepa": CEPA, "losses": LOSSES, "masks": MASKS, "longer": LONGER}
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def experiments(
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    cohort: str,
    rates: Sequence[float],
    train_missingness: Mechanism | None = None,
    test_missingness: Mechanism,
    encoders: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> list[Experiment]:
    """One experiment for each seed and method, seed by seed, so that an interrupted comparison is balanced."""
    every = {name: choice for group in GROUPS.values() for name, choice in group.items()}
    longer = {"epochs": 4 * settings.get("epochs", 60), "patience": None}
    return [
        Experiment(
            every[name][0],
            cohort=cohort,
            name=name,
            options=every[name][1],
            encoders=encoders,
            train_missingness=train_missingness or Natural(),
            test_missingness=test_missingness,
            rates=tuple(rates),
            patterns="met",
            seed=seed,
            settings={**settings, **longer} if name in LONGER else settings,
        )
        for seed in seeds
        for name in names
    ]


def degradation(results: Results, metric: str) -> pd.DataFrame:
    """A metric of every method at every rate, the mean over seeds, one row a method."""
    rates = results.conditions("rate")
    rows = {
        name: {rate: results.summary(name, metric, (rate,)).interval.estimate for rate in rates}
        for name in results.names
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def before_repair(results: Results, test: Cohort, rates: Sequence[float]) -> Results:
    """The runs with further conditions: the test rows under MCAR whose coins have these rates, one modality kept.

    Every run of a seed gets the same removal. The conditions' kind is "rate before repair".
    """
    runs = []
    for run in results.runs:
        model = amodal.load(run.folder)
        assert isinstance(model, TrainedModel)
        found = []
        for rate in rates:
            presence = draw_presence(MCAR(rate, before_repair=True), test, (run.seed, 2))
            predicted = model.predict(test.with_observed(presence.observed), on_empty="silent")
            name = f"Bernoulli rate {rate:g}"
            found.append(Condition(name, "rate before repair", presence.observed, predicted, rate))
        runs.append(dataclasses.replace(run, conditions=(*run.conditions, *found)))
    return Results(runs)


def before_repair_table(results: Results, metric: str, reference: str | None) -> pd.DataFrame:
    """One row a method and rate: the metric, and its paired difference to a reference with a 95 % interval."""
    rows = []
    for condition in results.conditions("rate before repair"):
        removed = [1 - run.condition(condition).observed.mean() for run in results.runs]
        for name in results.names:
            row = {"rate before the repair": condition.rpartition(" ")[2], "marginal": sum(removed) / len(removed)}
            row |= {"name": name, metric: results.summary(name, metric, (condition,)).interval.estimate}
            if reference is not None and name != reference:
                gap = results.difference(name, reference, metric, (condition,)).difference
                row |= {f"less {reference}": gap.estimate, "low": gap.low, "high": gap.high}
            rows.append(row)
    return pd.DataFrame(rows)


def main(words: list[str] | None = None) -> Results:
    parser = recipe_parser(
        __doc__, "runs/cepa", methods=[name for group in GROUPS.values() for name in group], epochs=30
    )
    parser.add_argument("--cohort", default="digits", help="a built-in cohort or a cohort's folder")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--rates", type=float, nargs="*", default=None, help="rates of the degradation curve")
    parser.add_argument("--train-rate", type=float, default=0.0, help="what training data lack, MCAR, drawn once")
    parser.add_argument("--before-repair", type=float, nargs="*", default=[], metavar="RATE", help="see above")
    parser.add_argument("--natural", action="store_true", help="remove nothing from the test rows")
    parser.add_argument("--encoders", type=json.loads, default={}, help="encoders by modality, as JSON")
    parser.add_argument("--settings", type=json.loads, default={}, help="further training settings, as JSON")
    given = parser.parse_args(words)
    cohort = load_cohort(given.cohort)
    most = 1 - 1 / len(cohort.schema.names)
    rates = [rate for rate in (RATES if given.rates is None else given.rates) if rate <= most]
    names = [name for group in given.groups for name in GROUPS[group]]
    names = [name for name in names if name in given.methods]
    listed = experiments(
        names,
        given.seeds,
        cohort=given.cohort,
        rates=rates,
        train_missingness=MCAR(given.train_rate) if given.train_rate else None,
        test_missingness=Natural() if given.natural else MCAR(0.5),
        encoders=given.encoders,
        settings={"epochs": given.epochs, **given.settings},
    )

    results = run_all(listed, given.out, cohort=cohort, jobs=given.jobs, tell=tell_run)
    shown = [results.headline.name]
    references = [name for name in ("modality_dropout", "cepa") if name in results.names]
    save_tables(results, given.out, references)
    print(method_table(results, shown).drop(columns="setting").to_string(index=False, float_format="%.4f"))
    found = difference_table(results, references)
    if len(found):  # none where no reference was run
        print(found.drop(columns="setting").to_string(index=False, float_format="%.4f"))
    curve = degradation(results, shown[0])
    curve.to_csv(given.out / "degradation.csv")
    print(curve.to_string(float_format="%.4f"))
    if given.before_repair:
        asked = before_repair(results, cohort.split("test"), given.before_repair)
        table = before_repair_table(asked, shown[0], references[0] if references else None)
        table.to_csv(given.out / "before_repair.csv", index=False)
        print(table.to_string(index=False, float_format="%.4f"))
    print(f"The results are in {given.out}; for figures: amodal report {given.out}/*seed*")
    return results


if __name__ == "__main__":
    main()
