"""What a history says about collapse: the table's numbers, the warnings' words, and both on the page."""

from __future__ import annotations

import numpy as np
import pandas as pd

from amodal.report.parts import section
from amodal.report.representations import collapse_warnings, representation_table

WELL = pd.DataFrame({"epoch": [0, 1], "pooled_rank": [8.0, 12.5], "pooled_spread": [0.5, 0.75]})
COLLAPSED = pd.DataFrame(
    {
        "epoch": [0, 1, 2],
        "pooled_rank": [8.0, 7.0, 6.0],
        "pooled_spread": [0.5, 0.4, 0.3],
        "predicted_rank": [4.0, 3.0, 0.0],
        "predicted_spread": [0.5, 0.4, 0.001],
        "context_diversity": [0.2, 0.2, 0.1],
        "effective_sample_size": [20.0, 19.0, 18.0],
        "neighbours": [30.0, 30.0, 30.0],
    }
)


def test_the_table_shows_the_epoch_that_was_kept():
    table = representation_table({"fusion": (WELL, 1)})
    assert list(table.head) == ["method", "of", "effective rank", "spread", "over that of the first epoch"]
    assert table.rows == [["fusion", "pooled vectors", "12.5", "0.75", "1.5"]]


def test_columns_that_only_one_method_has_are_dashes_for_the_others():
    table = representation_table({"fusion": (WELL, 0), "cepa": (COLLAPSED, 1)})
    assert table.rows[0][-2:] == ["–", "–"]
    assert table.rows[1] == ["cepa", "pooled vectors", "7", "0.4", "0.8", "0.2", "19 of 30"]
    assert table.rows[2][:4] == ["cepa", "predicted vectors", "3", "0.4"]


def test_nothing_watched_is_no_table():
    term = pd.DataFrame(
        {"epoch": [0, 1], "train_rank": [0.2, 0.1]}
    )  # a term of a loss, not the rank of a representation
    assert representation_table({"simmlm": (term, 1)}) is None
    assert representation_table({"boosting": (pd.DataFrame({"epoch": [0, 1], "valid_loss": [1.0, 0.5]}), 1)}) is None


def test_a_collapse_is_told_only_if_it_had_happened_by_the_epoch_that_was_kept():
    assert collapse_warnings({"cepa": (COLLAPSED, 1), "fusion": (WELL, 1)}) == []
    warnings = collapse_warnings({"cepa": (COLLAPSED, 2)})
    assert warnings == [
        "cepa: predicted representations have collapsed to a line: their effective rank is 0.",
        "cepa: predicted representations have collapsed to a point: their spread is 0.001 and has been 0.5.",
    ]


def test_the_section_warns_in_words_and_says_when_all_is_well():
    for history, words in ((COLLAPSED, "Collapse."), (WELL, "There is no sign of it here.")):
        histories = {"cepa": (history, len(history) - 1)}
        body = section(
            "training",
            "Training",
            drawings=[],
            table=representation_table(histories),
            seed=0,
            representations=representation_table(histories),
            warnings=collapse_warnings(histories),
        ).body
        assert words in body
        assert f"{history['pooled_rank'].iloc[-1]:.3g}" in body


def test_epochs_in_which_nothing_could_be_measured_are_dashes():
    frame = WELL.assign(pooled_rank=np.nan, pooled_spread=np.nan)
    assert representation_table({"fusion": (frame, 1)}).rows == [["fusion", "pooled vectors", "–", "–", "–"]]
    assert collapse_warnings({"fusion": (frame, 1)}) == []
