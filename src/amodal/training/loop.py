"""The optimiser loop as a Lightning module; `amodal.training` is its only caller."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.data.loader import make_loader
from amodal.errors import RunError
from amodal.method import Method
from amodal.training.run import mix_seed

if TYPE_CHECKING:
    from amodal.training.run import Run

__all__ = ["LoopModule"]


class LoopModule(pl.LightningModule):
    """Steps a method's optimisers through the epochs that are left of a run.

    Every step's noise (the method's generator, and torch's global one for dropout) is seeded by run, epoch and step,
    so that a resumed run goes exactly as an uninterrupted one.

    Args:
        run: The run; it validates and stores its state at the end of each epoch.
        optimiser_state: Stored tensors of the optimisers, or none.
        progress: Whether to show a progress bar.
    """

    def __init__(self, run: Run, optimiser_state: Mapping[str, Tensor], progress: bool):
        super().__init__()
        self.automatic_optimization = False
        self.method = run.method
        self.run, self.optimiser_state = run, optimiser_state
        self.progress = _ProgressBar(run.settings.epochs) if progress else None
        self.sums: dict[str, Tensor] = {}
        self.steps_in_epoch = 1
        self.clipped: dict[str, list[list[nn.Parameter]]] = {}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser for each name the method declares, with its stored state."""
        settings = self.run.settings
        kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
        optimisers = []
        for index, name in enumerate(self.method.optimisers):
            groups = _parameter_groups(self.method, name, settings.learning_rate, settings.weight_decay)
            optimiser = kind(groups)
            _restore(optimiser, self.optimiser_state, index)
            optimisers.append(optimiser)
        return optimisers

    def train_dataloader(self) -> Iterable[Batch]:
        """Batches of the epoch that begins, under its presence."""
        loader = make_loader(
            self.run.rows_of(self.current_epoch),
            self.run.batch_size,
            scaling=self.run.scaling,
            shuffle=True,
            seed=self.run.seed,
            epoch=self.current_epoch,
            workers=self.run.settings.workers,
            pin_memory=self.run.device.type == "cuda",
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        self.steps_in_epoch = len(loader)
        return loader

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch to the device."""
        return batch.to(device, non_blocking=True)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch: each optimiser in turn, then the method's own after-step hook."""
        if not self.method.accepts_empty:
            batch = batch.take(batch.presence.any(1))
        seed = mix_seed(
            self.run.seed, self.current_epoch + 1, batch_idx * self.trainer.world_size + self.trainer.global_rank
        )
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # as torch.manual_seed, which also notes a traceback every time
        else:
            torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        step = self.current_epoch * self.steps_in_epoch + batch_idx
        optimisers = self.optimizers()
        for name, optimiser in zip(
            self.method.optimisers, optimisers if isinstance(optimisers, list) else [optimisers]
        ):
            self._set_learning_rate(optimiser, step)
            terms = self.method.objective_of(name, batch, generator)
            optimiser.zero_grad()
            self.manual_backward(terms.total)
            self._clip(name, optimiser)
            optimiser.step()
            prefix = "" if len(self.method.optimisers) == 1 else f"{name}."
            parts = {"train_loss": terms.total} | {f"train_{k}": v for k, v in terms.terms.items()}
            for key, value in parts.items():
                entry = torch.stack([value.detach().float() * len(batch), value.new_tensor(float(len(batch)))])
                self.sums[prefix + key] = self.sums.get(prefix + key, 0) + entry
        self.method.after_step(step)

    def _set_learning_rate(self, optimiser: Any, step: int) -> None:
        settings = self.run.settings
        total = max(1, settings.epochs * self.steps_in_epoch)
        warm = max(1, round(settings.warmup * total))
        factor = min(1.0, (step + 1) / warm)
        if settings.schedule == "cosine" and step >= warm:
            factor = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * group["scale"] * factor

    def _clip(self, name: str, optimiser: Any) -> None:
        if self.run.settings.clip is None:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimiser.optimizer)
        if name not in self.clipped:  # going through all modules takes longer than clipping
            self.clipped[name] = [list(group) for group in self.method.clip_groups(name)]
        for group in self.clipped[name]:
            nn.utils.clip_grad_norm_(group, self.run.settings.clip)

    def on_train_epoch_end(self) -> None:
        """Validates on every process, stores the state on the first one, and stops when patience has run out."""
        row: dict[str, float] = {"epoch": self.current_epoch}
        for key, entry in self.sums.items():
            total = self.trainer.strategy.reduce(entry, reduce_op="sum")
            row[key] = float(total[0] / total[1])
        self.sums = {}
        self._require_finite(row)
        optimisers = self.optimizers()
        plain = [o.optimizer for o in (optimisers if isinstance(optimisers, list) else [optimisers])]
        with self.trainer.precision_plugin.forward_context():
            self.run.end_epoch(row, plain if self.trainer.is_global_zero else None)
        for logger in self.trainer.loggers:
            logger.log_metrics({k: v for k, v in self.run.history[-1].items() if k != "epoch"}, step=self.current_epoch)
        if self.progress is not None:
            self.progress.advance(self.run.history[-1])
        if self.run.out_of_patience:
            self.trainer.should_stop = True

    def _require_finite(self, row: Mapping[str, float]) -> None:
        """Ends a training whose weights are no numbers any more, before they replace what is stored."""
        bad = [key.removeprefix("train_") for key, value in row.items() if not math.isfinite(value)]
        if not bad or all(bool(torch.isfinite(p).all()) for p in self.method.parameters()):
            return  # a loss alone may overflow in half precision; its step is then left out
        raise RunError(
            f"training has diverged in epoch {self.current_epoch}",
            expected="finite losses and weights",
            got=f"not finite: {', '.join(sorted(bad))}",
            hint="Lower learning_rate, set clip, or use precision '32-true'. What earlier epochs stored is kept.",
        )

    def on_fit_start(self) -> None:
        """Opens the progress bar."""
        (self.progress or nullcontext()).__enter__()

    def on_fit_end(self) -> None:
        """Closes the progress bar."""
        if self.progress is not None:
            self.progress.__exit__(None, None, None)


class _ProgressBar:
    """One line: epochs done, losses, time left."""

    def __init__(self, epochs: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.task = self.bar.add_task("", total=epochs)

    def __enter__(self) -> _ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, row: Mapping[str, float]) -> None:
        """Shows an epoch's row."""
        text = f"loss {row.get('train_loss', math.nan):.4f}, valid {row['valid_loss']:.4f}"
        self.bar.update(self.task, completed=row["epoch"] + 1, description=text)


def _parameter_groups(method: Method, name: str, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups by learning-rate scale; vectors and scalars (biases, norms, tokens) are not decayed."""
    wanted = {id(p) for p in method.parameters_of(name)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for key, parameter in method.named_parameters():
        if id(parameter) in wanted:
            groups.setdefault((method.learning_rate_scale(key), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * scale, "scale": scale, "weight_decay": weight_decay * decayed}
        for (scale, decayed), parameters in groups.items()
    ]


def _restore(optimiser: torch.optim.Optimizer, stored: Mapping[str, Tensor], index: int) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        which, parameter, name = key.split(".")
        if int(which) == index:
            state.setdefault(int(parameter), {})[name] = tensor
    if state:
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
