"""Worlds of which it is known how far looking at what is missing moves the right prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

import amodal
from amodal.schema import Task

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class World:
    """Modalities of numbers, a target, and the right prediction given all of them.

    Args:
        task: What is predicted.
        draw: Numbers (N, D) of each modality, given a generator and N.
        right: Probabilities (N, C) or (N, K), or means (N,), given everything.
        hidden: The modalities that are withheld.
        noise: Standard deviation of a regression's target around its mean.
    """

    task: Task
    draw: Callable[[np.random.Generator, int], Values]
    right: Callable[[Values], np.ndarray]
    hidden: tuple[str, ...]
    noise: float = 0.0

    def cohort(self, n: int, seed: int) -> amodal.Cohort:
        """Cases with targets, complete."""
        generator = np.random.default_rng(seed)
        values = self.draw(generator, n)
        right = self.right(values)
        if self.task.kind == "regression":
            target = right + self.noise * generator.normal(size=n)
        elif self.task.kind == "multilabel":
            target = (generator.random(right.shape) < right).astype(float)
        else:
            target = (generator.random((n, 1)) > right.cumsum(1)[:, :-1]).sum(1)
        return amodal.Cohort.from_arrays(values, task=self.task, target=target)

    def withheld(self, cohort: amodal.Cohort) -> amodal.Cohort:
        """The same cases without what is hidden."""
        seen = np.array([name not in self.hidden for name in cohort.schema.names])
        return cohort.with_observed(np.tile(seen, (len(cohort), 1)))

    def ideal(self, cohort: amodal.Cohort, draws: int = 400) -> np.ndarray:
        """V of the right predictions (N,): the hidden modalities do not depend on those that are seen."""
        batch = cohort.batch(np.arange(len(cohort)))
        values = {name: value.numpy() for name, value in batch.values.items()}
        generator = np.random.default_rng(0)
        drawn = []
        for _ in range(draws):
            other = self.draw(generator, len(cohort))
            drawn.append(self.right({n: other[n] if n in self.hidden else values[n] for n in values}))
        return distance(np.stack(drawn), np.stack(drawn).mean(0), self.task.kind).mean(0)


def distance(one: np.ndarray, other: np.ndarray, kind: str) -> np.ndarray:
    """Total variation distance of classes, mean absolute difference of labels, absolute difference of values."""
    apart = np.abs(one - other)
    return {"regression": lambda: apart, "multilabel": lambda: apart.mean(-1)}.get(kind, lambda: 0.5 * apart.sum(-1))()


def _normal(**widths: int) -> Callable[[np.random.Generator, int], Values]:
    return lambda generator, n: {name: generator.normal(size=(n, d)).astype("f4") for name, d in widths.items()}


def _copied(generator: np.random.Generator, n: int) -> Values:
    values = _normal(noise=1, a=1)(generator, n)
    return values | {"b": values["a"].copy()}


def _binary(logit: np.ndarray) -> np.ndarray:
    p = expit(logit)
    return np.stack([1 - p, p], axis=1)


def _three(values: Values) -> np.ndarray:
    """Three classes at the corners of a triangle in the plane, of which a and b have a part each."""
    corners = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    logit = (values["a"] + 2.0 * values["b"]) @ corners.T
    p = np.exp(logit - logit.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


BINARY = Task("binary", classes=("no", "yes"))
WORLDS = {
    "binary": World(BINARY, _normal(a=2, b=2), lambda v: _binary(2 * v["a"][:, 0] + 3 * v["b"][:, 0]), ("b",)),
    "multiclass": World(Task("multiclass", classes=("p", "q", "r")), _normal(a=2, b=2), _three, ("b",)),
    "multilabel": World(
        Task("multilabel", classes=("x", "y", "z")),
        _normal(a=2, b=2),
        lambda v: expit(6 * np.stack([v["a"][:, 0], v["b"][:, 0], v["b"][:, 1] + v["a"][:, 1]], axis=1)),
        ("b",),
    ),
    "regression": World(
        Task("regression"), _normal(a=1, b=1), lambda v: 10 * v["a"][:, 0] + 20 * v["b"][:, 0], ("b",), noise=0.5
    ),
    "copy": World(BINARY, _copied, lambda v: _binary(20 * v["a"][:, 0]), ("a", "b")),
    "xor": World(
        BINARY, _normal(noise=1, a=1, b=1), lambda v: _binary(20 * np.sign(v["a"] * v["b"])[:, 0]), ("a", "b")
    ),
}
