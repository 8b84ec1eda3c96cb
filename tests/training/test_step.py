"""One training step: gradients by optimiser, one forward pass, turns, frozen parameters, stored state."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from contracts import cases
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.method import Clock, LossTerms, Method, OptimiserSettings
from amodal.methods.drim import DRIM
from amodal.settings import TrainingSettings
from amodal.training.optimisers import Optimisers, learning_rate_factor
from amodal.training.step import training_step

SETTINGS = TrainingSettings(optimiser="adam", weight_decay=0.0, learning_rate=0.1, warmup=0.0)


def batch_of(n: int = 8) -> Batch:
    values = {"a": torch.linspace(-1, 1, 3 * n).reshape(n, 3)}
    return Batch(values, {"a": torch.ones(n, dtype=torch.bool)}, target=torch.arange(n) % 2)


class Two(Method):
    """A generator and a critic with one weight each; the critic's loss depends on the generator's weight."""

    optimisers: ClassVar = {
        "main": OptimiserSettings(kind="sgd", learning_rate=1.0),
        "critic": OptimiserSettings(kind="sgd", learning_rate=1.0),
    }

    def __init__(self) -> None:
        super().__init__(cases.make_schema("binary", "tables"))
        self.main, self.critic = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))
        self.called: list[str] = []

    def parameters_of(self, optimiser: str) -> list[nn.Parameter]:
        return [self.main if optimiser == "main" else self.critic]

    def objectives(self, batch: Batch, generator: torch.Generator) -> dict[str, LossTerms]:
        self.called.append("objectives")
        product = self.main * self.critic
        return {"main": LossTerms({"main": product}), "critic": LossTerms({"critic": -product})}

    def predict(self, batch: Batch) -> Tensor:
        return torch.full((len(batch), 2), 0.5)


def step(method: Method, optimisers: Optimisers, **options: object) -> dict[str, LossTerms]:
    return training_step(method, optimisers, batch_of(), torch.Generator(), **options)  # type: ignore[arg-type]


def test_each_optimiser_gets_the_gradient_of_its_own_terms_taken_before_any_step():
    method = Two()
    step(method, Optimisers(method, SETTINGS))
    assert method.called == ["objectives"]
    # d(main * critic)/d main = 3, and d(-main * critic)/d critic = -2, both at the weights before the step
    assert (method.main.item(), method.critic.item()) == (2.0 - 3.0, 3.0 + 2.0)


def test_optimisers_that_alternate_see_the_steps_of_those_before():
    class Turns(Two):
        alternates = True

    method = Turns()
    step(method, Optimisers(method, SETTINGS))
    assert method.called == ["objectives", "objectives"]
    assert (method.main.item(), method.critic.item()) == (2.0 - 3.0, 3.0 + (2.0 - 3.0))


def test_an_adversary_shares_the_forward_pass():
    schema = cases.make_schema()
    method = DRIM(schema, cases.make_encoders(schema))
    calls = dict.fromkeys(schema.names, 0)

    def count(name: str):  # type: ignore[no-untyped-def]
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    for name, encoder in method.encoders.items():
        encoder.register_forward_hook(count(name))
    batch = cases.make_batch(schema, cases.mixed_presence(schema))
    training_step(method, Optimisers(method, SETTINGS), batch, torch.Generator())
    assert calls == dict.fromkeys(schema.names, 1)


def test_settings_of_an_optimiser_come_before_those_of_the_training():
    class Settled(Two):
        optimisers: ClassVar = {
            "main": OptimiserSettings(),
            "critic": OptimiserSettings(kind="adam", learning_rate=1e-3, weight_decay=0.0, betas=(0.5, 0.9)),
        }

    method = Settled()
    method.weight = nn.Parameter(torch.ones(2, 2))
    method.parameters_of = lambda name: [method.critic] if name == "critic" else [method.main, method.weight]  # type: ignore[method-assign]
    made = Optimisers(method, TrainingSettings(optimiser="adamw", learning_rate=0.01, weight_decay=0.5)).by_name
    assert isinstance(made["main"], torch.optim.AdamW)
    assert isinstance(made["critic"], torch.optim.Adam)
    assert not isinstance(made["critic"], torch.optim.AdamW)
    assert {group["lr"] for group in made["critic"].param_groups} == {1e-3}
    assert {group["weight_decay"] for group in made["critic"].param_groups} == {0.0}
    assert {group["betas"] for group in made["critic"].param_groups} == {(0.5, 0.9)}
    assert {group["weight_decay"] for group in made["main"].param_groups} == {0.0, 0.5}


class Unfreezing(Method):
    """Trains its second weight in the second epoch only."""

    def __init__(self) -> None:
        super().__init__(cases.make_schema("binary", "tables"))
        self.first, self.second = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))

    def begin_epoch(self) -> None:
        self.second.requires_grad_(self.clock.epoch == 1)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        return LossTerms({"task": self.first.square() + self.second.square()})

    def predict(self, batch: Batch) -> Tensor:
        return torch.full((len(batch), 2), 0.5)


def test_what_is_trained_is_read_again_in_every_epoch_and_keeps_its_state():
    method = Unfreezing()
    method.begin_epoch()
    optimisers = Optimisers(method, SETTINGS)
    trained = []
    for epoch in range(3):
        method.clock = Clock(epoch=epoch)
        method.begin_epoch()
        optimisers.refresh()
        before = method.second.item()
        step(method, optimisers)
        trained.append(method.second.item() != before)
    assert trained == [False, True, False]
    state = optimisers.state()
    assert {key.split("/")[1] for key in state} == {"first", "second"}
    assert state["main/second/step"] == 1
    assert state["main/first/step"] == 3
    again = Optimisers(method, SETTINGS)
    again.restore(state)
    assert {key: value.item() for key, value in again.state().items()} == {k: v.item() for k, v in state.items()}


@pytest.mark.parametrize(("schedule", "expected"), [("constant", [0.5, 1, 1, 1]), ("cosine", [0.5, 1, 1, 0.5])])
def test_learning_rates_warm_up_and_follow_the_schedule(schedule, expected):
    settings = TrainingSettings(schedule=schedule, warmup=0.5)
    factors = [learning_rate_factor(settings, step, 4) for step in range(4)]
    assert factors == pytest.approx(expected)
