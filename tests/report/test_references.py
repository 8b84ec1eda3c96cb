"""BibTeX as a person reads it."""

import pytest

from amodal.citation import bibliography
from amodal.report.references import read_bibtex


def test_every_entry_of_the_bibliography_is_read():
    for key, entry in bibliography().items():
        found = read_bibtex(entry)
        assert found.key == key
        assert found.year.isdigit()
        assert found.title
        assert found.authors
        assert not set("{}\\") & set(found.title + found.authors + found.venue)


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        ("Rubin, Donald B.", "D. B. Rubin"),
        ("Donald B. Rubin", "D. B. Rubin"),
        (r"Varoquaux, Ga{\"e}l and Duchesnay, {\'E}douard", "G. Varoquaux and É. Duchesnay"),
        (r"Kaiser, {\L}ukasz", "Ł. Kaiser"),
        ("Liu, Tie-Yan and A, B and C, D", "T.-Y. Liu, B. A and D. C"),
        ("A, B and C, D and E, F and G, H", "B. A et al."),
    ],
)
def test_names_are_initials_and_family(authors, expected):
    assert read_bibtex(f"@article{{k, author = {{{authors}}}, year = {{2000}}}}").authors == expected


def test_values_may_hold_commas_braces_and_quotes():
    found = read_bibtex("@book{k,\n title = \"One, {Two} and ``three''\",\n publisher = {A \\& B},\n year = 1999\n}")
    assert (found.title, found.venue, found.year) == ("One, Two and “three”", "A & B", "1999")
