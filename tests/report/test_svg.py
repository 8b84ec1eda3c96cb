"""Figures as SVG: ids that never clash, text that stays text, the page's colours, nothing of the machine."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from amodal.metrics import Interval, Metric
from amodal.metrics.registry import METRICS
from amodal.report import figures
from amodal.report.figures import Series
from amodal.report.svg import COLOURS, MARKERS, Mark, clean, drawing, inline_svg, legend_key, short

PATTERNS = np.array([[True, True], [True, False], [False, True]])
HOSTILE = ["</svg><script>", "$\\frac{1}{", "a&b \"c\" 'd'", "日本語 \x07 name"]


def series(n: int, names: list[str]) -> list[Series]:
    interval = Interval(0.5, 0.4, 0.6, 100, 0)
    return [Series(name, Mark(COLOURS[i], MARKERS[i], i > 0), [interval] * n) for i, name in enumerate(names)]


def draw_all(names: list[str], metric: Metric = METRICS["accuracy"]) -> dict[str, str]:
    line = (np.array([0.1, 0.9]), np.array([0.2, 0.8]))
    return {
        "presence": figures.draw_presence(PATTERNS, [5, 3, 2], names[:2], key="presence"),
        "forest": figures.draw_forest(series(2, names), "x", key="forest", alt="alt", titles=names[:2], zero=True),
        "heat": figures.draw_heat(PATTERNS, names[:2], series(3, names), metric, key="heat", alt="alt"),
        "curves": figures.draw_curves([0, 1], series(2, names), "x", "y", key="curves", alt="alt"),
        "whole": figures.draw_curves([1, 2], series(2, names), "x", "y", key="whole", alt="alt", whole=True),
        "reliability": figures.draw_reliability(
            {"1 present": (Mark(COLOURS[0], MARKERS[0]), line)},
            key="reliability",
            alt="alt",
            title=names[0],
            labels=("a", "b"),
        ),
        "history": figures.draw_history({"training": line, "validation": line}, 1, key="history", title=names[0]),
    }


def test_ids_begin_with_the_figures_key_and_references_find_them():
    seen: set[str] = set()
    for key, svg in draw_all(["one", "two", "three"]).items():
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert ids
        assert all(name.startswith(f"{key}-") for name in ids)
        assert len(set(ids)) == len(ids)
        assert not seen & set(ids)
        seen |= set(ids)
        for place in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg):
            assert "".join(place) in ids


def test_figures_are_well_formed_and_hold_no_style_comment_or_metadata():
    for svg in draw_all(HOSTILE).values():
        root = ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert not re.search(r"<style|<!--|<metadata|<script|https?:|xlink", svg)
        assert "width=" not in svg.partition(">")[0]


def test_names_are_drawn_as_they_are():
    svg = figures.draw_forest(series(1, HOSTILE), "x", key="f", alt="alt")
    root = ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    texts = ["".join(part.itertext()) for part in root.iter("{http://www.w3.org/2000/svg}text")]
    for name in HOSTILE:
        assert short(name) in texts


def test_modalities_have_the_names_that_people_write():
    svg = figures.draw_presence(PATTERNS, [5, 3, 2], ["top_left", "lab_values"], key="p")
    assert "top left" in svg
    assert "lab values" in svg
    assert "top_left" not in svg


def test_numbers_in_dark_cells_are_light_on_a_dark_page_too():
    rows = [Series("one", Mark(COLOURS[0], "o"), [Interval(v, v, v, 9, 0) for v in (0.1, 0.5, 0.9)])]
    svg = figures.draw_heat(PATTERNS, ["a", "b"], rows, METRICS["accuracy"], key="h", alt="alt")
    root = ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    styles = {"".join(text.itertext()): text.get("style") for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert "#fefefe" in str(styles["0.90"])
    assert "#10202e" in str(styles["0.10"])


def test_colours_and_fonts_are_the_pages():
    svg = figures.draw_forest(series(1, ["one", "two"]), "x", key="f", alt="alt")
    assert "var(--c0)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "DejaVu" not in svg
    assert re.search(r"font-size: ?1[12](\.5)?px", svg)


def test_the_same_numbers_give_the_same_figure():
    assert draw_all(["one", "two", "three"]) == draw_all(["one", "two", "three"])


def test_numbers_in_text_are_not_rounded():
    with drawing(100, 60) as figure:
        figure.text(0.1, 0.5, "0.123456 #1d2733")
        svg = inline_svg(figure, "k", "an alt text")
    assert "0.123456 #1d2733" in svg


def test_a_figure_of_nothing_is_drawn():
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    rows = [Series("one", Mark(COLOURS[0], "o"), [nothing] * 3)]
    for svg in (
        figures.draw_forest(rows, "x", key="f", alt="alt"),
        figures.draw_heat(PATTERNS, ["a", "b"], rows, METRICS["mae"], key="h", alt="alt"),
    ):
        assert svg.startswith("<svg")


@pytest.mark.parametrize("marker", MARKERS)
def test_every_mark_has_its_place_in_a_legend(marker):
    found = legend_key("name", Mark(COLOURS[1], marker, dashed=True))
    assert (found.colour, found.dashed) == ("var(--c1)", True)
    assert re.fullmatch(r"[M0-9\-. hvzaZHV]+", found.shape)


def test_clean_makes_one_line():
    assert clean("a\n\tb\x00\u202e c") == "a b c"
    assert clean("abcdef", 4) == "abc…"


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_enough_in_light_and_in_dark():
    from importlib import resources

    css = resources.files("amodal.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in css.split("@media")[:2])
    for theme in (light, light | dark):
        for paper in ("paper", "wash"):
            assert contrast(theme["ink"], theme[paper]) > 10
            assert contrast(theme["muted"], theme[paper]) > 4.5
            assert contrast(theme["accent"], theme[paper]) > 4.5
        assert contrast(theme["good"], theme["good-wash"]) > 4.5
        assert contrast(theme["bad"], theme["bad-wash"]) > 4.5
        for mark in ("c0", "c1", "c2", "c3", "c4", "c5", "g0", "g1"):
            assert contrast(theme[mark], theme["paper"]) > 3
    assert tuple(light[f"c{i}"] for i in range(6)) == COLOURS
