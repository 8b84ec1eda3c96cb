"""Options are read from signatures: every wrong one is refused, by name, before anything is built."""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from contracts import cases

import amodal
from amodal.checkpoint import TrainedModel, build_method
from amodal.data import COHORTS
from amodal.encoders import ENCODERS, build_encoders
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.fusion import FUSIONS, build_fusion
from amodal.methods import METHODS, method_options
from amodal.options import (
    Condition,
    OptionsChecked,
    Positive,
    Share,
    Size,
    annotation_of,
    at_least,
    one_of,
    resolve_options,
)

OUTSIDE = {
    "method": ("schema", "encoders"),
    "encoder": ("modality", "width"),
    "fusion": ("n_modalities", "width"),
    "cohort": (),
}
BUILDERS = {
    **{f"method {name}": build for name, build in METHODS.items()},
    **{f"encoder {name}": build for name, build in ENCODERS.items()},
    **{f"fusion {name}": build for name, build in FUSIONS.items()},
    **{f"cohort {name}": build for name, build in COHORTS.items()},
}
REFUSED = (ConfigurationError, UnknownNameError)


def options_of(kind: str) -> list[str]:
    return [name for name in inspect.signature(BUILDERS[kind]).parameters if name not in OUTSIDE[kind.split()[0]]]


CASES = [(kind, option) for kind in BUILDERS for option in options_of(kind)]


def build_from(kind: str, options: dict) -> Any:
    """What a user of the package calls, by the kind of thing that takes the options."""
    what, name = kind.split(" ")
    if what == "method":
        return build_method({"method": name, "options": options, "encoders": {"width": 8}}, cases.make_schema())
    if what == "encoder":
        kinds = ENCODERS[name].kinds
        modality = next(m for m in cases.make_schema().modalities if m.kind in kinds)
        schema = type(cases.make_schema())((modality,), cases.TASKS["binary"])
        return build_encoders(schema, width=8, choices={modality.name: {"name": name, **options}})
    if what == "fusion":
        return build_fusion({"name": name, **options}, 3, 8)
    return amodal.load_cohort(name, **options)


def takes(annotation, kind: type) -> bool:
    """Whether an annotation lets a type through, at the outermost level."""
    if get_origin(annotation) is Annotated:
        return takes(get_args(annotation)[0], kind)
    if get_origin(annotation) in (Literal, None):
        words = get_args(annotation)
        return any(type(word) is kind for word in words) if words else annotation in (kind, Any)
    if get_origin(annotation) in (Sequence, list, tuple, Mapping, dict):
        return kind in ((dict,) if get_origin(annotation) in (Mapping, dict) else (list, tuple))
    return any(takes(member, kind) for member in get_args(annotation))


def wrong_values(annotation) -> list[Any]:
    """Values of every type that the annotation does not name."""
    wrong: list[Any] = [object(), math.nan, math.inf]
    numeric = takes(annotation, int) or takes(annotation, float)
    wrong += [] if takes(annotation, bool) else [True, False]
    wrong += [] if takes(annotation, float) else [1.5]
    wrong += [] if numeric else [1, 0]
    wrong += [] if takes(annotation, str) and (takes(annotation, dict) or not numeric) else ["8"]
    wrong += (
        []
        if takes(annotation, bool) is False
        else ["no", "false", 1, 0, *([] if takes(annotation, NoneType) else [None])]
    )
    wrong += [] if takes(annotation, dict) else [{"a": object()}]
    wrong += [] if takes(annotation, list) or takes(annotation, tuple) else [[object()]]
    return wrong


# Every option of everything ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "option"), CASES, ids=[f"{kind}: {option}" for kind, option in CASES])
def test_a_wrong_type_is_refused_by_name_before_anything_is_built(kind, option, monkeypatch):
    def untouched(*args, **kwargs):
        raise AssertionError("something was built")

    monkeypatch.setattr(torch.nn.Module, "__init__", untouched)
    monkeypatch.setattr(np.random, "default_rng", untouched)
    annotation = annotation_of(BUILDERS[kind], option)
    for value in wrong_values(annotation):
        with pytest.raises(REFUSED) as caught:
            build_from(kind, {option: value})
        message = str(caught.value)
        assert option in message, message
        assert "expected" in message, message
        assert "got" in message or isinstance(caught.value, UnknownNameError), message


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_misspelt_option_is_refused_with_the_nearest(kind):
    for option in options_of(kind):
        with pytest.raises(UnknownNameError, match=rf"unknown option of .*'{option}x'"):
            build_from(kind, {f"{option}x": 1})


@pytest.mark.parametrize("kind", BUILDERS)
def test_defaults_are_options_that_are_taken(kind):
    """A default outside its own annotation would be refused when a run is rebuilt from its record."""
    build, outside = BUILDERS[kind], OUTSIDE[kind.split()[0]]
    needed = {"model": "x"} if "pretrained" in kind else {}
    defaults = resolve_options(build, needed, owner=kind, outside=outside)
    again = resolve_options(build, json.loads(json.dumps(defaults)), owner=kind, outside=outside)
    assert again == defaults
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(defaults))


@pytest.mark.parametrize(("name", "preset"), [(name, preset) for name in METHODS for preset in METHODS[name].PRESETS])
def test_presets_are_differences_of_known_options(name, preset):
    default, resolved = method_options(name), method_options(name, {"preset": preset})
    differences = METHODS[name].PRESETS[preset]
    assert all(resolved[option] == value != default[option] for option, value in differences.items())
    assert all(resolved[option] == default[option] for option in set(default) - set(differences))
    option = next(iter(differences))
    assert method_options(name, {"preset": preset, option: default[option]})[option] == default[option]


@pytest.mark.parametrize("name", METHODS)
def test_no_method_has_more_than_fifteen_options(name):
    assert len(method_options(name)) <= 15


# What messages say ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("method cepa", {"masking": "crossmodal"}, r"unknown masking of cepa 'crossmodal'.*Did you mean 'cross_modal'"),
        ("method cepa", {"mask_ratios": [0.6, 0.3]}, r"mask_ratios of cepa is out of range .*0 < .*got \[0.6, 0.3\]"),
        ("method cepa", {"preset": "papr"}, r"unknown preset of cepa 'papr' .*Did you mean 'paper'"),
        ("method primo", {"latent": "8"}, r"latent of primo .*expected a whole number, 1 or more, got '8'"),
        ("method primo", {"also_masked": "false"}, r"also_masked of primo .*expected true or false, got 'false'"),
        ("method cm2", {"training_draws": 1.5}, r"training_draws of cm2 .*a whole number, 1 or more, got 1.5"),
        ("method cm2", {"family": "gumbell"}, r"unknown family of cm2 'gumbell' .*Did you mean 'gumbel'"),
        ("method fusion", {"dropout": 3}, r"dropout of fusion .*a number, 0 or more and less than 1, got 3"),
        ("method fusion", {"fusion": "lstn"}, r"unknown fusion 'lstn' .*Did you mean 'lstm'"),
        ("method fusion", {"fusion": {"name": "lstm", "layers": "2"}}, r"layers of fusion 'lstm' .*got '2'"),
        ("method fusion", {"fusion": 3}, r"fusion of fusion .*the name of a fusion, or \{'name'.*got 3"),
        ("method fills", {"bandwidth": "medium"}, r"bandwidth of fills .*more than 0, or .*Did you mean 'median'"),
        ("method cm2", {"preset": 3}, r"unknown preset of cm2 3"),
        ("encoder gru", {"layers": 0}, r"layers of encoder 'gru' .*1 or more, got 0"),
        ("encoder pretrained_text", {}, r"encoder 'pretrained_text' needs the option 'model' .*got nothing"),
        ("cohort synthetic", {"dims": [4, "4"]}, r"dims of cohort 'synthetic' .*a list of values, each a whole number"),
        ("cohort xor", {"clusters": 5}, r"unknown clusters of cohort 'xor' 5 .*one of 3, 4"),
        ("cohort digits", {"fractions": {"train": "x"}}, r"fractions of cohort 'digits' .*a mapping to values"),
    ],
)
def test_messages_name_the_option_what_was_expected_and_what_came(kind, options, words):
    with pytest.raises(REFUSED, match=words):
        build_from(kind, options)


@pytest.mark.parametrize("options", ["paper", [("preset", "paper")], 3])
def test_options_that_are_no_mapping(options):
    with pytest.raises(ConfigurationError, match="the options of cepa cannot be read .expected a mapping"):
        method_options("cepa", options)


def test_fit_refuses_options_before_it_looks_at_the_data():
    with pytest.raises(ConfigurationError, match="hidden of fusion"):
        amodal.fit("fusion", None, None, options={"hidden": "8"})  # type: ignore[arg-type]


# One annotation ------------------------------------------------------------------------------------------------------


def takes_one(annotation):
    def function(value): ...

    function.__annotations__["value"] = annotation
    return lambda value: resolve_options(function, {"value": value}, owner="it")["value"]


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (int, np.int64(3), 3),
        (float, 3, 3.0),
        (float, np.float32(0.5), 0.5),
        (float | None, None, None),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[float, float], [1, 2], (1.0, 2.0)),
        (Sequence[str] | None, ("a", "b"), ["a", "b"]),
        (Mapping[str, float], {"a": 1}, {"a": 1.0}),
        (Share | Literal["balanced"], "balanced", "balanced"),
        (Path, "a/b", "a/b"),
        (Literal[3, 4], 4, 4),
        (Annotated[str, one_of({"a": 1})], "a", "a"),
    ],
)
def test_values_come_in_the_type_of_the_annotation(annotation, given, expected):
    found = takes_one(annotation)(given)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (int, True),
        (int, 1.0),
        (int, "1"),
        (float, "1"),
        (float, math.nan),
        (float, False),
        (bool, 1),
        (bool, "no"),
        (str, 1),
        (tuple[float, float], [1.0]),
        (tuple[int, ...], "12"),
        (Sequence[str], "abc"),
        (Sequence[str], [1]),
        (Mapping[str, float], [("a", 1)]),
        (Literal[1, 2], True),
        (Size | None, 0),
        (Positive, 0),
        (Annotated[int, at_least(1), Condition("odd", lambda n: n % 2 == 1)], 2),
    ],
)
def test_what_does_not_fit_is_refused(annotation, given):
    with pytest.raises(REFUSED, match="value of it"):
        takes_one(annotation)(given)


def test_constructors_check_what_they_are_given():
    class Base(OptionsChecked):
        def __init__(self, size: int, *, factor: Positive = 1.0):
            self.factor = factor

    class Derived(Base):
        pass

    assert Derived(3, factor=2).factor == 2.0
    with pytest.raises(ConfigurationError, match="factor of Derived .*more than 0, got 0"):
        Derived(3, factor=0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Derived(3, fctor=1)  # type: ignore[call-arg]


# Records -------------------------------------------------------------------------------------------------------------


def test_a_later_change_of_a_preset_does_not_change_an_old_run(tmp_path, monkeypatch):
    cohort = amodal.load_cohort("digits").split("train").take(np.arange(40))
    options = {"preset": "predictive", "latent": 2, "hidden": 8}
    model = amodal.fit("primo", cohort, cohort, epochs=1, width=8, options=options, out=tmp_path / "run")
    spec = json.loads((tmp_path / "run" / "experiment.json").read_text())["spec"]
    assert spec["options"] == options
    assert (spec["resolved"]["components"], spec["resolved"]["latent"]) == (10, 2)
    monkeypatch.setattr(METHODS["primo"], "PRESETS", {"predictive": {"components": 2}})
    again = TrainedModel.load(tmp_path / "run")
    assert np.array_equal(again.predict(cohort), model.predict(cohort))
