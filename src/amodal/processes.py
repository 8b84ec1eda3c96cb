"""Several processes that compute one batch together: rows of encoders are shared among them, all else is repeated.

Every process has the same batch, the same weights and the same noise, and computes the same objective. Only the
encoders' work is divided: each process encodes its share of the rows that have a modality, and the encoded rows are
gathered with their gradient. So every method, also one whose loss couples rows, has the loss and the gradient that one
process with the same batch has, up to rounding (and dropout inside encoders, whose noise follows the rows' places).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Processes", "sharing_rows", "with_shared_rows"]

_BUCKET = 2**25  # bytes of gradients sent at once


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
        for dtype in {tensor.dtype: None for tensor in tensors}:
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(same, flat.split([t.numel() for t in same])):
                tensor.copy_(part.view_as(tensor))

    def share_buffers(self, module: nn.Module) -> None:
        """Gives all processes the first one's buffers (running statistics, banks)."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def agree(self, values: Sequence[float]) -> list[float]:
        """The first process's values, so that decisions on them (best epoch, stopping) are one process's."""
        if self.size == 1 or not values:
            return list(values)
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(sent, 0)
        return sent.tolist()


_SHARING: ContextVar[Processes | None] = ContextVar("sharing", default=None)


@contextmanager
def sharing_rows(processes: Processes) -> Iterator[None]:
    """Divides the rows of every encoder that runs inside among some processes, all of which must be inside too."""
    token = _SHARING.set(processes if processes.size > 1 else None)
    try:
        yield
    finally:
        _SHARING.reset(token)


def with_shared_rows(module: nn.Module, call: Callable, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Calls an encoder on rows: on all of them, or inside `sharing_rows` on this process's share of them.

    A module in training mode with statistics over the batch (batch normalisation) is always given all rows.

    Args:
        module: The encoder.
        call: What is called: rows of `tensors` to tensors with as many rows each, padded along the second axis.
        *tensors: Of shape (P, …) each, or None.

    Returns:
        What `call` returns, for all P rows; differentiable.
    """
    processes = _SHARING.get()
    n = next(len(tensor) for tensor in tensors if tensor is not None)
    if processes is None or n < processes.size or (module.training and _has_batch_statistics(module)):
        return tuple(call(*tensors))
    share = -(-n // processes.size)
    places = torch.arange(processes.rank * share, (processes.rank + 1) * share, device=processes.device).clamp(
        max=n - 1
    )
    parts = call(*(None if tensor is None else tensor[places] for tensor in tensors))
    return tuple(_gather(part, processes)[:n] for part in parts)


def _has_batch_statistics(module: nn.Module) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._NormBase) for part in module.modules())


def _gather(part: Tensor, processes: Processes) -> Tensor:
    """The parts of all processes one after the other, padded to the longest along the second axis."""
    if part.ndim > 1:
        longest = torch.tensor(part.shape[1], device=processes.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        missing = int(longest) - part.shape[1]
        if missing:
            part = torch.cat([part, part.new_zeros(len(part), missing, *part.shape[2:])], dim=1)
    if not part.is_floating_point():
        return _gathered(part, processes)
    return _Gather.apply(part, processes)  # type: ignore[no-any-return]


def _gathered(part: Tensor, processes: Processes) -> Tensor:
    part = part.contiguous()
    sent = part.view(torch.uint8) if part.dtype == torch.bool else part
    parts = [torch.empty_like(sent) for _ in range(processes.size)]
    dist.all_gather(parts, sent)
    whole = torch.cat(parts)
    return whole.view(torch.bool) if part.dtype == torch.bool else whole


class _Gather(torch.autograd.Function):
    """Gathering with its gradient.

    Every process computes the whole objective, so that each has the whole gradient already: it takes its own part,
    times the number of processes, because `Processes.average_gradients` then divides the sum by it.
    """

    @staticmethod
    def forward(ctx, part: Tensor, processes: Processes) -> Tensor:  # type: ignore[override]
        ctx.rows, ctx.processes = len(part), processes
        return _gathered(part.detach(), processes)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        start = ctx.processes.rank * ctx.rows
        return gradient[start : start + ctx.rows] * ctx.processes.size, None
