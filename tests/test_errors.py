"""Every message says what was wrong, what was expected, what came, and what to do."""

import pickle

import pytest

from amodal import errors
from amodal.errors import AmodalError, ConfigurationError, DataError, UnknownNameError


def test_message_holds_all_parts_in_order():
    error = DataError("row 7 is bad", expected="a number", got="'x'", hint="Leave it out.")
    assert str(error) == "row 7 is bad (expected a number, got 'x'). Leave it out."
    assert (error.problem, error.expected, error.got, error.hint) == (
        "row 7 is bad",
        "a number",
        "'x'",
        "Leave it out.",
    )


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "p"),
        ({"expected": 1}, "p (expected 1)"),
        ({"got": 0}, "p (got 0)"),
        ({"hint": "Do it."}, "p. Do it."),
    ],
)
def test_parts_are_optional_and_falsy_values_are_shown(parts, text):
    assert str(AmodalError("p", **parts)) == text


def test_kinds_can_be_caught_as_the_builtin_they_resemble():
    for name in ("ConfigurationError", "SchemaError", "ShapeError", "DataError"):
        assert issubclass(getattr(errors, name), (AmodalError, ValueError))
        assert issubclass(getattr(errors, name), ValueError)
    assert issubclass(errors.RunError, RuntimeError)
    assert issubclass(UnknownNameError, LookupError)


def test_unknown_name_suggests_the_nearest_and_lists_all():
    error = UnknownNameError("modality", "vitlas", ["vitals", "labs"])
    assert str(error) == "unknown modality 'vitlas' (expected one of labs, vitals). Did you mean 'vitals'?"
    assert str(UnknownNameError("split", "train", [])) == "unknown split 'train' (expected none is defined)"
    assert "Did you mean" not in str(UnknownNameError("modality", "zzz", ["vitals"]))


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("rate is out of range", expected="0 <= rate < 1", got=1.5, hint="Use 0.9."),
        UnknownNameError("method", "fushion", ["fusion"]),
    ],
)
def test_errors_travel_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
