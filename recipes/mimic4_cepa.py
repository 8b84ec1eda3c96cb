"""CEPA's clinical experiments (table 1) on MIMIC-IV, for whoever has the data: EHR series, chest X-rays and texts.

Command:  amodal data prepare mimic4 --source MIMIC4 --cxr CXR_JPG --reports CXR --modalities ehr,cxr,report \
              --preset cepa --task mortality --out COHORT
          python recipes/mimic4_cepa.py COHORT --task mortality --out runs/mimic4-mortality
Time:     not measured: MIMIC-IV and MIMIC-CXR are under credentialed access. It takes a GPU.
Expected: not measured. The paper's figures for CEPA at 50 % missing: mortality AUROC 81.1 ± 0.6, AUPRC 50.6 ± 2.0;
          phenotyping 70.8 ± 0.3 and 42.8 ± 0.4; length of stay MAE 72.9 ± 0.7 hours, kappa 30.2 ± 3.6.

COHORT is the folder of a prepared cohort with the splits train, valid and test and three modalities: "ehr", a series;
"cxr", images; and one of texts, under any name: "report", "notes", "discharge". Its task is binary (mortality),
multilabel (25 phenotypes, --hours 48 for the same stays) or regression (hours of stay). The paper takes cases that have
all three, and its texts include discharge summaries, which tell the outcome: they are not the default here.

The paper's protocol: a transformer for the series, SigLIP2 for images and CXR-BERT for texts, all trained end to end at
width 256; Adam, batches of 16, up to 100 epochs, patience 10, gradients clipped at norm 1; in training a third of the
rows complete, a third with one modality removed, a third with two (redrawn every epoch, or every step by methods that
remove modalities themselves); in testing half with one removed, half with two; three seeds. Networks are names on the
Hugging Face hub or local folders. Two things differ: the thirds are drawn row by row, where the paper has 5, 5 and 6
of a batch, and training stops by the validation loss, where the paper does not say by what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from amodal.benchmark import Experiment, Results, difference_table, method_table, run_all, save_tables
from amodal.benchmark.recipe import recipe_parser, tell_run
from amodal.data import load_cohort
from amodal.errors import ConfigurationError
from amodal.missingness import BalancedCounts

CXR_MODEL = "google/siglip2-base-patch16-224"
TXT_MODEL = "microsoft/BiomedVLP-CXR-BERT-specialized"
LEARNING_RATES = {"mortality": 1e-5, "phenotyping": 5e-5, "length_of_stay": 1e-5}
KINDS = {"ehr": "series", "cxr": "image"}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "cepa, paper": ("cepa", {"preset": "paper"}),
    "cepa": ("cepa", {"dropout": 0.3}),
    "modality_dropout": ("modality_dropout", {"dropout": 0.3}),
    "fusion": ("fusion", {"dropout": 0.3}),
}


def encoders(cxr: Any = CXR_MODEL, txt: Any = TXT_MODEL, *, name: str = "txt", **txt_options: Any) -> dict[str, Any]:
    """The encoders of the paper, as choices of `amodal.encoders.build_encoders`.

    Args:
        cxr: Name or folder of the image network, or a configuration.
        txt: Name or folder of the text network.
        name: Name of the modality of texts.
        **txt_options: Further options of the text encoder.
    """
    return {
        "ehr": {"name": "series_transformer", "layers": 2, "heads": 4, "summary": False, "dropout": 0.3},
        "cxr": {"name": "pretrained_vision", "model": cxr},
        name: {"name": "pretrained_text", "model": txt, **txt_options},
    }


def text_of(kinds: Mapping[str, str]) -> str:
    """The name of the modality of texts; stops with the reason if the cohort is not what the recipe is for."""
    texts = [name for name, kind in kinds.items() if kind == "text"]
    if len(texts) != 1 or dict(kinds) != KINDS | {texts[0]: "text"}:
        expected = KINDS | {"report, notes or another": "text"}
        raise ConfigurationError("the cohort does not have the recipe's modalities", expected=expected, got=dict(kinds))
    return texts[0]


def main(words: list[str] | None = None) -> Results:
    parser = recipe_parser(__doc__, "runs/mimic4-cepa", methods=list(METHODS), seeds=range(3))
    parser.add_argument("cohort", help="folder of the prepared cohort")
    parser.add_argument("--task", required=True, choices=list(LEARNING_RATES), help="decides the learning rate")
    parser.add_argument("--cxr-model", default=CXR_MODEL, help="name on the Hugging Face hub, or a local folder")
    parser.add_argument("--txt-model", default=TXT_MODEL, help="name on the Hugging Face hub, or a local folder")
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens read of each text")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--settings", type=json.loads, default={}, help="further training settings, as JSON")
    given = parser.parse_args(words)
    cohort = load_cohort(given.cohort)
    text = text_of({modality.name: modality.kind for modality in cohort.schema.modalities})
    settings = {
        "optimiser": "adam",
        "learning_rate": LEARNING_RATES[given.task],
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "batch_size": 16,
        "epochs": 100,
        "patience": 10,
        "clip": 1.0,
        **given.settings,
    }
    listed = [
        Experiment(
            METHODS[name][0],
            cohort=given.cohort,
            name=name,
            options=METHODS[name][1],
            encoders=encoders(given.cxr_model, given.txt_model, name=text, max_tokens=given.max_tokens),
            width=given.width,
            test_missingness=BalancedCounts(least=1),
            seed=seed,
            settings=settings,
        )
        for seed in given.seeds
        for name in given.methods
    ]

    results = run_all(listed, given.out, cohort=cohort, jobs=given.jobs, tell=tell_run)
    save_tables(results, given.out, given.methods[:1])
    print(method_table(results).drop(columns="setting").to_string(index=False, float_format="%.4f"))
    if len(given.methods) > 1:
        found = difference_table(results, given.methods[:1]).drop(columns="setting")
        print(found.to_string(index=False, float_format="%.4f"))
    print(f"The results are in {given.out}")
    return results


if __name__ == "__main__":
    main()
