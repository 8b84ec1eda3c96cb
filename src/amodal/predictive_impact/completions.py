"""Laws of what a case lacks: completions with weights, and the predictions that they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.method import draws_itself
from amodal.predictive_impact.donors import DonorCompletions
from amodal.predictive_impact.own import OwnCompletions
from amodal.predictive_impact.predictor import Predictor

__all__ = ["Completions", "CompletionsFrom", "Law", "completions_of"]

CompletionsFrom = Literal["own", "training_cases"]


class Law(Protocol):
    """Completions of some modalities of B cases.

    Attributes:
        weights: Weight of each completion, of shape (S, B), one in sum over S.
        gap: Distance between the mean of the predictions with everything completed and the present one, (B,).
        notes: What a reader must know about them.
    """

    weights: Tensor
    gap: Tensor
    notes: tuple[str, ...]

    def after(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Predictions (S, B, D) with some of the modalities, and nothing else, known, and their weights (S, B)."""
        ...

    def last(self, name: str) -> tuple[Tensor, Tensor]:
        """Expected change (B,), with its error, when a modality is looked at after all the others."""
        ...


class Completions(Protocol):
    """A source of completions."""

    @property
    def how(self) -> str:
        """The same in words."""
        ...

    @property
    def number(self) -> int:
        """Number of completions of a case."""
        ...

    def change_scale(self, missing: Sequence[str]) -> float:
        """What changes under them are multiplied by, where these modalities are missing."""
        ...

    def law(self, batch: Batch, names: Sequence[str], present: Tensor) -> Law:
        """Completions of modalities that all rows lack.

        Args:
            batch: B rows, standardised.
            names: Modalities that none of them has.
            present: The present predictions, (B, D) in the target's units.
        """
        ...


def completions_of(
    model: Predictor,
    cohort: Cohort,
    *,
    completions: CompletionsFrom | None = None,
    train: Cohort | None = None,
    neighbours: int = 50,
    draws: int = 200,
    seed: int = 0,
    prefer: CompletionsFrom = "own",
) -> Completions:
    """The source of completions for a model's cases: its method, or similar training cases.

    Args:
        model: A trained model.
        cohort: The cases, so that none is completed with itself or with another case of its group.
        completions: "own", "training_cases", or None: training cases if they are passed, else as `prefer` says as far
            as it can be had.
        train: Training cases; None: those the model remembers.
        neighbours: Number of similar training cases to choose from.
        draws: Number of completions, where they are drawn.
        seed: Seed of draws.
        prefer: What None means if both can be had.

    Raises:
        UnknownNameError: If `completions` is something else.
        ConfigurationError: If it cannot be had.
    """
    if completions not in (None, "own", "training_cases"):
        raise UnknownNameError("source of completions", completions, ("own", "training_cases"))
    method = model.method
    own = draws_itself(method)
    completes = own and method.draws_mean == "completions"
    lenders = model.training_cases if train is None else train
    if completions is None:
        wanted = "training_cases" if train is not None else prefer
        if wanted == "own" and not completes and lenders is not None:
            wanted = "training_cases"
        completions = "own" if wanted == "training_cases" and lenders is None and own else wanted
    if completions == "own" and own:
        return OwnCompletions(model, draws=draws, seed=seed)
    if completions == "own":
        reason, hint = "draws no completions of what is missing", "Pass completions='training_cases'"
        if lenders is not None:
            raise ConfigurationError(f"{type(method).__name__} {reason}", hint=f"{hint}, or leave it out.")
    if lenders is None:
        raise ConfigurationError(
            f"{type(method).__name__} cannot draw completions of what is missing, and there are no training "
            "cases to take them from"
            if not own
            else "there are no training cases to take completions from",
            hint="Pass train=<the training cohort> (on the command line --train_split), or train a method that draws "
            "itself (`amodal methods` lists them).",
        )
    return DonorCompletions(model, lenders, cases=cohort, neighbours=neighbours, draws=draws, seed=seed)
