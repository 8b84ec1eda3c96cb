"""One training run: its data, its state on disk, its validation and the best weights so far."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.checkpoint import TrainedModel, build_method
from amodal.data.cohort import Cohort
from amodal.data.loader import make_loader
from amodal.data.scale import Scaling
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.files import replace_file
from amodal.losses.task import prediction_error, prediction_loss
from amodal.method import EstimatedMethod, Method, inference
from amodal.metrics.monitor import representation_numbers, signs_of_collapse
from amodal.missingness import Mechanism, Natural, Presence
from amodal.removal import draw_presence
from amodal.schema import TaskKind
from amodal.training.settings import TrainingSettings

__all__ = ["Run", "forked_rng", "mix_seed", "process_rank", "training_prior"]

STATE_FILE = "training_state.safetensors"


@dataclass
class Run:
    """One training run: what it was given, and what it has reached."""

    plan: dict[str, Any]
    settings: TrainingSettings
    train: Cohort
    valid: Cohort
    train_mechanism: Mechanism
    valid_mechanism: Mechanism
    device: torch.device
    folder: Path | None
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Lowest validation loss (or error) and its epoch: of the whole method under "", or of each sub-model's prefix."""
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seed = int(self.plan["seed"])
        self.started = time.time()
        self.scaling = Scaling.fit(self.train)
        self.prior = training_prior(self.train)
        self.valid_presence = draw_presence(self.valid_mechanism, self.valid, (self.seed, 1))
        self.valid_rows = self.valid.with_observed(self.valid_presence.observed)
        self.first_presence = self.presence_of(0)
        self.scores = self.train.scores() if self.train_mechanism.needs_scores else None
        with forked_rng(self.device):
            torch.manual_seed(mix_seed(self.seed, 0, 0))
            self.method: Method = build_method(self.plan["spec"], self.train.schema)
        self.batch_size = self.settings.batch_size or int(
            min(256, max(16, 2 ** round(math.log2(len(self.train) / 30))))
        )

    @property
    def model(self) -> TrainedModel:
        """The method in its present state, as a model that can predict."""
        import pandas as pd

        return TrainedModel(
            method=self.method,
            schema=self.train.schema,
            scaling=self.scaling,
            prior=self.prior,
            experiment=self.plan,
            history=pd.DataFrame(self.history),
            presence=self.first_presence,
            folder=self.folder,
            training_cases=self.train,
        )

    def presence_of(self, epoch: int) -> Presence:
        """Presence of the training rows in an epoch."""
        return draw_presence(self.train_mechanism, self.train, (self.seed, 0, epoch if self.settings.redraw else 0))

    def rows_of(self, epoch: int) -> Cohort:
        """The training rows as they are in an epoch."""
        return self.train.with_observed(self.presence_of(epoch).observed)

    # By an algorithm of the method's own ---------------------------------------------------------------------------

    def estimate(self) -> None:
        """Fits an `EstimatedMethod` in one call."""
        assert isinstance(self.method, EstimatedMethod)
        redrawn = self.settings.redraw and not isinstance(self.train_mechanism, Natural)
        draws = [self._whole(self.rows_of(i)) for i in range(self.method.redraws if redrawn else 1)]
        self.method.estimate(
            draws, self._whole(self.valid_rows), torch.Generator().manual_seed(mix_seed(self.seed, 0, 2))
        )
        found = self.validation()
        self.best[""] = (found[f"valid_{self.settings.best_by}"], 0)
        self.history.append({"epoch": 0, **found, "seconds": time.time() - self.started})

    def _whole(self, cohort: Cohort) -> Batch:
        seen = np.flatnonzero(cohort.observed.any(axis=1))
        return self.scaling.apply(cohort.batch(seen))

    # By gradients ----------------------------------------------------------------------------------------------------

    def optimise(self, loggers: tuple[str, ...], progress: bool) -> None:
        """Trains by gradient steps, from the stored state if there is one."""
        import lightning.pytorch as pl
        from lightning.pytorch.plugins.environments import LightningEnvironment

        from amodal.training.loop import LoopModule

        torch.manual_seed(mix_seed(self.seed, 0, 1))
        self.method.prepare(self.scaling.apply(b) for b in make_loader(self.rows_of(0), self.batch_size))
        first_epoch, optimiser_state = self.load_state()
        if first_epoch < self.settings.epochs and not self.out_of_patience:
            module = LoopModule(self, optimiser_state, progress)
            with _quiet_lightning():
                many = self.settings.devices * self.settings.nodes > 1
                trainer = pl.Trainer(
                    accelerator="gpu" if self.device.type == "cuda" else self.device.type,
                    devices=self.settings.devices,
                    num_nodes=self.settings.nodes,
                    strategy="ddp_find_unused_parameters_true" if many else "auto",
                    plugins=None if many else [LightningEnvironment()],  # not the scheduler's, see process_rank
                    precision=self.settings.precision,  # type: ignore[arg-type]
                    max_epochs=self.settings.epochs,
                    logger=_loggers(loggers, self.folder),
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    use_distributed_sampler=False,
                    reload_dataloaders_every_n_epochs=1,
                    num_sanity_val_steps=0,
                )
                for stage in ("ready", "started", "processed", "completed"):  # epochs are counted over interruptions
                    setattr(trainer.fit_loop.epoch_progress.current, stage, first_epoch)
                trainer.fit(module)
        if self.best_state:
            self.method.load_state_dict({**self.method.state_dict(), **self.best_state})

    @property
    def best_epoch(self) -> int:
        """The last epoch in which the validation loss (of any sub-model) improved; -1 before any did."""
        return max((epoch for _, epoch in self.best.values()), default=-1)

    @property
    def out_of_patience(self) -> bool:
        """Whether the validation loss has not improved for `patience` epochs."""
        done = len(self.history)
        return self.settings.patience is not None and done > 0 and done - 1 - self.best_epoch >= self.settings.patience

    def end_epoch(self, row: dict[str, float], optimisers: Sequence[torch.optim.Optimizer] | None) -> None:
        """Validates, remembers the best weights, and (given the optimisers) stores the state."""
        found = self.validation()
        row = {**row, **found, **self.monitored()}
        self.history.append({**row, "seconds": time.time() - self.started})
        self._warn_of_collapse()
        judged = {"": found[f"valid_{self.settings.best_by}"]}
        for prefix, value in (self.part_validation_losses() or judged).items():
            if math.isfinite(value) and value < self.best.get(prefix, (math.inf, -1))[0]:
                self.best[prefix] = (value, len(self.history) - 1)
                state = self.method.state_dict()
                self.best_state |= {k: v.detach().cpu().clone() for k, v in state.items() if k.startswith(prefix)}
        if optimisers is not None:
            self.save_state(optimisers)

    def monitored(self) -> dict[str, float]:
        """Whether representations collapse, and what the method watches itself, on the first validation rows."""
        seen = np.flatnonzero(self.valid_rows.observed.any(axis=1))[:256]
        with inference(self.method):
            for batch in self.model.batches(self.valid_rows, 256, seen):
                watched = self.method.representations(batch)
                numbers = [representation_numbers(name, *vectors) for name, vectors in watched.items()]
                return {k: v for part in numbers for k, v in part.items()} | self.method.monitor(batch)
        return {}

    def _warn_of_collapse(self) -> None:
        before = len(signs_of_collapse(self.history[:-1]))
        for sign in signs_of_collapse(self.history) if not before else ():
            warnings.warn(f"epoch {len(self.history) - 1}: {sign}", UserWarning, stacklevel=2)

    def part_validation_losses(self) -> dict[str, float]:
        """Mean validation loss of each independent sub-model, under natural presence; empty for most methods."""
        sums: dict[str, list[float]] = {}
        seen = np.flatnonzero(self.valid.observed.any(axis=1))
        with inference(self.method):
            for batch in self.model.batches(self.valid, 1024, seen):
                parts = self.method.part_losses(batch)
                if not parts:
                    break
                for prefix, losses in parts.items():
                    entry = sums.setdefault(prefix, [0.0, 0.0])
                    entry[0] += float(losses.double().sum())
                    entry[1] += len(losses)
        return {prefix: total / count for prefix, (total, count) in sums.items() if count}

    def validation(self) -> dict[str, float]:
        """Mean task loss of the validation rows under their fixed presence, in the scaled units of training.

        Where the best weights go by it, the share of wrong predictions too.
        """
        seen = np.flatnonzero(self.valid_rows.observed.any(axis=1)) if not self.method.accepts_empty else None
        judges: dict[str, Callable[[Tensor, Tensor, TaskKind], Tensor]] = {"valid_loss": prediction_loss}
        if self.settings.best_by == "error":
            judges["valid_error"] = prediction_error
        totals, count = dict.fromkeys(judges, 0.0), 0
        with inference(self.method):
            for batch in self.model.batches(self.valid_rows, 1024, seen):
                assert batch.target is not None
                predicted = self.method.predict(batch).float()
                for name, judge in judges.items():
                    totals[name] += float(judge(predicted, batch.target, self.train.schema.task.kind).double().sum())
                count += len(batch)
        return {name: total / max(count, 1) for name, total in totals.items()}

    def save_state(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        """Writes everything that resuming needs into one file, atomically, and the history beside it."""
        import pandas as pd
        from safetensors.torch import save_file

        if self.folder is None:
            return
        tensors = {f"method.{k}": v.detach().cpu().clone() for k, v in self.method.state_dict().items()}
        tensors |= {f"best.{k}": v.clone() for k, v in self.best_state.items()}
        for i, optimiser in enumerate(optimisers):
            for j, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{i}.{j}.{k}": torch.as_tensor(v).cpu().clone() for k, v in state.items()}
        summary = {
            "plan": json.dumps(self.plan, sort_keys=True),
            "history": json.dumps(self.history),
            "best": json.dumps(self.best),
        }
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}  # some weights are channels-last
        replace_file(self.folder / STATE_FILE, lambda path: save_file(tensors, path, metadata=summary))
        replace_file(self.folder / "history.csv", lambda path: pd.DataFrame(self.history).to_csv(path, index=False))

    def load_state(self) -> tuple[int, dict[str, torch.Tensor]]:
        """Reads what `save_state` wrote: the next epoch and the optimisers' tensors; (0, {}) where there is nothing."""
        from safetensors import safe_open

        if self.folder is None or not (self.folder / STATE_FILE).is_file():
            return 0, {}
        with safe_open(self.folder / STATE_FILE, framework="pt") as stored:
            summary = stored.metadata()
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        self.history = json.loads(summary["history"])
        self.best = {prefix: (loss, epoch) for prefix, (loss, epoch) in json.loads(summary["best"]).items()}
        self.best_state = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.method.load_state_dict(
            {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
        )
        optimiser = {k.removeprefix("optimiser."): v for k, v in tensors.items() if k.startswith("optimiser.")}
        return len(self.history), optimiser

    def _loss_of_best(self) -> float:
        """The validation loss of the weights that are kept."""
        if "" not in self.best:  # a method of sub-models, whose best epochs differ
            return self.validation()["valid_loss"]
        value, epoch = self.best[""]
        return value if self.settings.best_by == "loss" else self.history[epoch]["valid_loss"]

    def finish(self) -> TrainedModel:
        """The model with its best weights, its record complete, its folder written."""
        from amodal.versions import versions

        self.method.to(self.device).eval()
        loss_of_best = self._loss_of_best()
        self.plan["result"] = {
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "best_valid_loss": loss_of_best if math.isfinite(loss_of_best) else None,
            "parameters": sum(p.numel() for p in self.method.parameters()),
            "batch_size": self.batch_size,
            "seconds": round(time.time() - self.started, 1),
        }
        self.plan["presence"] = {
            "train": {"rates": self.first_presence.rates, "hash": self.first_presence.hash},
            "valid": {"rates": self.valid_presence.rates, "hash": self.valid_presence.hash},
        }
        self.plan["versions"] = versions()
        model = self.model
        if self.folder is not None and process_rank(self.settings.devices * self.settings.nodes) == 0:
            model.write_into(self.folder)
            (self.folder / STATE_FILE).unlink(missing_ok=True)
        return model


def training_prior(train: Cohort) -> np.ndarray:
    """What is predicted when nothing is known: class frequencies, label frequencies, or the mean target (1,)."""
    task, target = train.schema.task, train.target
    assert target is not None
    if task.is_classification:
        return np.bincount(target, minlength=task.n_outputs) / len(target)
    if task.kind == "multilabel":
        return np.nan_to_num(np.nanmean(target, axis=0), nan=0.5)
    return np.array([target.mean()], dtype=np.float64)


def process_rank(processes: int) -> int:
    """Rank of this process among those that train one model together.

    A model that one process trains has rank 0, whatever a scheduler has written into the environment: many such fits
    run next to each other under `srun` or `torchrun`, and each writes its own run.

    Args:
        processes: How many train the model together.
    """
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if processes > 1 else ():
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 0


def mix_seed(seed: int, epoch: int, step: int) -> int:
    """One 63-bit seed from three integers."""
    return int(np.random.SeedSequence([abs(int(seed)), epoch, step]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Leaves torch's global generators as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else ()):
        yield


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's advice about loaders and loggers is not for our users."""
    import logging

    names = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda")
    levels = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", module="torch.utils.data.*")
            yield
    finally:
        for name, level in zip(names, levels):
            logging.getLogger(name).setLevel(level)


def _loggers(names: tuple[str, ...], folder: Path | None) -> list[Any] | bool:
    from lightning.pytorch import loggers

    known = {"tensorboard": loggers.TensorBoardLogger, "mlflow": loggers.MLFlowLogger, "wandb": loggers.WandbLogger}
    for name in names:
        if name not in known:
            raise UnknownNameError("logger", name, known)
    if names and folder is None:
        raise ConfigurationError("loggers need a folder", hint="Pass out=…")
    try:
        made = []
        for name in names:
            place = {"tracking_uri": f"file:{folder}/mlflow"} if name == "mlflow" else {"save_dir": str(folder)}
            made.append(known[name](**place))
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a logger is not installed: {error.name}", hint="pip install 'amodal[track]'"
        ) from error
    return made or False
