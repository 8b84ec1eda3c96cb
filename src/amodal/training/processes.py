"""Processes that train one model together: ranks, sums and broadcasts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from amodal.errors import ConfigurationError
from amodal.settings import TrainingSettings

__all__ = ["Processes", "expected_rank", "start_processes"]

_BUCKET = 2**25  # bytes of gradients sent at once


def expected_rank(settings: TrainingSettings) -> int:
    """Rank that this process will have, before the others have started; 0 for a training in one process.

    A cluster's environment variables count only where several processes train one model: independent trainings inside
    one job are each their own.
    """
    if settings.devices * settings.nodes == 1:
        return 0
    given = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((int(rank) for rank in given if rank.isdecimal()), 0)


@dataclass(frozen=True)
class Processes:
    """The processes that train one model, as one of them sees them.

    Attributes:
        device: Device of this process.
        rank: Rank of this process.
        size: Number of processes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces gradients by their means over all processes; one that a process lacks counts as zero.

        A parameter that no process has a gradient for keeps none, so that its optimiser leaves it alone.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        reached = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        dist.all_reduce(reached)
        bucket: list[Tensor] = []
        for parameter, count in zip(parameters, reached.tolist()):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(g.numel() * g.element_size() for g in bucket) >= _BUCKET:
                self._average(bucket)
                bucket = []
        self._average(bucket)

    def _average(self, tensors: list[Tensor]) -> None:
        for dtype in {tensor.dtype for tensor in tensors}:
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(same, flat.split([t.numel() for t in same])):
                tensor.copy_(part.view_as(tensor))

    def share_buffers(self, module: nn.Module) -> None:
        """Gives all processes the first one's buffers (running statistics, banks), so that they decide alike."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def start_processes(settings: TrainingSettings, device: torch.device) -> Processes:
    """Starts the other processes if there are several, and waits for them.

    Lightning Fabric starts them: on this machine by running the script again, in a cluster by its environment.

    Raises:
        ConfigurationError: If Lightning Fabric is not installed.
    """
    if settings.devices * settings.nodes == 1:
        return Processes(device)
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "training in several processes needs Lightning Fabric", hint="pip install 'amodal[distributed]'"
        ) from error

    fabric = Fabric(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp",
    )
    fabric.launch()
    return Processes(fabric.device, fabric.global_rank, fabric.world_size)
