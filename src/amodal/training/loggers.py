"""Loggers in addition to history.csv: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amodal.errors import ConfigurationError, UnknownNameError

__all__ = ["LOGGERS", "Logger", "open_loggers"]


class Logger(ABC):
    """One run's record in another program.

    Args:
        folder: Folder of the run.
        settings: What decides the run, as flat names and plain values.
    """

    @abstractmethod
    def __init__(self, folder: Path, settings: Mapping[str, Any]): ...

    @abstractmethod
    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Records the numbers of one epoch."""

    @abstractmethod
    def close(self) -> None:
        """Ends the record."""


class TensorBoard(Logger):
    """Event files in `tensorboard/` below the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.writer.add_text("settings", json.dumps(dict(settings), indent=1, default=str))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Records the numbers of one epoch."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Ends the record."""
        self.writer.close()


class MLflow(Logger):
    """A run in the store that MLFLOW_TRACKING_URI names, or in `mlflow.db` below the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        import os

        from mlflow.tracking import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self.client = MlflowClient(place)
        experiment = self.client.get_experiment_by_name("amodal")
        identifier = experiment.experiment_id if experiment else self.client.create_experiment("amodal")
        self.run = self.client.create_run(identifier, run_name=folder.name).info.run_id
        for name, value in settings.items():
            self.client.log_param(self.run, name, value)

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Records the numbers of one epoch."""
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=epoch)

    def close(self) -> None:
        """Ends the record."""
        self.client.set_terminated(self.run)


class WeightsAndBiases(Logger):
    """A run of the project that WANDB_PROJECT names, or of "amodal"; files in `wandb/` below the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        import os

        import wandb

        project = os.environ.get("WANDB_PROJECT", "amodal")
        self.run = wandb.init(project=project, name=folder.name, dir=str(folder), config=dict(settings))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Records the numbers of one epoch."""
        self.run.log(dict(values), step=epoch)

    def close(self) -> None:
        """Ends the record."""
        self.run.finish()


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


def open_loggers(names: Sequence[str], folder: Path | None, settings: Mapping[str, Any]) -> list[Logger]:
    """Opens loggers by name.

    Raises:
        UnknownNameError: If a logger is not known.
        ConfigurationError: If there is no folder, or a logger is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise UnknownNameError("logger", name, LOGGERS)
    if names and folder is None:
        raise ConfigurationError("loggers need a folder", hint="Pass out=…")
    opened: list[Logger] = []
    for name in names:
        assert folder is not None
        try:
            opened.append(LOGGERS[name](folder, settings))
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"the logger {name!r} is not installed: {error.name}", hint="pip install 'amodal[track]'"
            ) from error
    return opened
