"""The training loop: epochs of steps, validation after each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.loader import make_loader
from amodal.errors import RunError
from amodal.method import Clock, LossTerms, Method
from amodal.processes import Processes
from amodal.seeds import mix_seed
from amodal.training.data import TrainingData
from amodal.training.optimisers import Optimisers, learning_rate_factor
from amodal.training.step import Precision, training_step

__all__ = ["EndEpoch", "TrainingLoop"]

EndEpoch = Callable[[dict[str, float], Optimisers], tuple[dict[str, float], bool]]
"""An epoch's losses and the optimisers, to its whole row of the history and whether there is enough."""


class TrainingLoop:
    """Steps a method's optimisers through the epochs that are left of a run.

    Every step's noise (the method's generator, and torch's global one for dropout) is seeded by run, epoch and step,
    so that a resumed run goes exactly as an uninterrupted one.

    Args:
        method: The method.
        data: The training rows.
        processes: The processes that train it.
        optimiser_state: Stored tensors of the optimisers, or none.
    """

    def __init__(self, method: Method, data: TrainingData, processes: Processes, optimiser_state: Mapping[str, Tensor]):
        self.method, self.data, self.settings, self.processes = method, data, data.settings, processes
        self.device = processes.device
        self.precision = Precision(self.settings.precision, self.device)
        self.method.to(self.device)
        self.optimisers = Optimisers(method, self.settings)
        self.optimisers.restore(optimiser_state)
        self.sums: dict[str, Tensor] = {}

    def run_epochs(self, first: int, end_epoch: EndEpoch, *, progress: bool) -> None:
        """Trains from an epoch to the last, or until there is enough.

        Args:
            first: The epoch to begin with.
            end_epoch: Called after each epoch with its mean losses; validates and stores.
            progress: Whether to show a progress bar.

        Raises:
            RunError: If the weights are no finite numbers any more.
        """
        shown = progress and self.processes.is_first
        with _progress_bar(self.settings.epochs) if shown else nullcontext() as bar:
            for epoch in range(first, self.settings.epochs):
                row = self._epoch(epoch)
                with self.precision.autocast():
                    row, enough = end_epoch(row, self.optimisers)
                if bar is not None:
                    bar(row)
                if enough:
                    break

    def _epoch(self, epoch: int) -> dict[str, float]:
        """All steps of one epoch; their mean losses."""
        loader = make_loader(
            self.data.rows_of(epoch),
            self.data.batch_size,
            scaling=self.data.scaling,
            shuffle=True,
            seed=self.data.seed,
            epoch=epoch,
            workers=self.settings.workers,
            pin_memory=self.device.type == "cuda",
            labelled_share=self.settings.labelled_share,
        )
        steps = len(loader)
        clock = Clock(epoch * steps, epoch, self.settings.epochs * steps, self.settings.epochs)
        self.method.clock = clock
        self.method.train()
        self.method.begin_epoch()
        self.optimisers.refresh()
        for index, batch in enumerate(loader):
            self.method.clock = Clock(clock.step + index, epoch, clock.steps, clock.epochs)
            self._step(self._ready(batch), epoch, index)
        self.method.clock = Clock(clock.step + steps, epoch, clock.steps, clock.epochs)
        self.processes.share_buffers(self.method)
        row: dict[str, float] = {"epoch": epoch + 1}
        for key, entry in self.sums.items():
            row[key] = float(entry[0] / entry[1])
        self.sums = {}
        self._require_finite(epoch, row)
        return row

    def _ready(self, batch: Batch) -> Batch:
        """A batch of the loader on the device, with all that a step would wait for found on the CPU."""
        if not self.method.accepts_empty and not batch.presence.any(1).all():
            batch = batch.take(batch.presence.any(1))
        return batch.prepared().to(self.device, non_blocking=True)

    def _step(self, batch: Batch, epoch: int, index: int) -> None:
        """One batch."""
        seed = mix_seed(self.data.seed, epoch + 1, index)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # as torch.manual_seed, which also notes a traceback every time
        else:
            torch.manual_seed(seed)
        clock = self.method.clock
        self.optimisers.set_learning_rates(learning_rate_factor(self.settings, clock.step, clock.steps))
        losses = training_step(
            self.method,
            self.optimisers,
            batch,
            torch.Generator(self.device).manual_seed(seed),
            clip=self.settings.clip,
            precision=self.precision,
            processes=self.processes,
        )
        self.optimisers.move_average(clock.step)
        self._add(losses, len(batch))

    def _add(self, losses: Mapping[str, LossTerms], n: int) -> None:
        """Adds a batch's losses to the epoch's sums: "train_loss" and each term; by name for several optimisers."""
        whole = torch.stack([terms.total.detach().float() for terms in losses.values()]).sum()
        parts = {"train_loss": whole}
        for name, terms in losses.items():
            prefix = "" if len(losses) == 1 else f"{name}."
            parts |= {f"{prefix}train_{key}": value for key, value in terms.terms.items()}
            if prefix:
                parts[f"{prefix}train_loss"] = terms.total
        for key, value in parts.items():
            entry = torch.stack([value.detach().float() * n, value.new_full((), float(n), dtype=torch.float32)])
            self.sums[key] = self.sums.get(key, 0) + entry

    def _require_finite(self, epoch: int, row: Mapping[str, float]) -> None:
        """Ends a training whose weights are no numbers any more, before they replace what is stored."""
        bad = [key.removeprefix("train_") for key, value in row.items() if not math.isfinite(value)]
        if not bad or all(bool(torch.isfinite(p).all()) for p in self.method.parameters()):
            return  # a loss alone may overflow in half precision; its step is then left out
        raise RunError(
            f"training has diverged in epoch {epoch + 1}",
            expected="finite losses and weights",
            got=f"not finite: {', '.join(sorted(bad))}",
            hint="Lower learning_rate, set clip, or use precision '32-true'. What earlier epochs stored is kept.",
        )


@contextmanager
def _progress_bar(epochs: int) -> Iterator:
    """One line: epochs done, losses, time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(TextColumn("training"), *columns) as bar:
        task = bar.add_task("", total=epochs)

        def show(row: Mapping[str, float]) -> None:
            text = f"loss {row['train_loss']:.4f}, valid {row['valid_loss']:.4f}"
            bar.update(task, completed=row["epoch"], description=text)

        yield show
