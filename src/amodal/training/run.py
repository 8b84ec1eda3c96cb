"""One training run: from a plan and a method to a trained model and its folder."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from amodal.checkpoint import TrainedModel
from amodal.data.loader import make_loader
from amodal.errors import RunError
from amodal.method import EstimatedMethod, Method, SamplingMethod
from amodal.predictive_impact.recalibration import change_scale
from amodal.processes import Processes, sharing_rows
from amodal.seeds import forked_rng, mix_seed
from amodal.settings import TrainingSettings
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
        else:
            names = {f"{part}.{k}": v for part in ("spec", "training") for k, v in self.plan[part].items()}
            first = self.processes.is_first
            self.loggers = open_loggers(loggers, self.folder, names | {"seed": self.seed}) if first else ()
            try:
                self._optimise(progress)
            finally:
                for logger in self.loggers:
                    logger.close()
        self._remember()
        return self._finish()

    def _estimate(self, method: EstimatedMethod) -> None:
        """Fits an `EstimatedMethod` in one call."""
        data = self.data
        draws = [data.whole(data.rows_of(i)) for i in range(method.redraws if data.is_redrawn else 1)]
        generator = torch.Generator().manual_seed(mix_seed(self.seed, 0, 2))
        method.estimate(draws, data.whole(data.valid_rows), generator)
        losses = validation_losses(self.model, data)
        self.state.best[""] = (losses[f"valid_{self.settings.best_by}"], 0)
        self.state.history.append({"epoch": 0, **losses, "seconds": time.time() - self.started})

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
        return whole, self.state.is_out_of_patience(self.settings.patience)

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

    def _loss_of_best(self) -> float:
        """The validation loss of the weights that are kept."""
        if "" not in self.state.best:  # a method of sub-models, whose best epochs differ
            return validation_losses(self.model, self.data)["valid_loss"]
        value, epoch = self.state.best[""]
        return value if self.settings.best_by == "loss" else self.state.history[epoch]["valid_loss"]

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
        method = self.method
        if isinstance(method, SamplingMethod) and method.draws_mean == "completions":
            rows = data.valid_rows
            self.plan["result"]["change_scale"] = change_scale(self.model, data.valid, rows.observed)
        self.plan["presence"] = {
            "train": {"rates": data.first_presence.rates, "hash": data.first_presence.hash},
            "valid": {"rates": data.valid_presence.rates, "hash": data.valid_presence.hash},
        }
        self.plan["versions"] = versions()
        model = self.model
        if self.folder is not None and self.processes.is_first:
            model.write_into(self.folder)
            (self.folder / STATE_FILE).unlink(missing_ok=True)
        return model
