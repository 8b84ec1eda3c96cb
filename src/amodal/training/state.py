"""State of a training: history, best weights, and the file from which an interrupted training goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amodal.errors import RunError
from amodal.files import replace_file
from amodal.method import Method
from amodal.seal import naming_the_folder
from amodal.training.optimisers import Optimisers

__all__ = ["STATE_FILE", "TrainingState"]

STATE_FILE = "training_state.safetensors"


@dataclass
class TrainingState:
    """State of a training.

    Attributes:
        history: One row an epoch, which is counted from 1.
        best: Lowest validation loss (or error) and its epoch: of the whole method under "", or of each sub-model's
            prefix.
        best_weights: The weights of these epochs, by their names in the method's state.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """The last epoch in which the validation loss (of any sub-model) improved; 0 before any did."""
        return max((epoch for _, epoch in self.best.values()), default=0)

    def is_out_of_patience(self, patience: int | None) -> bool:
        """Whether the validation loss has not improved for `patience` epochs."""
        done = len(self.history)
        return patience is not None and done > 0 and done - self.best_epoch >= patience

    def keep_best(self, method: Method, losses: Mapping[str, float]) -> None:
        """Keeps the present weights of the method, or of each sub-model by its prefix, if its loss is the lowest."""
        for prefix, value in losses.items():
            if math.isfinite(value) and value < self.best.get(prefix, (math.inf, 0))[0]:
                self.best[prefix] = (value, len(self.history))
                weights = method.state_dict()
                self.best_weights |= {k: v.detach().cpu().clone() for k, v in weights.items() if k.startswith(prefix)}

    def restore_best(self, method: Method) -> None:
        """Puts the best weights into the method."""
        if self.best_weights:
            method.load_state_dict({**method.state_dict(), **self.best_weights})

    def save(self, folder: Path, plan: Mapping[str, Any], method: Method, optimisers: Optimisers) -> None:
        """Writes everything that resuming needs into one file, atomically, and the history beside it."""
        import pandas as pd
        from safetensors.torch import save_file

        tensors = {f"method.{k}": v.detach().cpu().clone() for k, v in method.state_dict().items()}
        tensors |= {f"best.{k}": v.clone() for k, v in self.best_weights.items()}
        tensors |= {f"optimiser.{k}": v for k, v in optimisers.state().items()}
        summary = {
            "plan": json.dumps(dict(plan), sort_keys=True),
            "history": json.dumps(self.history),
            "best": json.dumps(self.best),
        }
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}  # some weights are channels-last
        summary["checksum"] = _checksum(tensors, summary)
        replace_file(folder / STATE_FILE, lambda path: save_file(tensors, path, metadata=summary))
        replace_file(folder / "history.csv", lambda path: pd.DataFrame(self.history).to_csv(path, index=False))

    def load(self, folder: Path, method: Method) -> dict[str, Tensor]:
        """Reads what `save` wrote into this state and the method.

        Returns:
            The optimisers' tensors; empty where nothing was stored.
        """
        from safetensors import safe_open

        if not (folder / STATE_FILE).is_file():
            return {}
        with naming_the_folder(folder):
            with safe_open(folder / STATE_FILE, framework="pt") as stored:
                summary = dict(stored.metadata())
                tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            if summary.pop("checksum") != _checksum(tensors, summary):
                raise RunError(f"{folder / STATE_FILE} was altered: its checksum is another", hint="Train again.")
        self.history = json.loads(summary["history"])
        self.best = {prefix: (loss, epoch) for prefix, (loss, epoch) in json.loads(summary["best"]).items()}
        parts: dict[str, dict[str, Tensor]] = {"method": {}, "best": {}, "optimiser": {}}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = tensor
        self.best_weights = parts["best"]
        method.load_state_dict(parts["method"])
        return parts["optimiser"]


def _checksum(tensors: Mapping[str, Tensor], summary: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(summary), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
