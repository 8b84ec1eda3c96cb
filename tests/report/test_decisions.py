"""The sections for decisions: their numbers are those of the stored predictions, and their figures read back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from amodal.clinical import at_thresholds
from amodal.errors import UnknownNameError
from amodal.report.decisions import decisions, groups, predicted_by
from amodal.report.figures import mark_id
from amodal.report.subject import Subject
from amodal.report.words import format_value


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_every_method_and_outcome_is_drawn_and_the_rates_are_in_the_table(
    make_subject: Callable[..., Subject], kind: str
):
    subject = make_subject(kind)
    found = decisions(subject)
    assert found is not None
    body = str(found.body)
    for name in subject.results.names:
        assert f'id="benefit-0-{mark_id(name)}"' in body
    assert {mark_id("came true"), mark_id("did not")} <= set(re.findall(r'id="risks-0-(drawn-[^"]+)"', body))
    predicted = predicted_by(subject.results.runs_of(subject.best)[0])
    row = at_thresholds(predicted, [0.2]).iloc[0]
    assert format_value(float(row["sensitivity"])) in body
    assert ("by outcome</caption>" in body) == (kind != "binary")


def test_a_regression_has_no_such_section(make_subject: Callable[..., Subject]):
    assert decisions(make_subject("regression")) is None


def test_groups_are_those_of_the_column_asked_for(make_subject: Callable[..., Subject]):
    subject = make_subject("binary")
    assert groups(subject) is None
    assert subject.cohort is not None
    sex = np.where(np.arange(len(subject.cohort)) % 3 == 0, "f", "m")
    cohort = replace(subject.cohort, extras={"sex": sex})
    found = groups(replace(subject, cohort=cohort, by=("sex",)))
    assert found is not None
    assert "Who lacks what, by sex" in found.body
    assert "less m" in found.body
    with pytest.raises(UnknownNameError, match="unknown column of the cohort 'age'"):
        groups(replace(subject, cohort=cohort, by=("age",)))
