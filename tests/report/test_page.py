"""The page: escaped, self-contained, accessible, well formed, and with the numbers of the evaluation."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from amodal.benchmark import Results
from amodal.errors import ConfigurationError, RunError, UnknownNameError
from amodal.report.page import make_page, write_page
from amodal.report.sections import SECTIONS
from amodal.report.subject import Subject
from amodal.report.words import format_interval

HOSTILE = (
    '<script>alert("x")</script>',
    "</svg><img src=x onerror=alert(1)>",
    "a & b 'quoted' \"twice\"",
    "$\\frac{x}{",
)
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Reader(HTMLParser):
    """Reads a page strictly: every tag is closed by its own end tag, in order."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open[-1] == tag, f"</{tag}> inside <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


@pytest.fixture(params=["binary", "multiclass", "multilabel", "regression"])
def read(request, make_subject) -> Reader:
    return Reader(make_page(make_subject(request.param, seeds=(0, 1) if request.param == "multiclass" else (0,))))


def section_keys(read: Reader) -> list[str | None]:
    """The sections in order; a folded one has its key on what is inside, so that a link to it opens it."""
    return [attrs["id"] for tag, attrs in read.tags if tag in ("section", "div") and "id" in attrs]


def test_every_kind_of_task_has_every_section(read):
    keys = section_keys(read)
    left_out = {"impact", "groups"}  # no method here draws, and nobody asked for groups
    if "decisions" not in keys:  # a regression has no risks
        left_out.add("decisions")
    assert keys == [build.__name__ for build in SECTIONS if build.__name__ not in left_out]
    assert len(keys) >= 10


def test_ids_are_unique_and_every_link_leads_somewhere(read):
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    for place in read.values("href"):
        assert place.startswith("#")
        assert place[1:] in ids
    for place in [name for value in read.values("aria-labelledby") for name in value.split()]:
        assert place in ids


def test_nothing_is_loaded_from_elsewhere(make_subject):
    page = make_page(make_subject())
    reader = Reader(page)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in reader.tags}
    assert all(source.startswith("data:image/png;base64,") for source in reader.values("src"))
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    outside = {found for found in re.findall(r"https?://[^\"' <)]+", page) if "w3.org" not in found}
    bibtex = re.search(r"The same as BibTeX.*?</details>", page, re.DOTALL)
    assert bibtex
    assert all(found in bibtex[0] for found in outside)


def test_pictures_and_figures_say_what_they_show(read):
    for tag, attrs in read.tags:
        if tag == "img":
            assert attrs.get("alt"), "an image without words"
        if tag == "svg":
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"
    figures = [attrs for tag, attrs in read.tags if tag == "svg" and "chart" in (attrs.get("class") or "")]
    assert len(figures) >= 10
    assert all(len(attrs["aria-label"] or "") > 20 for attrs in figures)


def test_headings_go_down_one_step_at_a_time(read):
    assert read.headings[0] == 1
    assert read.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(read.headings, read.headings[1:]))


def test_the_page_has_language_title_landmarks_and_can_be_used_with_the_keyboard(read):
    names = [tag for tag, _ in read.tags]
    for tag in ("header", "nav", "main", "footer", "title"):
        assert names.count(tag) == 1
    assert read.tags[0] == ("html", {"lang": "en"})
    assert next(attrs for tag, attrs in read.tags if tag == "a")["class"] == "skip"
    scrolling = [attrs for tag, attrs in read.tags if attrs.get("class") == "scroll"]
    assert scrolling
    assert all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in scrolling)
    headers = [attrs for tag, attrs in read.tags if tag == "th"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in headers)


def test_names_and_notes_that_hold_html_stay_text(make_subject):
    subject = make_subject(names=HOSTILE, notes=HOSTILE, cohort_name=HOSTILE[0], title=HOSTILE[1], question=HOSTILE[0])
    reader = Reader(make_page(subject))
    assert "script" not in [tag for tag, _ in reader.tags]
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert all(source.startswith("data:image/png;base64,") for source in reader.values("src"))
    for name in HOSTILE:
        assert name in reader.words
    assert HOSTILE[1] in [text.strip() for text in reader.text]


def test_the_numbers_are_those_of_the_evaluation(make_subject, evaluation_of):
    subject = make_subject("multiclass")
    words = Reader(make_page(subject)).words
    for run in subject.results.runs:
        row = evaluation_of(run).intervals["overall"]
        for metric in ("accuracy", "auroc", "nll"):
            interval = row[metric]
            assert f"{interval.estimate:.3f} {interval.low:.3f}–{interval.high:.3f}" in words
    best = evaluation_of(subject.results.runs_of(subject.best)[0]).intervals["overall"]["accuracy"]
    assert f"{subject.best} reaches accuracy {format_interval(best)}" in words.replace("  ", " ")


def test_realised_rates_are_those_of_the_presence(make_subject):
    subject = make_subject()
    words = Reader(make_page(subject)).words
    for name, rate in zip(subject.first.schema.names, (~subject.first.test.observed).mean(0)):
        assert re.search(rf"{name} \w+ [\w× ]+ {100 * rate:.1f} %", words)
    assert subject.first.metrics["presence_hash"][:16] in words


def test_what_is_better_beyond_noise_is_said(make_subject):
    subject = make_subject("regression")
    found = {one.name: one for one in subject.results.compare("Boosted trees", "mae")}
    assert found["Trained with gaps"].verdict == "better"
    assert found["Joint network"].verdict == "worse"
    words = Reader(make_page(subject)).words
    part = words[words.index("Against Boosted trees") :]
    better, worse = part.index("better Trained with gaps"), part.index("worse Joint network")
    assert better < worse
    assert "Beyond noise, that is better than Boosted trees" in words


def test_one_seed_and_several_say_what_their_intervals_cover(make_subject):
    assert "Each method was trained once" in Reader(make_page(make_subject())).words
    words = Reader(make_page(make_subject(seeds=(0, 1, 2)))).words
    assert "means over 3 seeds" in words
    assert "Standard deviation over the seeds" in words


def test_runs_without_imposed_conditions_have_a_page_of_what_is_there(make_subject):
    subject = make_subject(full=False, cohort=None)
    reader = Reader(make_page(subject))
    assert section_keys(reader) == [
        "answer",
        "comparison",
        "patterns",
        "calibration",
        "decisions",
        "methods",
        "question",
        "presence",
        "training",
        "reproduce",
    ]
    assert "each pattern has cases of its own" in reader.words


def test_a_single_method_has_a_page(make_subject):
    subject = make_subject(names=("fusion",))
    words = Reader(make_page(subject)).words
    assert "Joint network reaches AUROC" in words
    assert "Against" not in words


def test_the_same_results_give_the_same_page(make_subject):
    assert make_page(make_subject()) == make_page(make_subject())


def test_another_cohort_gives_no_cases(make_subject):
    subject = make_subject()
    assert subject.cohort is not None
    other = subject.cohort.take(np.arange(10))
    assert make_subject(cohort=other).test is None


def test_writing_is_told_when_it_cannot_be(make_subject, tmp_path):
    path = write_page(make_subject(), tmp_path / "sub" / "page.html", SECTIONS[:1])
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_page(make_subject(), tmp_path / "file" / "page.html", SECTIONS[:1])


def test_bad_subjects_are_told(make_subject):
    with pytest.raises(UnknownNameError, match="method in these results 'bosting'"):
        make_subject(references=("bosting",))
    subject = make_subject()
    object.__setattr__(subject.results.runs[0], "setting", "another one")
    with pytest.raises(ConfigurationError, match="a report compares runs of one setting"):
        make_page(subject)


@pytest.mark.parametrize("name", ["modality_dropout", "boosting"])
def test_a_page_about_one_method_compares_it_with_nobody(make_subject, name: str):
    results = make_subject().stored[0]
    words = Reader(make_page(Subject(Results(results.runs_of(name)), title="One"))).words
    for wrong in (
        "best method",
        "1 methods",
        "Hollow",
        "Paired differences",
        "all methods compared",
        "Each method was trained",
    ):
        assert wrong not in words
    assert "It was trained once" in words
