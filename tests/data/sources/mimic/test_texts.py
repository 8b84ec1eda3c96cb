"""Notes and reports of MIMIC as one text each."""

from amodal.data.sources.mimic.texts import clean_note, join_notes, report_sections, report_text

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old man // edema

 COMPARISON:  Radiograph of [**2150-1-1**].

 FINDINGS:

 The lungs are clear.
 The heart is normal.

 IMPRESSION:

 No acute process.

 Dr. ___ was told by telephone.
"""


def test_sections_of_a_report():
    found = report_sections(REPORT)
    assert list(found) == ["impression", "findings", "last_paragraph", "comparison"]
    assert found["impression"] == "No acute process. Dr. ___ was told by telephone."
    assert found["findings"] == "The lungs are clear. The heart is normal."
    assert found["last_paragraph"] == "Dr. ___ was told by telephone."
    assert found["comparison"] == "Radiograph of ."
    assert report_text(REPORT).startswith("No acute process.")


def test_the_last_occurrence_of_a_heading_counts():
    assert report_sections("IMPRESSION: One.\nIMPRESSION: Two.\n")["impression"] == "Two."


def test_a_report_without_headings_is_none():
    assert report_text("no headings here") is None
    assert report_text("") is None


def test_notes_lose_names_and_signatures():
    assert clean_note("Seen by [**Doctor\nLast 3**] AT NOON.\n") == "seen by at noon."
    assert clean_note("Stable.\n____________________\nsomeone") == "stable."


def test_five_notes_are_as_good_as_none():
    notes = [f"Note {i}." for i in range(9)]
    assert join_notes(notes[:5]) is None
    assert join_notes(notes[:6]) == "note 0.\nnote 1.\nnote 2.\nnote 3.\nnote 4."
    assert join_notes(notes, more_than=0, kept=1) == "note 0."
    assert join_notes(["[**x**]"] * 6) is None
