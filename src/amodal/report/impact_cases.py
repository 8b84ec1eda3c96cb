"""Cases in the section on impact: what was seen, missing and advised, and what happened."""

from __future__ import annotations

from dataclasses import dataclass

from amodal.report.bedside import Bedside
from amodal.report.pictures import Exhibit

__all__ = ["Candidate", "ImpactCase", "PlausibleLabel"]


@dataclass(frozen=True)
class PlausibleLabel:
    """A class of a case: its mass among the plausible ones, and its probability later.

    Args:
        label: The class.
        mass: Share of the draws in clusters of this class.
        after: Probability after the look that was advised.
        whole: Probability with everything there is.
        true: Whether it is the truth.
    """

    label: str
    mass: float
    after: float
    whole: float
    true: bool


@dataclass(frozen=True)
class Candidate:
    """A missing modality of a case.

    Args:
        name: Which.
        change: How far looking at it is expected to move the prediction.
        gain: Expected gain in log-likelihood, in nats.
        moved: How far the prediction really moved when it was revealed; NaN where the data do not have it.
        advised: Whether it is the one to look at next.
    """

    name: str
    change: float
    gain: float
    moved: float
    advised: bool


@dataclass(frozen=True)
class ImpactCase:
    """A case: what was seen, what was open, what was advised, and what happened.

    Args:
        id: Its id.
        truth: The true class.
        seen: Names of the modalities seen.
        before: What it looked like.
        after: What it looked like after the advised look.
        labels: Plausible labels, most mass first.
        candidates: The missing modalities, in the schema's order.
        variability: V.
        bound: The largest V that the mean prediction allows.
        answers: The most probable class as seen, after the look, with everything.
        moved: How far the prediction moved by the look.
        words: The same in plain words, as it looked before.
    """

    id: str
    truth: str
    seen: tuple[str, ...]
    before: list[Exhibit]
    after: list[Exhibit]
    labels: list[PlausibleLabel]
    candidates: list[Candidate]
    variability: float
    bound: float
    answers: tuple[str, str, str]
    moved: float
    words: Bedside

    @property
    def advised(self) -> str:
        """The modality that was looked at."""
        return next(one.name for one in self.candidates if one.advised)
