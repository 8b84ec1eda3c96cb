"""Numbers and findings in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amodal.benchmark import Comparison
from amodal.benchmark.experiment import describe_mechanism
from amodal.metrics import Difference, Interval, Metric
from amodal.missingness import MAR, MCAR, MNAR, BalancedCounts, FixedCount, Mechanism, Natural, Pattern

__all__ = [
    "Verdicts",
    "counted",
    "difference_cell",
    "duration",
    "format_difference",
    "format_interval",
    "format_value",
    "interval_cell",
    "join_words",
    "percent",
    "plain_name",
    "plain_text",
    "plural",
    "removal_in_words",
    "share_in_words",
    "sort_verdicts",
]

NOTHING = "–"
_SHARES = {1 / 4: "a quarter", 1 / 3: "a third", 1 / 2: "half", 2 / 3: "two thirds", 3 / 4: "three quarters"}


def counted(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "method"), counted(1200, "case"), counted(2, "modality")
        ('1 method', '1,200 cases', '2 modalities')
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Several of a thing.

    Example:
        >>> plural("case"), plural("modality")
        ('cases', 'modalities')
    """
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def format_value(value: float, metric: Metric | None = None, *, signed: bool = False) -> str:
    """A number with three decimals, or three significant digits where it has no bounds; a dash for NaN.

    Example:
        >>> format_value(0.91249), format_value(float("nan")), format_value(-0.25, signed=True)
        ('0.912', '–', '−0.250')
    """
    if value is None or math.isnan(value):
        return NOTHING
    large = metric is not None and math.isinf(metric.bounds[1]) and abs(value) >= 10
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if large else 3
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.replace("-", "").replace("+", "±" if signed else "")
        text = f"±{text}" if signed and not text.startswith("±") else text
    return text.replace("-", "−")


def format_interval(interval: Interval, metric: Metric | None = None) -> str:
    """A value and its 95 % interval.

    Example:
        >>> format_interval(Interval(0.8123, 0.79, 0.8349, 1000, 0))
        '0.812 (0.790–0.835)'
    """
    if math.isnan(interval.low):
        return format_value(interval.estimate, metric)
    ends = f"{format_value(interval.low, metric)}–{format_value(interval.high, metric)}"
    return f"{format_value(interval.estimate, metric)} ({ends})"


def interval_cell(interval: Interval, metric: Metric | None = None) -> tuple[str, str]:
    """A value, and its interval (and over how many labels it is a mean, if not over all) to go beneath it."""
    ends = f"{format_value(interval.low, metric)}–{format_value(interval.high, metric)}"
    parts = ["" if math.isnan(interval.low) else ends, interval.note or ""]
    return format_value(interval.estimate, metric), "; ".join(part for part in parts if part)


def difference_cell(difference: Difference, metric: Metric | None = None) -> tuple[str, str]:
    """A difference, and its interval to go beneath it."""
    low, high = (format_value(end, metric, signed=True) for end in (difference.low, difference.high))
    estimate = format_value(difference.estimate, metric, signed=True)
    return estimate, "" if math.isnan(difference.low) else f"{low} to {high}"


def format_difference(difference: Difference, metric: Metric | None = None) -> str:
    """A difference and its 95 % interval, with signs.

    Example:
        >>> format_difference(Difference(-0.012, -0.03, 0.004, 0.2, 1000, 0))
        '−0.012 (−0.030 to +0.004)'
    """
    estimate = format_value(difference.estimate, metric, signed=True)
    if math.isnan(difference.low):
        return estimate
    low, high = (format_value(end, metric, signed=True) for end in (difference.low, difference.high))
    return f"{estimate} ({low} to {high})"


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent.

    Example:
        >>> percent(0.5)
        '50.0\u202f%'
    """
    return NOTHING if math.isnan(share) else f"{share:.{digits}%}".replace("%", "\u202f%")


def share_in_words(share: float) -> str:
    """A share as people say it.

    Example:
        >>> share_in_words(0.49), share_in_words(0.1)
        ('half', '10\u202f%')
    """
    nearest = min(_SHARES, key=lambda known: abs(known - share))
    return _SHARES[nearest] if abs(nearest - share) < 0.03 else percent(share, 0)


def plain_name(name: object) -> str:
    """A modality's name, or a pattern of several, as people write it.

    Example:
        >>> plain_name("top_left"), plain_name("top_left+lab_values")
        ('top left', 'top left + lab values')
    """
    return str(name).replace("_", " ").replace("+", " + ")


def removal_in_words(mechanism: Mechanism, part: str = "modality") -> str:
    """What a mechanism removes, in words.

    Args:
        mechanism: The mechanism.
        part: What the modalities are called, one of them.

    Example:
        >>> removal_in_words(MCAR(0.5), "quadrant"), removal_in_words(Natural()), removal_in_words(FixedCount(2))
        ('half of the quadrants removed at random', 'nothing further removed', '2 modalities removed from every case')
    """
    if isinstance(mechanism, Natural):
        return "nothing further removed"
    if isinstance(mechanism, FixedCount):
        return f"{counted(mechanism.removed, part)} removed from every case"
    if isinstance(mechanism, BalancedCounts):
        least = f", at least {mechanism.least}" if mechanism.least else ""
        return f"{plural(part)} removed from every case, each number of them equally often{least}"
    if isinstance(mechanism, Pattern):
        return f"nothing but {join_words(sorted(map(plain_name, mechanism.kept)))} left"
    how = {MCAR: "at random", MAR: "depending on what is left", MNAR: "depending on their own values"}
    if type(mechanism) not in how or not isinstance(mechanism, MCAR | MAR | MNAR):
        return f"removal by {describe_mechanism(mechanism)}"
    rate = mechanism.rate
    if isinstance(rate, Mapping):
        shares = [f"{share_in_words(value)} of {plain_name(name)}" for name, value in rate.items() if value]
        what = join_words(shares) if shares else "nothing"
    else:
        what = f"{share_in_words(rate)} of the {plural(part)}"
    repair = ", but for the last of a case" if isinstance(mechanism, MCAR) and mechanism.before_repair else ""
    return f"{what} removed {how[type(mechanism)]}{repair}"


def plain_text(text: str) -> str:
    """A docstring's line without its markup.

    Example:
        >>> plain_text("The network of `fusion`, see :cite:`wu2018mvae`.")
        'The network of fusion, see wu2018mvae.'
    """
    return " ".join(re.sub(r":\w+:`([^`]*)`|`+([^`]*)`+", r"\1\2", text).split())


def join_words(words: Iterable[object], last: str = "and") -> str:
    """A list in a sentence.

    Example:
        >>> join_words(["a", "b", "c"])
        'a, b and c'
    """
    *most, final = [str(word) for word in words] or [""]
    return f"{', '.join(most)} {last} {final}" if most else final


def duration(seconds: float) -> str:
    """Seconds in units that suit.

    Example:
        >>> duration(4.24), duration(75), duration(7300)
        ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class Verdicts:
    """Comparisons with one reference, by what they say.

    Args:
        reference: The method they are compared with.
        better: Better than it beyond noise.
        worse: Worse than it beyond noise.
        unclear: Neither.
    """

    reference: str
    better: tuple[Comparison, ...]
    worse: tuple[Comparison, ...]
    unclear: tuple[Comparison, ...]


def sort_verdicts(comparisons: Sequence[Comparison]) -> Verdicts:
    """Sorts comparisons with one reference by their verdicts, each group from the best to the worst."""
    ordered = sorted(comparisons, key=lambda one: one.difference.estimate * (-1 if one.metric.higher_is_better else 1))
    parts = {
        verdict: tuple(one for one in ordered if one.verdict == verdict) for verdict in ("better", "worse", "unclear")
    }
    return Verdicts(comparisons[0].reference, **parts)
