"""A case in plain words: what it says is what impact and advice say."""

import numpy as np
import pytest

import amodal
from amodal.errors import ConfigurationError
from amodal.report.bedside import describe_case
from amodal.report.bedside_page import impact_page, write_impact_page


@pytest.fixture(scope="module")
def asked():
    cohort = amodal.load_cohort("interaction", rule="alone", n=500)
    train, test = cohort.split("train"), cohort.split("test").take(np.arange(30))
    model = amodal.fit("modality_dropout", train, epochs=8, width=16, seed=0, batch_size=64)
    observed = np.tile([True, False, False], (30, 1))
    observed[0] = True
    cases = test.with_observed(observed)
    prices = {"a": 20.0, "b": 5.0, "noise": 0.0}
    return model, cases, model.impact(cases), model.advise(cases, utility="accuracy", costs=prices, worth=100.0)


def test_words_are_the_numbers(asked):
    _, _, result, advice = asked
    i = 1
    case = describe_case(result, advice, i)
    assert case.known == "Known: noise."
    top = int(result.prediction[i].argmax())
    assert case.predicted.startswith(f"Predicted: {('no', 'yes')[top]} ({100 * result.prediction[i, top]:.0f} %)")
    assert case.open == "With everything looked at, the answer could be " + " or ".join(
        ("no", "yes")[c] for c in result.plausible_labels.labels[i]
    ) + "."  # fmt: skip
    assert advice.next()[0][i] == "a"
    assert case.verdict == "Look at a next."
    first, second = case.looks
    assert (first.name, first.verdict, second.verdict) == ("a", "do it", "not worth it")
    assert first.change == f"{100 * advice.change[i, 1]:.0f} points in 100"
    assert "for a price of 20" in first.worth
    assert (
        f"In {100 * advice.outcomes[i, 1, top]:.0f} of 100 cases like this it would leave the answer at" in first.shows
    )
    done = describe_case(result, advice, 0)
    assert (done.known, done.verdict) == ("Known: noise, a and b.", "Everything has been looked at.")


def test_nothing_pays_and_what_is_too_dear(asked):
    model, cases, result, _ = asked
    dear = model.advise(cases, utility="accuracy", costs={"a": 90.0, "b": 90.0}, worth=100.0)
    assert describe_case(result, dear, 1).verdict == "Look at nothing more: no look is worth it."
    poor = model.advise(cases, utility="accuracy", costs={"a": 20.0, "b": 1.0}, worth=100.0, budget=10.0)
    assert {look.name: look.verdict for look in describe_case(result, poor, 1).looks}["a"] == "beyond the budget"


def test_the_page(asked, tmp_path):
    model, cases, result, advice = asked
    page = impact_page(model, cases, result, advice)
    assert page.count("<article") == 24
    assert "for 29 of them a look pays" in page
    assert "What to know before believing it" in page
    assert "another record of the same person would not be noticed" in page
    assert (tmp_path / "x.html").samefile(write_impact_page(tmp_path / "x.html", model, cases, result, advice))
    with pytest.raises(ConfigurationError, match=r"unknown ending .expected \.html, got x\.pdf"):
        write_impact_page(tmp_path / "x.pdf", model, cases, result, advice)


def test_values_and_labels_have_words_too():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 300, 1)).astype(np.float32)
    without = np.tile([True, False], (5, 1))
    for task, target in (
        (amodal.Task("regression", name="stay", units="days"), (a + 2 * b)[:, 0]),
        (amodal.Task("multilabel", classes=("x", "y")), np.hstack([a > 0, b > 0]).astype(np.float32)),
    ):
        cohort = amodal.Cohort.from_arrays({"a": a, "b": b}, task=task, target=target)
        model = amodal.fit("fusion", cohort, epochs=2, width=8, seed=0)
        cases = cohort.take(np.arange(5)).with_observed(without)
        result, advice = model.impact(cases), model.advise(cases)
        case = describe_case(result, advice, 0)
        assert case.predicted.startswith("Predicted: ")
        assert "b" in impact_page(model, cases, result, advice)
        if task.units:
            assert "days" in case.predicted
            assert "the prediction would most likely be between" in case.open
            assert "days" in case.looks[0].change
