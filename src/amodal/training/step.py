"""One training step: objectives, gradients, clipping, optimisers; the same for `amodal.fit` and for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from amodal.batch import Batch
from amodal.method import LossTerms, Method
from amodal.processes import Processes
from amodal.training.optimisers import Optimisers

__all__ = ["Precision", "training_step"]


@dataclass(frozen=True)
class Precision:
    """Arithmetic of a training: autocast to half precision, or none.

    Args:
        name: "32-true", "bf16-mixed" or "16-mixed".
        device: Where it is done.
    """

    name: str
    device: torch.device

    def __post_init__(self) -> None:
        scaler = torch.amp.GradScaler(self.device.type) if self.name == "16-mixed" else None
        object.__setattr__(self, "scaler", scaler)

    scaler: torch.amp.GradScaler | None = None

    def autocast(self) -> AbstractContextManager:
        """The context in which objectives and predictions are computed."""
        if self.name == "32-true":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.name == "bf16-mixed" else torch.float16)


def training_step(
    method: Method,
    optimisers: Optimisers,
    batch: Batch,
    generator: torch.Generator,
    *,
    clip: float | None = None,
    precision: Precision | None = None,
    processes: Processes | None = None,
) -> dict[str, LossTerms]:
    """Steps every optimiser of a method on one batch; `method.clock` and the learning rates are set before.

    Args:
        method: The method, in training mode.
        optimisers: Its optimisers.
        batch: B rows with target.
        generator: Source of all randomness but dropout's.
        clip: Largest gradient norm of each of the method's groups; None does not clip.
        precision: None: single precision.
        processes: Processes that average their gradients; None: this one alone.

    Returns:
        The loss terms of each optimiser.
    """
    precision = precision or Precision("32-true", batch.device)
    step = _Step(optimisers, clip, precision.scaler, processes)
    names = list(method.optimisers)
    losses: dict[str, LossTerms] = {}
    if method.alternates:
        for name in names:
            with precision.autocast():
                losses[name] = method.objective_of(name, batch, generator)
            step.take_gradients({name: losses[name]}, alone=len(names) == 1)
            step.apply(name)
    else:
        with precision.autocast():
            losses = dict(method.objectives(batch, generator))
        step.take_gradients(losses, alone=len(names) == 1)
        for name in names:
            step.apply(name)
    if precision.scaler is not None:
        precision.scaler.update()
    method.after_step()
    return losses


@dataclass(frozen=True)
class _Step:
    """Gradients and updates of one step."""

    optimisers: Optimisers
    clip: float | None
    scaler: torch.amp.GradScaler | None
    processes: Processes | None

    def take_gradients(self, losses: Mapping[str, LossTerms], *, alone: bool) -> None:
        """Gives each optimiser's parameters the gradient of its own terms, and of no others."""
        scale: Callable = self.scaler.scale if self.scaler is not None else lambda total: total
        for i, (name, terms) in enumerate(losses.items()):
            self.optimisers.by_name[name].zero_grad()
            if alone:
                scale(terms.total).backward()
                continue
            parameters = self.optimisers.parameters(name)
            last = i == len(losses) - 1
            gradients = torch.autograd.grad(scale(terms.total), parameters, retain_graph=not last, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient

    def apply(self, name: str) -> None:
        """Averages, clips and steps one optimiser."""
        optimiser = self.optimisers.by_name[name]
        if self.processes is not None:
            self.processes.average_gradients(self.optimisers.parameters(name))
        if self.scaler is not None:
            self.scaler.unscale_(optimiser)
        if self.clip is not None:
            self.optimisers.clip(name, self.clip)
        if self.scaler is not None:
            self.scaler.step(optimiser)
        else:
            optimiser.step()
