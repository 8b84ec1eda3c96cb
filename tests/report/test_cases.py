"""Cases are chosen by their rules, and shown as they are."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from amodal.data import Cohort, load_cohort
from amodal.report.cases import choose_cases, show_cases
from amodal.report.pictures import exhibit_case
from amodal.schema import Task

TASK = Task("multiclass", name="c", classes=("x", "y"))


def test_the_rules_choose_whom_they_say():
    # columns: seen p(x), whole p(x), truth, what was seen of two modalities
    table = [
        (0.9, 0.2, 1, (1, 0)),  # right with everything, wrong as seen: loses 0.7
        (0.6, 0.1, 1, (1, 0)),  # the same: loses 0.5
        (0.9, 0.1, 1, (1, 1)),  # nothing was hidden: never chosen
        (0.8, 0.9, 0, (1, 0)),  # right on little, 0.8
        (0.95, 0.9, 0, (0, 1)),  # right on little, 0.95
        (0.7, 0.99, 1, (1, 0)),  # wrong either way, 0.99 sure of it
        (0.7, 0.3, 0, (0, 1)),  # right as seen, wrong with everything; also right on little
    ]
    seen, whole = (np.array([[row[i], 1 - row[i]] for row in table]) for i in (0, 1))
    target = np.array([row[2] for row in table])
    observed = np.array([row[3] for row in table], dtype=bool)
    groups = choose_cases(TASK, seen, whole, target, observed, np.ones_like(observed), each=2)
    assert {group.title: (group.rows.tolist(), group.found) for group in groups} == {
        "Right with everything, wrong as seen": ([0, 1], 2),
        "Right on little": ([4, 3], 3),
        "Wrong, and sure of it": ([5], 1),
        "Right as seen, wrong with everything": ([6], 1),
    }


def test_of_numbers_those_that_change_most_towards_and_away_from_the_truth():
    seen, whole = np.array([1.0, 5.0, 3.0, 9.0]), np.array([4.0, 5.5, 8.0, 9.0])
    target = np.array([4.0, 5.0, 3.0, 1.0])
    observed = np.array([[1, 0], [1, 0], [0, 1], [1, 1]], dtype=bool)
    groups = choose_cases(Task("regression"), seen, whole, target, observed, np.ones_like(observed), each=1)
    assert [(group.title, group.rows.tolist()) for group in groups] == [
        ("What was absent mattered most", [0]),
        ("More misled", [2]),
        ("Right on little", [1]),
        ("Wrong even so", [3]),
    ]


def test_labels_that_are_not_known_do_not_count_as_wrong():
    task = Task("multilabel", classes=("a", "b"))
    seen, whole = np.array([[0.9, 0.9], [0.4, 0.4]]), np.array([[0.9, 0.9], [0.9, 0.1]])
    target = np.array([[np.nan, np.nan], [1.0, 0.0]])
    observed = np.array([[1, 0], [1, 0]], dtype=bool)
    groups = choose_cases(task, seen, whole, target, observed, np.ones_like(observed), each=1)
    assert groups[0].rows.tolist() == [1]
    assert groups[-1].title == "Wrong even so"
    assert groups[-1].rows.tolist() == [1]


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L"))


def test_a_digit_is_whole_where_it_was_seen_and_grey_where_not():
    cohort = load_cohort("digits").split("test")
    batch = cohort.batch(np.arange(1))
    (shown,) = exhibit_case(cohort.schema, batch, 0, np.array([True, False, False, True]))
    picture = decode(shown.picture)
    side = picture.shape[0] // 8
    cells = picture[side // 2 :: side, side // 2 :: side].astype(float)
    quadrants = {name: values[0, 0].numpy() for name, values in batch.values.items()}
    top = np.hstack([quadrants["top_left"], quadrants["top_right"]])
    scan = np.vstack([top, np.hstack([quadrants["bottom_left"], quadrants["bottom_right"]])])
    ink = 255 * (1 - scan / 16)
    np.testing.assert_allclose(cells[:4, :4], ink[:4, :4], atol=3)
    np.testing.assert_allclose(cells[4:, 4:], ink[4:, 4:], atol=3)
    assert cells[:4, 4:].min() > 120
    assert cells[:4, 4:].max() < 230
    assert "top right and bottom left" in shown.alt
    assert shown.state == "part"


@pytest.fixture
def mixed(make_subject) -> tuple[Cohort, object]:
    subject = make_subject("regression", notes=("first\nline\x07", "second"))
    return subject.test, subject.results.runs[0]


def test_every_kind_of_modality_is_shown_with_its_units_and_its_holes(mixed):
    test, run = mixed
    row = int(np.flatnonzero(run.test.observed.all(1))[0])
    case = show_cases(run, test, run.test.predictions, np.array([row]))[0]
    by_title = {exhibit.title: exhibit for exhibit in case.exhibits}
    labs, vitals, scan, note = (by_title[name] for name in ("labs", "vitals", "scan", "note"))
    assert len(labs.values) == 9
    assert labs.values[-1] == ("…", "3 more")
    value = float(test.batch(np.array([row])).values["labs"][0, 0])
    assert labs.values[0] == ("lab 0", f"{value:.4g} mmol/l")
    assert {curve.name: len(curve.points.split()) for curve in vitals.curves} == {"pulse": 5, "pressure": 6}
    assert vitals.curves[0].last.endswith("mmHg")
    assert decode(scan.picture).shape == (6 * 13, 9 * 13)
    assert note.text in ("first line", "second")
    assert case.truth.endswith("days")


def test_what_was_hidden_and_what_was_never_there_are_told_apart(mixed):
    test, run = mixed
    hidden = test.observed & ~run.test.observed
    row = int(np.flatnonzero(hidden[:, 0] & run.test.observed[:, 1])[0])
    case = show_cases(run, test, run.test.predictions, np.array([row]))[0]
    assert {exhibit.title: exhibit.state for exhibit in case.exhibits}["labs"] == "removed"
    row = int(np.flatnonzero(~test.observed[:, 3])[0])
    case = show_cases(run, test, run.test.predictions, np.array([row]))[0]
    assert {exhibit.title: exhibit.state for exhibit in case.exhibits}["note"] == "absent"
    assert "note" not in case.seen
