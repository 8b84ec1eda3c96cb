"""Counting the places where a step waits for its device, on a CPU.

An accelerator works behind the program, until something needs a number of it: then the program waits until all is done,
and the device waits for the program. On a CPU the same operations can be counted. What is counted:

- a number or a truth value of a tensor (`item`, `float`, `int`, `bool`, `tolist`, `numpy`, `cpu`, `torch.equal`);
- results whose size depends on values (`nonzero`, boolean indexing, `masked_select`, `unique`, `repeat_interleave`);
- checked factorisations (`torch.linalg.cholesky`, `solve`), which look whether they have succeeded;
- apart, as "copies": tensors made of Python numbers, which are sent to the device.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = (
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "_linalg_check_errors", "bincount",
)  # fmt: skip
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


def _place() -> str | None:
    """The line of amodal that is at work; None for torch's optimisers, which keep their counts on the CPU."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/torch/optim/" in name:
            return None
        if "/amodal/" in name and "/torch/" not in name:
            return f"{name.split('/amodal/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return None


class Synchronisations(TorchDispatchMode):
    """Counts by line of amodal.

    Attributes:
        waits: Synchronisations of each line.
        copies: Tensors made of Python numbers by each line.
        doubles: Operations in double precision of each line.
    """

    def __init__(self):
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.doubles: Counter[str] = Counter()
        self._functions = _Functions(self)

    def __enter__(self):
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._functions.__exit__(*error)

    @contextmanager
    def paused(self):
        """Nothing is counted inside."""
        counters = self.waits, self.copies, self.doubles
        self.waits, self.copies, self.doubles = Counter(), Counter(), Counter()
        yield
        self.waits, self.copies, self.doubles = counters

    def note(self, counter: Counter[str], what: str) -> None:
        place = _place()
        if place is not None:
            counter[f"{place} {what}"] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _WAITS or (name == "repeat_interleave" and not (kwargs or {}).get("output_size")):
            self.note(self.waits, name)
        elif name in _INDEXING and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
            if name == "index" or args[2].numel() > 1:  # one value for all of them is filled in, without looking
                self.note(self.waits, f"{name} by bool")
        elif name == "lift_fresh":
            self.note(self.copies, name)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64 and result.dim():
            self.note(self.doubles, name)
        return result


class _Functions(TorchFunctionMode):
    """What does not reach the dispatcher on a CPU."""

    def __init__(self, owner: Synchronisations):
        super().__init__()
        self.owner = owner

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("tolist", "numpy", "cpu", "__array__") and isinstance(args[0], torch.Tensor):
            self.owner.note(self.owner.waits, name)
        with self.owner.paused() if name == "one_hot" else nullcontext():  # looks at its argument on a CPU only
            return func(*args, **(kwargs or {}))
