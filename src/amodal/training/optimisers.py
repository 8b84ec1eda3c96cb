"""The optimisers of a method: parameter groups, learning rates, clipping, the average of the weights, stored state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from amodal.method import Method
from amodal.settings import TrainingSettings

__all__ = ["Optimisers", "learning_rate_factor"]

_AVERAGE = "weight average"  # its place among the names of optimisers in what is stored


def learning_rate_factor(settings: TrainingSettings, step: int, steps: int) -> float:
    """Factor on all learning rates at a step (from 0) of so many: linear warm-up, then the schedule."""
    warm = max(1, round(settings.warmup * steps))
    if settings.schedule == "cosine" and step >= warm:
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    return min(1.0, (step + 1) / warm)


class Optimisers:
    """One optimiser for each name that a method declares.

    Vectors and scalars (biases, norms, tokens) are not decayed.

    Args:
        method: The method.
        settings: The training's settings; the method's own come first.
    """

    def __init__(self, method: Method, settings: TrainingSettings):
        self.method, self.settings = method, settings
        self.by_name: dict[str, torch.optim.Optimizer] = {}
        self.clip_groups: dict[str, list[list[nn.Parameter]]] = {}
        self.idle: dict[Tensor, dict[str, Tensor]] = {}  # state of parameters that are frozen for now
        self.decay = method.weight_average if settings.weight_average is None else settings.weight_average
        self.average: dict[nn.Parameter, Tensor] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads anew which parameters each optimiser steps; those that stay keep their state."""
        for name in self.method.optimisers:
            wanted = {id(p) for p in self.method.parameters_of(name)}
            old = self.by_name.get(name)
            if old is not None and wanted == {id(p) for group in old.param_groups for p in group["params"]}:
                continue
            if old is not None:
                self.idle |= dict(old.state)
            self.by_name[name] = self._build(name, wanted)
            for parameter in self.parameters(name):
                if parameter in self.idle:
                    self.by_name[name].state[parameter] = self.idle.pop(parameter)
            self.clip_groups[name] = [list(group) for group in self.method.clip_groups(name)]

    def _build(self, name: str, wanted: set[int]) -> torch.optim.Optimizer:
        own, settings = self.method.optimisers[name], self.settings
        rate = settings.learning_rate if own.learning_rate is None else own.learning_rate
        decay = settings.weight_decay if own.weight_decay is None else own.weight_decay
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for key, parameter in self.method.named_parameters():
            if id(parameter) in wanted:
                scale = self.method.learning_rate_scale(key)
                groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
        made = [
            {"params": parameters, "lr": rate * scale, "peak": rate * scale, "weight_decay": decay * decayed}
            for (scale, decayed), parameters in groups.items()
        ]
        kind = own.kind or settings.optimiser
        if kind == "sgd":
            return torch.optim.SGD(made, momentum=own.momentum)
        fused = all(p.device.type == "cuda" for group in made for p in group["params"])  # one kernel, and no waits
        return (torch.optim.AdamW if kind == "adamw" else torch.optim.Adam)(made, betas=own.betas, fused=fused or None)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of one optimiser, in order."""
        return [p for group in self.by_name[name].param_groups for p in group["params"]]

    def set_learning_rates(self, factor: float) -> None:
        """Sets every learning rate to a factor of its peak."""
        for optimiser in self.by_name.values():
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor

    def clip(self, name: str, largest: float) -> None:
        """Clips the gradient norm of each of the method's groups."""
        for group in self.clip_groups[name]:
            nn.utils.clip_grad_norm_(group, largest)

    @torch.no_grad()
    def move_average(self, step: int) -> None:
        """Moves the average of the weights towards them after a step, counted from 0; in the first steps by more."""
        if not self.decay:
            return
        keep = min(self.decay, (1.0 + step) / (10.0 + step))
        learning = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        for parameter in learning:
            self.average.setdefault(parameter, parameter.detach().clone())
        for parameter in learning:
            self.average[parameter].lerp_(parameter.detach(), 1.0 - keep)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in the place of the weights, where there is one."""
        own = {parameter: parameter.data for parameter in self.average}
        try:
            for parameter, mean in self.average.items():
                parameter.data = mean
            yield
        finally:
            for parameter, data in own.items():
                parameter.data = data

    def state(self) -> dict[str, Tensor]:
        """All state as tensors, by optimiser, parameter and quantity; also of parameters that are frozen for now."""
        names: dict[Tensor, str] = {parameter: key for key, parameter in self.method.named_parameters()}
        tensors = {f"{_AVERAGE}/{names[parameter]}/mean": t.cpu().clone() for parameter, t in self.average.items()}
        for name, optimiser in self.by_name.items():
            for parameter, state in {**self.idle, **optimiser.state}.items():
                tensors |= {
                    f"{name}/{names[parameter]}/{k}": torch.as_tensor(v).detach().cpu().clone()
                    for k, v in state.items()
                }
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        parameters = dict(self.method.named_parameters())
        found: dict[str, dict[str, dict[str, Tensor]]] = {}
        for key, tensor in tensors.items():
            name, rest = key.split("/", 1)
            parameter, quantity = rest.rsplit("/", 1)
            found.setdefault(name, {}).setdefault(parameter, {})[quantity] = tensor
        for key, state in found.pop(_AVERAGE, {}).items():
            self.average[parameters[key]] = state["mean"].to(parameters[key].device)
        for name, states in found.items():
            stepped, fused = set(self.parameters(name)), self.by_name[name].defaults.get("fused")
            for key, state in states.items():
                parameter = parameters[key]
                placed = {k: v if k == "step" and not fused else v.to(parameter.device) for k, v in state.items()}
                (self.by_name[name].state if parameter in stepped else self.idle)[parameter] = placed
