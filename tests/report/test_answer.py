"""The answer in a sentence: counted from the results, and no more than they say."""

from __future__ import annotations

import pytest

from amodal.report.answer import _evidence, answer, answer_sentence, compared_pair
from amodal.report.words import share_in_words

DIGITS = "With {absent} of the picture gone, {best} are read; a network without gaps reads {other}."


def test_shares_as_people_say_them():
    assert [share_in_words(share) for share in (0.5, 0.31, 0.68, 0.24)] == [
        "half",
        "a third",
        "two thirds",
        "a quarter",
    ]
    assert share_in_words(0.41) == "41\u202f%"


def test_the_sentence_is_counted_from_the_results(make_subject):
    subject = make_subject("multiclass", answer=DIGITS)
    results = subject.results
    best, other, without_gaps = compared_pair(subject)
    assert best == subject.ranked[0]
    values = [results.summary(name, "accuracy").interval.estimate for name in (best, other)]
    absent = share_in_words(float((~subject.first.test.observed).mean()))
    equal = round(10 * values[0]) == round(10 * values[1])
    shown = [f"{round(100 * v)} of 100" if equal else f"{round(10 * v)} of 10" for v in values]
    assert equal, "two methods that are that close are told apart in hundredths"
    assert not without_gaps, "the rows of training lack some modalities here"
    assert answer_sentence(subject) == (
        f"With {absent} of the modalities gone, the best method ({best}) is right in {shown[0]} cases; {other}: "
        f"{shown[1]}."
    )


def test_a_network_that_never_met_gaps_is_set_beside_the_best(make_subject):
    """Its training rows are complete, and nothing was removed: only then does the demo's sentence apply."""
    subject = make_subject("multiclass", answer=DIGITS)
    for run in subject.results.runs:
        whole = run.train_presence.natural | True
        object.__setattr__(run, "train_presence", type(run.train_presence)(whole, run.schema.names, whole))
    assert compared_pair(subject) == ("Trained with gaps", "Joint network", True)
    assert answer_sentence(subject).startswith("With ")
    assert "are read; a network without gaps reads" in answer_sentence(subject)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("binary", "ranks “ill” above “well” in "),
        ("multilabel", "ranks a case with a label above one without it in "),
        ("regression", "is off by "),
    ],
)
def test_every_kind_of_task_has_a_sentence(make_subject, kind: str, words: str):
    subject = make_subject(kind)
    assert words in answer_sentence(subject)
    assert ("beyond noise" in _evidence(subject)) != ("may be noise" in _evidence(subject))
    if kind == "regression":
        assert " days on average; " in answer_sentence(subject)
    alone = make_subject(kind, names=("fusion",))
    assert answer_sentence(alone).endswith((" pairs.", " average."))
    assert answer(alone).key == "answer"
