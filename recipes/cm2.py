"""CM2 on digits: what aligning by a copula, drawing completions given what is there, K and the family are worth.

Command:  python recipes/cm2.py --out runs/cm2
Time:     with --epochs 15, 20 to 50 s a fit on a busy core, the paper's preset 100 s
Expected: with --epochs 15; five seeds, differences to "cm2" with 95 % intervals

          variant              accuracy   difference                 NLL     difference
          cm2                  0.855                                 0.449
          cm2, marginal        0.838   -0.017 (-0.030 to -0.006)     0.489   +0.040 (+0.025 to +0.055)  worse
          cm2, no completion   0.854   -0.001 (-0.017 to +0.013)     0.421   -0.028 (-0.053 to -0.004)
          cm2, cosine          0.853   -0.002 (-0.008 to +0.002)     0.450   +0.001 (-0.002 to +0.002)
          cm2, kl              0.853   -0.002 (-0.012 to +0.005)     0.450   +0.001 (-0.003 to +0.007)
          cm2, no alignment    0.853   -0.002 (-0.007 to +0.002)     0.450   +0.001 (-0.002 to +0.003)
          cm2, neither         0.845   -0.010 (-0.025 to +0.005)     0.434   -0.015 (-0.046 to +0.021)
          modality_dropout     0.838   -0.017 (-0.034 to -0.000)     0.468   +0.019 (-0.023 to +0.061)
          fusion               0.843   -0.012 (-0.030 to +0.007)     0.463   +0.014 (-0.026 to +0.055)
          late_fusion          0.838   -0.017 (-0.037 to +0.002)     0.608   +0.159 (+0.117 to +0.207)  worse
          boosting             0.827   -0.028 (-0.054 to -0.005)     0.649   +0.200 (+0.122 to +0.288)  worse

Only what is marked is beyond noise after adjusting for ten comparisons.

Every quadrant of every scan is missing with probability one half (MCAR, drawn once for each seed; training, validation
and test rows alike), so that all variants meet the same data. The reference of each group of variants is CM2 with its
defaults; differences are paired by case and seed. Nothing is chosen on test rows: `--choose` trains the default's
alternatives and prints their validation losses only. Results are written as they come; run the command again to go on
where it stopped.

Groups: "main" (above), "parts" (the copula, gradients through completions, fusion, variants, the paper's preset),
"families", "components" (K = 1 to 6, and a page with the paper's figure 5), "weights" (of the alignment), "laws" (one
component for all modalities); "ablations" are parts, families and components. Another cohort, with its natural absence
and MCAR(0.5) on top of it:

          python recipes/cm2.py --cohort FOLDER --natural --group short --encoders JSON --out runs/cm2-cinc2012

On PhysioNet 2012 (docs/log.md, five seeds, 12 epochs, about 100 s a fit on a busy core) no difference is beyond noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amodal.benchmark import Experiment, Results, difference_table, grid, method_table, run_all
from amodal.benchmark.recipe import recipe_parser, tell_run
from amodal.files import replace_file

REFERENCE = "cm2"
METRICS = {"binary": ("auroc", "auprc", "nll"), "multiclass": ("accuracy", "nll")}
MAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "cm2": ("cm2", {}),
    "cm2, marginal": ("cm2", {"completion": "marginal"}),
    "cm2, no completion": ("cm2", {"completion": "none"}),
    "cm2, cosine": ("cm2", {"alignment": "cosine"}),
    "cm2, kl": ("cm2", {"alignment": "kl"}),
    "cm2, no alignment": ("cm2", {"alignment": "none"}),
    "cm2, neither": ("cm2", {"alignment": "none", "completion": "none"}),
    "modality_dropout": ("modality_dropout", {}),
    "fusion": ("fusion", {}),
    "late_fusion": ("late_fusion", {}),
    "boosting": ("boosting", {}),
}
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cm2": ("cm2", {}),
    "cm2, no copula": ("cm2", {"family": "independence"}),
    "cm2, detached": ("cm2", {"sample_gradient": "detached"}),
    "cm2, no fusion": ("cm2", {"fusion": "concatenate", "hidden": 0}),  # as in the release: concatenation, linear head
    "cm2, lstm": ("cm2", {"fusion": {"name": "lstm", "layers": 2}, "hidden": 0}),
    "cm2, kendall": ("cm2", {"variant": "kendall"}),
    "cm2, projection": ("cm2", {"variant": "projection"}),
    "cm2, printed": ("cm2", {"variant": "printed", "completion": "marginal"}),
    "cm2, paper": ("cm2", {"preset": "paper"}),
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "cm2": ("cm2", {}),
    **{f"cm2, {f}": ("cm2", {"family": f}) for f in ("student_t", "gumbel", "clayton", "frank", "joe")},
}
SWEEP = {1: "cm2, K=1", 2: "cm2, K=2", 3: "cm2", 4: "cm2, K=4", 5: "cm2, K=5", 6: "cm2, K=6"}
COMPONENTS: dict[str, tuple[str, dict[str, Any]]] = {
    name: ("cm2", {} if name == REFERENCE else {"components": k}) for k, name in SWEEP.items()
}
WEIGHTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cm2": ("cm2", {}),
    **{f"cm2, w={w:g}": ("cm2", {"w_alignment": w}) for w in (0.1, 1.0, 10.0)},
    **{f"cm2, {a}, w={w:g}": ("cm2", {"alignment": a, "w_alignment": w}) for a in ("cosine", "kl") for w in (0.1, 1.0)},
}
LAWS: dict[str, tuple[str, dict[str, Any]]] = {
    "cm2": ("cm2", {}),
    **{f"cm2, common, K={k}": ("cm2", {"variant": "common", "components": k}) for k in (10, 20)},
}
ABLATIONS = PARTS | FAMILIES | COMPONENTS
SHORT = {name: MAIN[name] for name in MAIN if name not in ("cm2, neither", "late_fusion", "boosting")}
GROUPS = {
    "main": MAIN,
    "short": SHORT,
    "parts": PARTS,
    "families": FAMILIES,
    "components": COMPONENTS,
    "weights": WEIGHTS,
    "laws": LAWS,
    "ablations": ABLATIONS,
}


def experiments(
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    cohort: str = "digits",
    natural: bool = False,
    **common: Any,
) -> list[Experiment]:
    """One experiment a variant and seed, all under the same presence, seed by seed.

    Args:
        names: Variants.
        seeds: Seeds.
        cohort: Name or folder of the cohort.
        natural: Take training and test rows as they are, and predict the test rows under MCAR(0.5) on top; else
            MCAR(0.5) is drawn once for training, validation and test rows alike.
        **common: Further fields of `Experiment`.
    """
    known = {name: choice for group in GROUPS.values() for name, choice in group.items()}
    methods = [{"name": name, "method": known[name][0], "options": known[name][1]} for name in names]
    shared = {"patterns": "met", "cohort": cohort, **common}
    if natural:
        return [Experiment(**shared, **fields, rates=(0.5,), seed=seed) for seed in seeds for fields in methods]
    return grid(methods, rates=(0.5,), seeds=seeds, **shared)


def validation_losses(results: Results) -> pd.DataFrame:
    """Best validation loss of each variant, mean and spread over seeds: the only thing choices may look at."""
    rows = []
    for name in results.names:
        found = [float(np.nanmin(run.history["valid_loss"])) for run in results.runs_of(name)]
        rows.append({"name": name, "valid_loss": np.mean(found), "sd": np.std(found), "seeds": len(found)})
    return pd.DataFrame(rows).sort_values("valid_loss", ignore_index=True)


def report(results: Results, out: Path, group: str, condition: str) -> pd.DataFrame:
    """Prints and writes what each variant reaches under a condition, and its paired differences to the reference."""
    metrics = METRICS[results.task.kind]
    table = method_table(results, metrics, (condition,)).drop(columns="setting")
    rate = condition.removeprefix("rate ")
    where = group if condition == "test" else f"{group}-mcar{rate}"
    print(f"Test rows {'as they are' if condition == 'test' else f'under MCAR({rate})'}:")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    if REFERENCE in results.names and len(results.names) > 1:
        found = difference_table(results, [REFERENCE], metrics, (condition,)).drop(columns="setting")
        print(found.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
        replace_file(out / f"differences-{where}.csv", lambda path: found.to_csv(path, index=False))
    replace_file(out / f"results-{where}.csv", lambda path: table.to_csv(path, index=False))
    return table


def draw_components(results: Results, file: Path) -> None:
    """A page with each metric over the number of components K: the paper's figure 5."""
    from importlib.resources import files

    from amodal.report.copulas import draw_sweep

    found = {k: name for k, name in SWEEP.items() if name in results.names}
    figures = []
    for metric in (results.metrics[name] for name in METRICS[results.task.kind]):
        intervals = [results.summary(name, metric.name).interval for name in found.values()]
        figures.append(draw_sweep(list(found), intervals, metric, key=metric.name, label="components K"))
    style = files("amodal.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    style += "main { max-width: 44rem; margin: 2rem auto; padding: 0 1.25rem; } h1 { font-size: 1.4rem; }"
    title = f"CM2: components of the mixtures, {len(results.seeds)} seeds, 95 % intervals"
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    page += f"<main><h1>{title}</h1>{''.join(figures)}</main></html>"
    replace_file(file, lambda path: path.write_text(page, encoding="utf-8"))
    print(f"The figure is {file}")


def main(words: list[str] | None = None) -> pd.DataFrame:
    parser = recipe_parser(__doc__, "runs/cm2", epochs=20)
    parser.add_argument("--cohort", default="digits", help="a built-in cohort or a cohort's folder")
    parser.add_argument("--natural", action="store_true", help="train on the rows as they are; see experiments()")
    parser.add_argument("--group", choices=GROUPS, default="main")
    parser.add_argument("--variants", nargs="+", choices=sorted({name for group in GROUPS.values() for name in group}))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rows", type=float, default=1.0, help="fraction of the scans to use (digits)")
    parser.add_argument("--encoders", type=json.loads, default={}, help="encoders by modality, as JSON")
    parser.add_argument("--settings", type=json.loads, default={}, help="further training settings, as JSON")
    parser.add_argument("--choose", action="store_true", help="print validation losses and no test result")
    given = parser.parse_args(words)
    share = {"train": 0.6 * given.rows, "valid": 0.1 * given.rows, "test": 0.3 * given.rows}
    planned = experiments(
        list(given.variants or GROUPS[given.group]),
        given.seeds,
        cohort=given.cohort,
        natural=given.natural,
        encoders=given.encoders,
        cohort_options={} if given.rows == 1 else {"fractions": {**share, "unused": 1 - given.rows}},
        settings={"epochs": given.epochs, "batch_size": given.batch_size, **given.settings},
    )
    results = run_all(planned, given.out, jobs=given.jobs, tell=tell_run)
    if given.choose:
        table = validation_losses(results)
        print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
        return table
    for condition in results.conditions("rate"):
        report(results, given.out, given.group, condition)
    table = report(results, given.out, given.group, "test")
    if sum(name in results.names for name in SWEEP.values()) > 2:
        draw_components(results, given.out / "components.html")
    print(f"The results are in {given.out / f'results-{given.group}.csv'}")
    return table


if __name__ == "__main__":
    main()
