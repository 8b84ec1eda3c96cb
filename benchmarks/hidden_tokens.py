"""What visible tokens of a modality tell of a hidden one, on digits in quadrants.

Command:  python benchmarks/hidden_tokens.py

The clean vector of one hidden token of a quadrant (untrained encoders, width 64) is predicted by ridge regression,
fitted on half of the rows and judged by R² on the other: from the visible tokens of its own quadrant, from those of the
other three, and from both. "convnet, placeholder only" is what CEPA did until 2026-11-30: tokens were hidden after the
convolutions had mixed them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import amodal
from amodal.encoders import Encoder, build_encoders
from amodal.tokens.hiding import embed_present, encode_passes

HIDDEN = 1  # which token of a quadrant


def r_squared(inputs: Tensor, target: Tensor, ridge: float = 1.0) -> float:
    """R² of ridge regression on the second half of the rows, over all coordinates of the target."""
    half = len(inputs) // 2
    inputs = (inputs - inputs[:half].mean(0)) / (inputs[:half].std(0) + 1e-6)
    x, y = inputs[:half].double(), target[:half].double()
    mean = y.mean(0)
    solved = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (y - mean))
    error = target[half:].double() - mean - inputs[half:].double() @ solved
    return 1 - float(error.square().sum() / (target[half:].double() - mean).square().sum())


def main() -> None:
    cohort = amodal.load_cohort("digits").split("train")
    batch = cohort.batch(np.arange(len(cohort)))
    print(f"{'encoder':<28}{'tokens':>7}{'own':>8}{'others':>8}{'both':>8}")
    for what in ("convnet, placeholder only", "convnet", "patches"):
        name, _, only = what.partition(", ")
        torch.manual_seed(0)
        encoders = build_encoders(cohort.schema, choices=dict.fromkeys(cohort.schema.names, name))
        clean, visible = {}, {}
        for quadrant, encoder in encoders.items():
            assert isinstance(encoder, Encoder)
            encoder.can_hide = not only
            embedded = embed_present(encoder.eval(), batch, quadrant)
            assert embedded is not None
            hide = torch.zeros_like(embedded.valid)
            hide[:, HIDDEN] = True
            with torch.no_grad():
                clean[quadrant], masked = encode_passes(encoder, embedded, torch.zeros(64), [None, hide])
            visible[quadrant] = masked[:, ~hide[0]].flatten(1)
        first, *rest = visible.values()
        target, others = next(iter(clean.values()))[:, HIDDEN], torch.cat(rest, dim=1)
        scores = [r_squared(x, target) for x in (first, others, torch.cat([first, others], dim=1))]
        print(f"{what:<28}{encoder.n_tokens:>7}" + "".join(f"{score:8.3f}" for score in scores))


if __name__ == "__main__":
    main()
