"""One training run: from a plan and a method to a trained model and its folder."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.batch import Batch
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.loader import make_loader
from amodal.errors import RunError
from amodal.method import EstimatedMethod, Method, SamplingMethod, inference
from amodal.predictive_impact.change_scale import change_scale
from amodal.processes import Processes, sharing_rows
from amodal.seeds import forked_rng, mix_seed
from amodal.settings import TrainingSettings
from amodal.training.copies import recalibration_of, training_copies, validation_copies
from amodal.training.data import TrainingData
from amodal.training.loggers import Logger, open_loggers
from amodal.training.loop import TrainingLoop
from amodal.training.optimisers import Optimisers
from amodal.training.state import STATE_FILE, TrainingState
from amodal.training.validation import monitored, part_validation_losses, validation_losses, warn_of_collapse

__all__ = ["Run"]


@dataclass
class Run:
    """One training run.

    Args:
        plan: Everything that decides it, as plain values.
        settings: How it is trained.
        method: The method, with its initial weights.
        data: Rows, scaling and presence.
        folder: Where it is written; None: nowhere.
    """

    plan: dict[str, Any]
    settings: TrainingSettings
    method: Method
    data: TrainingData
    folder: Path | None
    state: TrainingState = field(default_factory=TrainingState)
    loggers: Sequence[Logger] = ()

    def __post_init__(self) -> None:
        self.seed = int(self.plan["seed"])
        self.started = time.time()
        self.processes = Processes(torch.device("cpu"))

    @property
    def model(self) -> TrainedModel:
        """The method in its present state, as a model that can predict."""
        import pandas as pd

        return TrainedModel(
            method=self.method,
            schema=self.data.train.schema,
            scaling=self.data.scaling,
            prior=self.data.prior,
            experiment=self.plan,
            history=pd.DataFrame(self.state.history),
            presence=self.data.first_presence,
            folder=self.folder,
            training_cases=self.data.train,
        )

    def take_part(self, processes: Processes) -> None:
        """Trains in a process that is not the first: nothing is written, printed or returned."""
        with forked_rng(processes.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.train(processes)

    def train(self, processes: Processes, loggers: Sequence[str] = (), *, progress: bool = False) -> TrainedModel:
        """Trains the method by its own algorithm or by gradient steps, and finishes.

        Args:
            processes: The processes that train it.
            loggers: Names of loggers beside history.csv.
            progress: Whether to show a progress bar.

        Returns:
            The model with its best weights.
        """
        self.processes = processes
        with sharing_rows(processes):
            return self._train(loggers, progress)

    def _train(self, loggers: Sequence[str], progress: bool) -> TrainedModel:
        if isinstance(self.method, EstimatedMethod):
            self._estimate(self.method)
            losses = validation_losses(self.model, self.data)
            self.state.best[""] = (losses[f"valid_{self.settings.best_by}"], 0)
            self.state.history.append({"epoch": 1, **losses, "seconds": time.time() - self.started})
        else:
            for part in self.method.estimated_parts():
                self._estimate(part)
            names = {f"{part}.{k}": v for part in ("spec", "training") for k, v in self.plan[part].items()}
            first = self.processes.is_first
            self.loggers = open_loggers(loggers, self.folder, names | {"seed": self.seed}) if first else ()
            try:
                self._optimise(progress)
            finally:
                for logger in self.loggers:
                    logger.close()
        self._remember()
        self._adjust()
        return self._finish()

    def _estimate(self, method: EstimatedMethod) -> None:
        """Fits an `EstimatedMethod` in one call."""
        by_objective = self.plan["missingness"]["by_objective"]
        train = training_copies(self.data, method.redraws, meets_all_patterns=by_objective)
        train = [rows if rows.labelled.all() else rows.take(rows.labelled) for rows in train]
        valid = [rows for rows in self._validation_copies() if len(rows)]
        generator = torch.Generator().manual_seed(mix_seed(self.seed, 0, 2))
        train_batches, valid_batches = ([self.data.whole(rows) for rows in part] for part in (train, valid))
        method.estimate(train_batches, valid_batches, generator)

    def _optimise(self, progress: bool) -> None:
        """Trains by gradient steps, from the stored state if there is one."""
        data = self.data
        torch.manual_seed(mix_seed(self.seed, 0, 1))
        self.method.prepare(data.scaling.apply(b) for b in make_loader(data.rows_of(0), data.batch_size))
        stored = {} if self.folder is None else self.state.load(self.folder, self.method)
        first = len(self.state.history)
        if self.processes.agree([first]) != [first]:
            raise RunError(f"another process does not see the stored state in {self.folder}", hint="Nodes share `out`.")
        if first < self.settings.epochs and not self.state.is_out_of_patience(self.settings.patience):
            loop = TrainingLoop(self.method, data, self.processes, stored)
            loop.run_epochs(first, self.end_epoch, progress=progress)
        self.state.restore_best(self.method)

    def end_epoch(self, row: dict[str, float], optimisers: Optimisers) -> tuple[dict[str, float], bool]:
        """Validates, keeps the best weights, and stores the state; see `EndEpoch`."""
        with optimisers.averaged():
            self._remember()  # what is validated is what will predict
            model = self.model
            losses = self._agreed(validation_losses(model, self.data))
            self.state.history.append(
                {**row, **losses, **monitored(model, self.data), "seconds": time.time() - self.started}
            )
            if self.processes.is_first:
                warn_of_collapse(self.state.history)
            judged = {"": losses[f"valid_{self.settings.best_by}"]}
            self.state.keep_best(self.method, self._agreed(part_validation_losses(model, self.data)) or judged)
        if self.folder is not None and self.processes.is_first:
            self.state.save(self.folder, self.plan, self.method, optimisers)
        whole = self.state.history[-1]
        for logger in self.loggers:
            logger.log({k: v for k, v in whole.items() if k != "epoch"}, int(row["epoch"]))
        limit = self.settings.time_limit
        late = limit is not None and self.processes.agree([time.time() - self.started])[0] > limit
        return whole, late or self.state.is_out_of_patience(self.settings.patience)

    def _agreed(self, losses: dict[str, float]) -> dict[str, float]:
        """The first process's losses, so that all keep the same weights and stop in the same epoch."""
        return dict(zip(losses, self.processes.agree(list(losses.values()))))

    def _remember(self) -> None:
        """Lets the method store what its predictions need of the training rows."""
        self.method.to(self.processes.device).eval()
        data, device = self.data, self.processes.device
        with torch.no_grad():
            rows = make_loader(data.train, data.batch_size, scaling=data.scaling)
            self.method.remember(batch.take(batch.presence.any(1)).to(device) for batch in rows)

    def _validation_copies(self) -> list[Cohort]:
        return validation_copies(self.data, meets_all_patterns=self.plan["missingness"]["by_objective"])

    def _adjust(self) -> None:
        """Lets the method choose what it chooses by the validation rows."""
        with inference(self.method):
            self.method.adjust(_CountedRows(self.model, self._validation_copies(), self.data.valid_weight))

    def _loss_of_best(self) -> float:
        """The validation loss of the weights that are kept."""
        if "" not in self.state.best:  # a method of sub-models, whose best epochs differ
            return validation_losses(self.model, self.data)["valid_loss"]
        value, epoch = self.state.best[""]
        return value if self.settings.best_by == "loss" else self.state.history[epoch - 1]["valid_loss"]

    def _finish(self) -> TrainedModel:
        """The model with its best weights, its record complete, its folder written."""
        from amodal.versions import versions

        loss_of_best = self._loss_of_best()
        data, epochs = self.data, len(self.state.history)
        self.plan["result"] = {
            "epochs": epochs,
            "steps": self.method.clock.step,
            "best_epoch": self.state.best_epoch,
            "best_valid_loss": loss_of_best if math.isfinite(loss_of_best) else None,
            "parameters": sum(p.numel() for p in self.method.parameters()),
            "batch_size": data.batch_size,
            "seconds": round(time.time() - self.started, 1),
        }
        self.plan["presence"] = {
            "train": {"rates": data.first_presence.rates, "hash": data.first_presence.hash},
            "valid": {"rates": data.valid_presence.rates, "hash": data.valid_presence.hash},
        }
        self.plan["versions"] = versions()
        model = self.model
        if self.settings.recalibrate:
            model.recalibration = recalibration_of(model, data, self._validation_copies())
            if model.recalibration is not None:
                self.plan["recalibration"] = model.recalibration.to_json()
        if isinstance(self.method, SamplingMethod) and self.method.draws_mean == "completions":
            self.plan["result"]["change_scale"] = change_scale(model, data.valid, data.valid_rows.observed)
        if self.folder is not None and self.processes.is_first:
            model.write_into(self.folder)
            (self.folder / STATE_FILE).unlink(missing_ok=True)
        return model


@dataclass
class _CountedRows:
    """Batches of validation rows under several presences, with how much each row counts; see `Method.adjust`."""

    model: TrainedModel
    copies: list[Cohort]
    weight: np.ndarray | None

    def __iter__(self) -> Iterator[tuple[Batch, torch.Tensor]]:
        for cohort in self.copies:
            weight = np.ones(len(cohort)) if self.weight is None else self.weight
            counted = torch.from_numpy(weight / len(self.copies)).float()
            seen, done = np.flatnonzero(cohort.observed.any(axis=1)), 0
            for batch in self.model.batches(cohort, 1024, seen):
                yield batch, counted[seen[done : done + len(batch)]].to(batch.device)
                done += len(batch)
