"""`amodal.impact`: from a trained model and cases to V, its parts by modality, and plausible labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.errors import DataError, UnknownNameError
from amodal.method import inference
from amodal.predictive_impact.completions import Completions, CompletionsFrom, Law, completions_of
from amodal.predictive_impact.conformal import conformal_labels, conformal_threshold
from amodal.predictive_impact.donor_weights import effective_number, weighted_mean
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.looks import by_label, by_pattern, chunk_of, expected_change, looks_at, to_numpy
from amodal.predictive_impact.notes import notes_on_cohort, notes_on_donors, notes_on_gap, notes_on_task
from amodal.predictive_impact.own import OwnCompletions
from amodal.predictive_impact.plausible import PlausibleLabels, labels_by_share, plausible_labels
from amodal.predictive_impact.predictor import Predictor, check_inputs, distance, predictions_of, refuse_empty
from amodal.predictive_impact.result import Impact
from amodal.predictive_impact.sensitivity import check_odds_ratio, sensitivity_range
from amodal.predictive_impact.shapley import shapley_shares, subsets
from amodal.progress import progress_bar

__all__ = ["impact"]

_MOST_SHARED = 4  # missing modalities of which every subset is looked at
_MOST_RANGES = 20  # classes whose probabilities get a range
_TINY = 1e-30


def impact(
    model: Predictor,
    cohort: Cohort,
    *,
    draws: int = 200,
    seed: int = 0,
    vary: Literal["missing"] | Sequence[str] = "missing",
    completions: CompletionsFrom | None = None,
    train: Cohort | None = None,
    neighbours: int = 50,
    plausible: bool | Literal["share", "paper"] = True,
    odds_ratio: float | None = None,
    calibration: Cohort | None = None,
    coverage: float = 0.9,
    progress: bool = False,
) -> Impact:
    r"""Variability of each prediction over what is missing.

    Each case is completed in many plausible ways, by the method itself if it draws completions of modalities, or with
    the missing modalities of similar training cases (`DonorCompletions`; the result says which). The spread of the
    predictions under them is V (eq. 9 of the paper), and a part of the completion alone gives what looking at a
    modality next, or last, is expected to change.

    A method with latents, such as PRIMO, leaves something open about modalities that are present too. In a case that
    lacks something that is averaged over, so that V is about what is missing; a complete case has V_complete, over
    everything the method leaves open. Completions from training cases leave nothing open in a complete case. All cases
    are given the same random numbers, and a case's numbers do not depend on the other cases.

    No number is above what bounds it: V at most :math:`1 - \sum_c p_c^2`, the change by one look at most V.

    Args:
        model: A trained model.
        cohort: N cases, whatever they lack.
        draws: Number of completions of each case, where they are drawn.
        seed: Seed of all draws.
        vary: Modalities that get numbers of their own: "missing" (for each case those it lacks), or names.
        completions: "own" (the method's draws) or "training_cases"; None: training cases if they are passed, else the
            method's own if it draws completions, else the training cases the model remembers.
        train: Training cases; None: those the model remembers.
        neighbours: Number of similar training cases.
        plausible: Whether to find the plausible labels (classification only): True or "share" by the share of
            completions under which each class is the most probable, "paper" by a mixture of their logits.
        odds_ratio: Also give the range of V if those who lack a modality differ from those who have it by this odds
            ratio.
        calibration: Cases with target that lack modalities as the N cases do; they give labels with a coverage promise.
        coverage: Share of cases whose true label is to be in its set.
        progress: Whether to show a progress bar.

    Returns:
        V with its standard error, by case and by modality, the predictions and the plausible labels.

    Raises:
        ConfigurationError: If a number is out of range, or the method cannot draw and there are no training cases.
        UnknownNameError: If `vary` names a modality that the model does not have, or another option is not known.
        DataError: If there are no cases, a case has nothing observed and the method cannot take it, or no
            training case has what a case lacks.

    Source:
        :cite:`madaan2026primo`, section 2.2; the parts by modality, other tasks and other methods are this library's.

    Example:
        >>> import amodal
        >>> cohort = amodal.load_cohort("digits")
        >>> train, test = cohort.split("train"), cohort.split("test").take(np.arange(8))
        >>> model = amodal.fit("fusion", train, epochs=1)
        >>> without = test.with_observed(np.array([[True, True, False, False]] * 8))
        >>> result = amodal.impact(model, without)
        >>> result.variability.shape, sorted(result.per_modality)
        ((8,), ['bottom_left', 'bottom_right', 'top_left', 'top_right'])
    """
    _check_numbers(draws, neighbours, odds_ratio)
    _check_cases(model, cohort)
    if plausible not in (True, False, "share", "paper"):
        raise UnknownNameError("kind of plausible labels", str(plausible), ("share", "paper"))
    names = model.schema.names
    asked = names if vary == "missing" else ([vary] if isinstance(vary, str) else list(vary))
    model.schema.check_names(list(asked))
    source = completions_of(
        model, cohort, completions=completions, train=train, neighbours=neighbours, draws=draws, seed=seed
    )
    kind = "share" if plausible is True else plausible
    work = _Work(model, source, tuple(asked), kind if model.schema.task.is_classification else False, odds_ratio)
    parts = work.over(cohort, draws, progress)
    columns = {key: np.concatenate([part.columns[key] for part in parts]) for key in parts[0].columns}
    observed = columns["observed"]
    return Impact(
        ids=cohort.ids,
        names=names,
        observed=observed,
        task=model.schema.task,
        prediction=columns["prediction"],
        variability=columns["variability"],
        standard_error=columns["error"],
        normalised=columns["normalised"],
        per_modality={name: columns[f"next {name}"] for name in names},
        per_modality_error={name: columns[f"next error {name}"] for name in names},
        if_last={name: columns[f"last {name}"] for name in names},
        shares={name: columns[f"share {name}"] for name in names},
        gap=columns["gap"],
        by_label=columns.get("by label"),
        label_shares=columns.get("label shares"),
        interval=columns.get("interval"),
        ranges=columns.get("ranges"),
        sensitivity=columns.get("sensitivity"),
        plausible_labels=_joined([part.labels for part in parts if part.labels is not None]),
        promised_labels=_promised(model, columns["prediction"], calibration, coverage),
        draws=source.number,
        how=source.how,
        notes=(
            *notes_on_cohort(model.schema, cohort, observed),
            *notes_on_donors(source, observed),
            *notes_on_gap(columns["gap"], model, source),
            *dict.fromkeys(note for part in parts for note in part.notes),
            *notes_on_task(model.schema.task, draws, source, odds_ratio),
        ),
    )


def _check_cases(model: Predictor, cohort: Cohort) -> None:
    check_inputs(model, cohort)
    if not len(cohort):
        raise DataError("there are no cases to take the impact of", expected="at least one")


def _check_numbers(draws: int, neighbours: int, odds_ratio: float | None) -> None:
    check_count("draws", draws)
    check_count("neighbours", neighbours)
    check_odds_ratio(odds_ratio)


@dataclass
class _Part:
    columns: dict[str, np.ndarray]
    labels: PlausibleLabels | None
    notes: list[str] = field(default_factory=list)


@dataclass
class _Work:
    """Impact of one batch at a time."""

    model: Predictor
    source: Completions
    asked: tuple[str, ...]
    plausible: bool | str
    odds_ratio: float | None

    def over(self, cohort: Cohort, draws: int, progress: bool) -> list[_Part]:
        """The parts of a cohort, batch by batch."""
        parts: list[_Part] = []
        with inference(self.model.method), progress_bar("impact", quiet=not progress) as tell:
            for batch in self.model.batches(cohort, chunk_of(self.model, draws), check_levels=True):
                refuse_empty(self.model, batch)
                parts.append(self.of_batch(batch))
                if tell is not None:
                    tell(sum(len(part.columns["variability"]) for part in parts), len(cohort))
        return parts

    def of_batch(self, batch: Batch) -> _Part:
        """All columns of a batch, pattern by pattern."""
        task, notes = self.model.schema.task, []
        columns = {
            "observed": batch.presence.cpu().numpy(),
            **{key: np.zeros(len(batch)) for key in ("variability", "error", "gap")},
            "normalised": np.full(len(batch), np.nan),
            **{f"{what} {name}": np.full(len(batch), np.nan) for name in batch.modalities
               for what in ("next", "next error", "last", "share")},
        }  # fmt: skip
        labels: list[tuple[Tensor, PlausibleLabels]] = []
        for rows, part, missing in by_pattern(batch):
            found, law = self._of_pattern(part, missing)
            notes += law.notes if law is not None else ()
            predictions, weights = found.pop("whole"), found.pop("weights")
            found |= self._further(predictions, weights, self.source.change_scale(missing) if missing else 1.0)
            present = found.pop("present")
            found["prediction"] = present[:, 0] if task.traits.one_value else present
            for key, value in found.items():
                array = to_numpy(value)
                columns.setdefault(key, np.full((len(batch), *array.shape[1:]), np.nan))[rows.cpu().numpy()] = array
            if self.plausible:
                labels.append((rows, self._labels(predictions, weights, present)))
        return _Part(columns, _in_order(labels, len(batch)), notes)

    def _of_pattern(self, batch: Batch, missing: tuple[str, ...]) -> tuple[dict[str, Tensor], Law | None]:
        """Numbers of cases that lack the same modalities."""
        kind, present = self.model.schema.task.traits, predictions_of(self.model, batch)
        if not missing:
            if isinstance(self.source, OwnCompletions):
                whole = self.source.predictions(self.source.everything(batch), batch)
            else:
                whole = present[None]
            weights = torch.full_like(whole[..., 0], 1.0 / len(whole))
            value, error = expected_change(whole, weights, kind)
            error = torch.zeros_like(error) if not isinstance(self.source, OwnCompletions) else error
            gap = distance(weighted_mean(whole, weights), present, kind)
            found = {"present": present, "whole": whole, "weights": weights, "error": error, "gap": gap}
            return found | self._bounded(value, present), None
        law = self.source.law(batch, missing, present)
        whole, weights = law.after(missing)
        value, error = (self.source.change_scale(missing) * part for part in expected_change(whole, weights, kind))
        found = {"present": present, "whole": whole, "weights": weights, "error": error, "gap": law.gap}
        found |= self._bounded(value, present)
        if not isinstance(self.source, OwnCompletions) or self.source.by_modality:
            found |= self._by_modality(batch, missing, law, found)
        return found, law

    def _bounded(self, value: Tensor, present: Tensor) -> dict[str, Tensor]:
        """V and V over its bound."""
        if not self.model.schema.task.is_classification:
            return {"variability": value}
        bound = (1.0 - present.double().square().sum(-1)).clamp(min=0.0)
        value = torch.minimum(value.double(), bound)
        return {"variability": value, "normalised": torch.where(bound > 1e-9, value / bound.clamp(min=_TINY), 0.0)}

    def _by_modality(
        self, batch: Batch, missing: tuple[str, ...], whole: Law, found: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Expected change by each modality if it is looked at next, and last, and its share of V."""
        kind, total, present = self.model.schema.task.traits, found["variability"], found["present"]
        wanted, scale = [name for name in missing if name in self.asked], self.source.change_scale(missing)
        if not wanted:
            return {}
        if len(missing) == 1:
            name, error = missing[0], found["error"]
            return {f"{what} {name}": total for what in ("next", "last", "share")} | {f"next error {name}": error}
        values, columns = {(): torch.zeros_like(total), missing: total}, {}
        for name, law in looks_at(self.source, batch, missing if len(wanted) > 1 else wanted, present):
            change, error = (scale * part for part in expected_change(*law.after([name]), kind))
            values[(name,)] = torch.minimum(change.to(total), total)
            if name in wanted:
                columns[f"next {name}"], columns[f"next error {name}"] = values[(name,)], error
                columns[f"last {name}"] = scale * whole.last(name)[0]
        if len(missing) <= _MOST_SHARED and len(wanted) == len(missing):
            for chosen in subsets(missing):
                if chosen not in values:
                    change = scale * expected_change(*whole.after(chosen), kind)[0]
                    values[chosen] = torch.minimum(change.to(total), total)
            shares = shapley_shares({key: to_numpy(value) for key, value in values.items()}, missing)
            columns |= {f"share {name}": torch.from_numpy(share) for name, share in shares.items()}
        return columns

    def _further(self, predictions: Tensor, weights: Tensor, scale: float) -> dict[str, Tensor]:
        """Numbers of some tasks, and the range of V under an odds ratio."""
        kind, found = self.model.schema.task.traits, {}
        if kind.many_labels:
            found["by label"] = (scale * by_label(predictions, weights)).clamp(max=0.5)
            found["label shares"] = weighted_mean((predictions > 0.5).to(weights.dtype), weights)
        if kind.one_value:
            centre = weighted_mean(predictions, weights)
            found["interval"] = _quantiles((centre + scale * (predictions - centre))[..., 0], weights, (0.05, 0.95))
        elif predictions.shape[-1] <= _MOST_RANGES:
            centre = weighted_mean(predictions, weights)
            scaled = (centre + scale * (predictions - centre)).clamp(0.0, 1.0)
            ends = [_quantiles(one, weights, (0.05, 0.95)) for one in scaled.unbind(-1)]
            found["ranges"] = torch.stack(ends, dim=1)
        if self.odds_ratio is not None:

            def value(tilted: Tensor) -> Tensor:
                return scale * expected_change(predictions, tilted, kind)[0]

            units = self.model.scaling.target_scale
            ends = sensitivity_range(value, predictions, weights, self.odds_ratio, kind=kind, scale=units)
            found["sensitivity"] = torch.stack(ends, dim=1)
        return found

    def _labels(self, predictions: Tensor, weights: Tensor, present: Tensor) -> PlausibleLabels:
        if self.plausible == "share":
            return labels_by_share(predictions, weights, present=present)
        logits = predictions.clamp(min=torch.finfo(torch.float32).tiny).log()
        if float(effective_number(weights).min()) < len(weights) - 0.5:  # the mixture knows no weights: even draws
            even = (torch.arange(len(weights), device=weights.device) + 0.5) / len(weights)
            places = torch.searchsorted(
                weights.T.cumsum(1).contiguous(), even.expand(weights.shape[1], -1).contiguous()
            )
            index = places.clamp(max=len(weights) - 1).T[..., None].expand(-1, -1, logits.shape[-1])
            logits = logits.gather(0, index)
        return plausible_labels(logits)


def _quantiles(values: Tensor, weights: Tensor, at: tuple[float, ...]) -> Tensor:
    """Quantiles (B, q) of values (S, B) with weights (S, B)."""
    ordered, order = values.sort(0)
    reached = weights.gather(0, order).cumsum(0)
    places = [(reached < q - 1e-6).sum(0).clamp(max=len(values) - 1) for q in at]
    return torch.stack([ordered.gather(0, place[None])[0] for place in places], dim=1)


def _in_order(found: list[tuple[Tensor, PlausibleLabels]], n: int) -> PlausibleLabels | None:
    """Plausible labels of the parts of a batch, in the batch's order."""
    if not found:
        return None
    rows = np.concatenate([rows.cpu().numpy() for rows, _ in found])
    order = np.argsort(rows)
    joined = _joined([labels for _, labels in found])
    assert joined is not None
    assert len(rows) == n
    return PlausibleLabels([joined.labels[i] for i in order], joined.mass[order], joined.fraction[order])


def _joined(parts: list[PlausibleLabels]) -> PlausibleLabels | None:
    if not parts:
        return None
    labels = [labels for part in parts for labels in part.labels]
    mass, fraction = (np.concatenate([np.asarray(column) for column in columns]) for columns in
                      zip(*((part.mass, part.fraction) for part in parts)))  # fmt: skip
    return PlausibleLabels(labels, mass, fraction)


def _promised(
    model: Predictor, prediction: np.ndarray, calibration: Cohort | None, coverage: float
) -> list[tuple[int, ...]] | None:
    if calibration is None:
        return None
    check_inputs(model, calibration, "calibration cases")
    if not model.schema.task.is_classification:
        raise DataError(
            "sets of labels need classes", expected="a binary or multiclass task", got=model.schema.task.kind
        )
    if calibration.target is None or not calibration.labelled.any():
        raise DataError("the calibration cases have no target")
    calibration = calibration.take(calibration.labelled)
    assert calibration.target is not None
    of_calibration = model.predict(calibration, on_empty="silent")
    return conformal_labels(prediction, conformal_threshold(of_calibration, calibration.target, coverage))
