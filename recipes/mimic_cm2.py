"""CM2's clinical experiments on MIMIC-III and MIMIC-IV, for whoever has the data: death in hospital and readmission.

Command:  python recipes/mimic_cm2.py --database mimic3 --source MIMIC3 --task mortality --out runs/mimic3-ihm
          python recipes/mimic_cm2.py --database mimic4 --source MIMIC4 --cxr CXR_JPG \
              --task readmission --out runs/mimic4
          the second with --reports CXR for three modalities (series, image, report)
Time:     not measured: MIMIC is under credentialed access. It takes a GPU.
Expected: not measured. The paper's AUROC and AUPR of CM2 (its figures for single families and for the ablations lie
          within the intervals of one another, about ±0.035 AUROC):

                                 death in hospital    readmission, 30 days
          MIMIC-III matched      – / 0.513            0.754 / 0.445
          MIMIC-III partial      0.856 / 0.510        0.754 / 0.445
          MIMIC-IV matched       0.827 / 0.492        0.737 / 0.466
          MIMIC-IV partial       0.858 / 0.527        0.771 / 0.486
          MIMIC-IV, three        0.824 / 0.471        0.730 / 0.444

--source prepares the cohort into OUT/cohort unless it is there (the preset "cm2" of `amodal data prepare`); see
`amodal.data.sources.mimic.cohort` for its rules and for where they differ from the release. --cohort takes a prepared
one instead. "matched" are the stays that have everything, in training, validation and testing; "partial" are all stays.

The paper's protocol: two-layer LSTM (24 bins of 2 hours), ResNet-34, TinyBERT; latent width 256, K = 3; Adam at 1e-4
without weight decay or clipping, batches of 16 (MIMIC-III and three modalities) or 32, up to 100 epochs, patience 15.
Deviations: patience is by validation loss, not AUROC; the learning rate does not fall on a plateau; Adam's second decay
is 0.999, not 0.9. The text and image networks are names on the Hugging Face hub, local folders, or, for images,
resnet34, resnet50 or vit for initial weights; nothing is fetched unless a name says so.

Tables: 95 % intervals (1,000 resamples of the test patients), paired differences to the first method, and the paper's
two-sample bootstrapped t-tests, whose p-values are set by the number of resamples: they are printed to be compared with
its Table 11 and are no evidence.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amodal.benchmark import Experiment, Results, difference_table, method_table, run_all, save_tables
from amodal.benchmark.recipe import recipe_parser, tell_run
from amodal.data import Cohort
from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.samples import TASKS
from amodal.errors import ConfigurationError, DataError
from amodal.files import replace_file
from amodal.metrics import METRICS, resample_counts, two_sample_bootstrap_t_test

TEXT_NETWORK = "huawei-noah/TinyBERT_General_4L_312D"
IMAGE_NETWORKS: dict[str, dict[str, Any]] = {
    "resnet34": {"name": "resnet", "model": 34},
    "resnet50": {"name": "resnet", "model": 50},
    "vit": {"name": "pretrained_vision", "model": {"model_type": "vit"}},
}
KINDS = {"ehr": "series", "notes": "text", "cxr": "image", "report": "text"}
PAPER: dict[str, Any] = {"preset": "paper", "family": "frank", "dropout": 0.3}
# Method, its options, and whether amodal.fit removes further modalities while it trains.
METHODS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "cm2, paper": ("cm2", PAPER, None),
    "cm2": ("cm2", {"latent": 256, "dropout": 0.3}, "auto"),
    "cm2, paper, gumbel": ("cm2", PAPER | {"family": "gumbel"}, None),
    "cm2, paper, gaussian": ("cm2", PAPER | {"family": "gaussian"}, None),
    "cm2, paper, no copula": ("cm2", PAPER | {"family": "independence"}, None),
    "cm2, paper, detached": ("cm2", PAPER | {"sample_gradient": "detached"}, None),
    "cm2, paper, no fusion": ("cm2", PAPER | {"fusion": "concatenate"}, None),
    "cm2, paper, cosine": ("cm2", PAPER | {"alignment": "cosine", "w_alignment": 1.0}, None),
    "cm2, paper, kl": ("cm2", PAPER | {"alignment": "kl", "w_alignment": 1.0}, None),
    "modality_dropout": ("modality_dropout", {"dropout": 0.3}, "auto"),
    "fusion": ("fusion", {"dropout": 0.3}, "auto"),
}
METRIC_NAMES = ("auroc", "auprc")


def encoders(names: Sequence[str], image: str, text: str, max_tokens: int) -> dict[str, Any]:
    """The paper's encoders, as choices of `amodal.encoders.build_encoders`.

    Args:
        names: The cohort's modalities.
        image: A key of `IMAGE_NETWORKS`, or a name or folder of an image network.
        text: Name or folder of the text network.
        max_tokens: Tokens read of each text.
    """
    vision = IMAGE_NETWORKS.get(image, {"name": "pretrained_vision", "model": image})
    choices: dict[str, Any] = {"ehr": {"name": "plain_lstm", "layers": 2, "dropout": 0.3}, "cxr": vision}
    choices |= {
        name: {"name": "pretrained_text", "model": text, "max_tokens": max_tokens} for name in ("notes", "report")
    }
    return {name: choices[name] for name in names}


def open_cohort(given: argparse.Namespace) -> Cohort:
    """The prepared cohort; prepares it if tables are given and it is not there yet."""
    folder = given.cohort or given.out / "cohort"
    lists = {"test_patients": given.test_patients, "valid_patients": given.valid_patients}
    if folder.is_dir():
        cohort = Cohort.open(folder)
    elif given.source is None:
        raise ConfigurationError("there is no cohort", hint="Give --source, the folder of MIMIC's tables, or --cohort.")
    elif given.database == "mimic3":
        cohort = prepare_mimic(
            "mimic3", given.source, folder, task=given.task, modalities="ehr,notes", preset="cm2", **lists
        )
    elif given.cxr is None:
        raise ConfigurationError("MIMIC-IV needs images", hint="Give --cxr, the folder of MIMIC-CXR-JPG.")
    else:
        modalities = "ehr,cxr" if given.reports is None else "ehr,cxr,report"
        folders = {"cxr": given.cxr, "reports": given.reports}
        cohort = prepare_mimic(
            "mimic4", given.source, folder, task=given.task, modalities=modalities, preset="cm2", **folders, **lists
        )
    kinds = {modality.name: modality.kind for modality in cohort.schema.modalities}
    if "ehr" not in kinds or len(kinds) < 2 or any(KINDS.get(name) != kind for name, kind in kinds.items()):
        raise ConfigurationError("the cohort does not have the recipe's modalities", expected=KINDS, got=kinds)
    if cohort.schema.task.name != TASKS[given.task].name:
        raise ConfigurationError(
            "the cohort has another task", expected=TASKS[given.task].name, got=cohort.schema.task.name
        )
    return cohort


def t_tests(results: Results, reference: str, resamples: int = 1000) -> pd.DataFrame:
    """The paper's Table 11: Student's t between bootstrap values of the first seed. Its p-values are no evidence."""
    drawn: dict[tuple[str, str], np.ndarray] = {}
    for place, name in enumerate(results.names):
        run = results.runs_of(name)[0]
        counts = resample_counts(run.groups, resamples, np.random.default_rng((place, 11)))
        for metric in METRIC_NAMES:
            drawn[name, metric] = np.asarray(METRICS[metric](run.test.predictions, run.target, weight=counts))
    rows = []
    for metric in METRIC_NAMES:
        for name in results.names:
            if name != reference:
                test = two_sample_bootstrap_t_test(drawn[name, metric], drawn[reference, metric])
                row = {"name": name, "reference": reference, "metric": metric, "t": test.statistic}
                rows.append(row | {"p (no evidence)": test.p_value})
    return pd.DataFrame(rows)


def report(results: Results, out: Path, reference: str) -> None:
    """Prints and writes the tables of one setting."""
    save_tables(results, out, [reference])

    def shown(frame: pd.DataFrame) -> str:
        return frame.drop(columns="setting", errors="ignore").to_string(index=False, float_format="%.4f")

    print(shown(method_table(results, METRIC_NAMES)))
    if len(results.names) > 1:
        print(f"Paired differences to {reference}, patients and seeds resampled together:")
        print(shown(difference_table(results, [reference], METRIC_NAMES)))
        found = t_tests(results, reference)
        replace_file(out / "t-tests.csv", lambda path: found.to_csv(path, index=False))
        print("The paper's t-tests between bootstrap values (their p-values shrink with the resamples, no evidence):")
        print(found.to_string(index=False, float_format="%.4g"))


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = recipe_parser(__doc__, "runs/mimic-cm2", methods=list(METHODS), seeds=range(3))
    parser.add_argument("--database", choices=("mimic3", "mimic4"), default="mimic3")
    parser.add_argument("--task", choices=("mortality", "readmission"), required=True)
    parser.add_argument("--source", type=Path, help="folder of MIMIC's tables")
    parser.add_argument("--cxr", type=Path, help="folder of MIMIC-CXR-JPG (MIMIC-IV)")
    parser.add_argument("--reports", type=Path, help="folder of MIMIC-CXR's reports: a third modality (MIMIC-IV)")
    parser.add_argument("--test-patients", type=Path, help="the benchmark's list of test patients")
    parser.add_argument("--valid-patients", type=Path, help="its list of validation patients")
    parser.add_argument("--cohort", type=Path, help="folder of a prepared cohort, in place of --source")
    parser.add_argument("--pairing", nargs="+", choices=("matched", "partial"), default=["matched", "partial"])
    parser.add_argument("--image-network", default="resnet34", help="resnet34, resnet50, vit, a hub name or a folder")
    parser.add_argument("--text-network", default=TEXT_NETWORK, help="name on the Hugging Face hub, or a local folder")
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens read of each text")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--options", type=json.loads, default={}, help="further options of CM2, as JSON")
    parser.add_argument("--settings", type=json.loads, default={}, help="further training settings, as JSON")
    return parser.parse_args(words)


def experiments(given: argparse.Namespace, cohort: Cohort, name: str, settings: Mapping[str, Any]) -> list[Experiment]:
    """One experiment a method and seed, seed by seed."""
    choices = encoders(cohort.schema.names, given.image_network, given.text_network, given.max_tokens)
    chosen = {key: METHODS[key] for key in given.methods}
    return [
        Experiment(
            method,
            cohort=name,
            name=key,
            options={**options, **(given.options if method == "cm2" else {})},
            encoders=choices,
            width=given.width,
            removal=removal,
            patterns="met",
            seed=seed,
            settings=settings,
        )
        for seed in given.seeds
        for key, (method, options, removal) in chosen.items()
    ]


def main(words: list[str] | None = None) -> dict[str, Results]:
    given = parse(words)
    given.out.mkdir(parents=True, exist_ok=True)
    cohort = open_cohort(given)
    small = given.database == "mimic3" or len(cohort.schema.names) > 2
    settings = {
        "optimiser": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "batch_size": 16 if small else 32,
        "epochs": 100,
        "patience": 15,
        "clip": None,
        **given.settings,
    }
    found = {}
    for pairing in given.pairing:
        rows = np.flatnonzero(cohort.observed.all(axis=1)) if pairing == "matched" else np.arange(len(cohort))
        if not len(rows):
            raise DataError("no stay has all modalities, so that none is matched", hint="Take --pairing partial.")
        out = given.out / pairing
        out.mkdir(exist_ok=True)
        print(f"{cohort.name}, {pairing}: {len(rows):,} stays", flush=True)
        planned = experiments(given, cohort, f"{cohort.name}, {pairing}", settings)
        results = run_all(planned, out, cohort=cohort.take(rows), jobs=given.jobs, tell=tell_run)
        report(results, out, given.methods[0])
        found[pairing] = results
    print(f"The results are in {given.out}")
    return found


if __name__ == "__main__":
    main()
