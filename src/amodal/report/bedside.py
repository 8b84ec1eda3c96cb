"""A case in plain words: what is known and predicted, what the next look would show and change, and whether it pays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from amodal.predictive_impact import Advice, Impact
from amodal.report.pictures import Exhibit
from amodal.report.words import format_value, join_words, plain_name

__all__ = ["Bedside", "Look", "describe_case"]

_LEAST = 0.01  # probability of a class that is named
_NAMED = 3


@dataclass(frozen=True)
class Look:
    """The effect of a look at one modality, in words.

    Args:
        name: The modality.
        shows: What it would most likely show.
        change: How far it is expected to move the prediction.
        worth: What it is expected to be worth, and its price.
        verdict: "do it", "not worth it", or why it cannot be done.
        advised: Whether it is the look to do next.
    """

    name: str
    shows: str
    change: str
    worth: str
    verdict: str
    advised: bool


@dataclass(frozen=True)
class Bedside:
    """A case in plain words.

    Args:
        id: Its id.
        known: What is known.
        predicted: What is predicted.
        open: How open that still is.
        looks: What could be looked at, the most useful first.
        exhibits: What there is to see of the case.
    """

    id: str
    known: str
    predicted: str
    open: str
    looks: list[Look]
    exhibits: list[Exhibit] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Advice in a sentence."""
        if not self.looks:
            return "Everything has been looked at."
        for look in self.looks:
            if look.advised:
                return f"Look at {look.name} next."
        return "Look at nothing more: no look is worth it."


def describe_case(result: Impact, advice: Advice, i: int, exhibits: list[Exhibit] | None = None) -> Bedside:
    """Describes one case.

    Args:
        result: Impact of the cases.
        advice: Advice on the same cases.
        i: Position of the case.
        exhibits: What there is to see of it.
    """
    names = [plain_name(name) for name in result.names]
    known = [name for name, seen in zip(names, result.observed[i]) if seen]
    chosen = advice.next()[0][i]
    order = [result.names.index(name) for name in advice.ranking()[i]]
    return Bedside(
        id=str(result.ids[i]),
        known=f"Known: {join_words(known)}." if known else "Nothing is known yet.",
        predicted=_predicted(result, i),
        open=_open(result, i),
        looks=[_look(result, advice, i, m, names[m], result.names[m] == chosen) for m in order],
        exhibits=exhibits or [],
    )


def _predicted(result: Impact, i: int) -> str:
    task, p = result.task, result.prediction[i]
    if task.traits.one_value:
        return f"Predicted: {format_value(float(p))} {task.units or ''}".rstrip() + "."
    order = [c for c in np.argsort(-p, kind="stable") if p[c] >= _LEAST][:_NAMED]
    return f"Predicted: {', '.join(f'{task.classes[c]} ({100 * p[c]:.0f} %)' for c in order)}."


def _open(result: Impact, i: int) -> str:
    if result.observed[i].all():
        return ""
    if result.interval is not None:
        low, high = (format_value(float(end)) for end in result.interval[i])
        return f"With everything looked at, the prediction would most likely be between {low} and {high}."
    if result.plausible_labels is None:
        return ""
    labels = [str(result.task.classes[c]) for c in result.plausible_labels.labels[i]]
    if len(labels) == 1:
        return f"Whatever the rest shows, the answer will most likely stay {labels[0]}."
    return f"With everything looked at, the answer could be {join_words(labels, 'or')}."


def _look(result: Impact, advice: Advice, i: int, m: int, name: str, advised: bool) -> Look:
    price = float(np.broadcast_to(advice.price, advice.gain.shape)[i, m])
    change, gain = float(advice.change[i, m]), float(advice.gain[i, m])
    unit = f" {result.task.units or ''}".rstrip() if result.task.traits.one_value else ""
    moved = f"{format_value(change)}{unit}" if result.task.traits.one_value else f"{100 * change:.0f} points in 100"
    worth = f"worth {_gained(advice, gain)}"
    if price > 0:
        worth += f", for a price of {price:.4g}"
    verdict = "do it" if advised else "not worth it"
    if not advised and not advice.affordable[i, m]:
        verdict = "beyond the budget"
    elif not advised and advice.net[i, m] > advice.least_gain:
        verdict = "worth it, but not first"
    return Look(name, _shows(result, advice, i, m), moved, worth, verdict, advised)


def _gained(advice: Advice, gain: float) -> str:
    if advice.worth != 1:
        return f"{advice.worth * gain:.4g}"
    words = {
        "log_likelihood": f"{format_value(gain)} nats",
        "accuracy": f"{100 * gain:.1f} more right answers in 100",
        "squared_error": f"{format_value(gain)} less squared error",
    }
    return words.get(advice.utility, format_value(gain))


def _shows(result: Impact, advice: Advice, i: int, m: int) -> str:
    """The most likely results of a look, by the class that would come out on top."""
    if advice.outcomes is None or not result.task.is_classification:
        return ""
    share, now = advice.outcomes[i, m], int(result.prediction[i].argmax())
    classes = [str(name) for name in result.task.classes]
    kept = f"In {100 * share[now]:.0f} of 100 cases like this it would leave the answer at {classes[now]}"
    others = [c for c in np.argsort(-share, kind="stable") if c != now and share[c] >= 0.05][:2]
    if not others:
        return f"{kept}."
    return f"{kept}, in {' and in '.join(f'{100 * share[c]:.0f} make it {classes[c]}' for c in others)}."
