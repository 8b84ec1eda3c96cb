"""Small schemas, batches and methods that the contracts are tested on.

A method that enters `amodal.METHODS` is tested by being there. Add an entry to `SMALL` if its defaults are too large
for a test, to `VARIANTS` if options take it another way, or to `READS` if it cannot use every modality.
"""

from __future__ import annotations

import copy
import functools
import inspect
from itertools import combinations

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import Encoder, PerModality, Tokens, build_encoders
from amodal.method import Clock, EstimatedMethod, LossTerms, Method, SamplingMethod
from amodal.methods import METHODS
from amodal.options import resolve_options
from amodal.schema import Modality, Schema, Task
from amodal.settings import TrainingSettings
from amodal.training.optimisers import Optimisers, learning_rate_factor
from amodal.training.step import training_step

# Options that make a method small; "dropout" and "hidden" are set wherever a method has them.
SMALL: dict[str, dict] = {
    "boosting": {"steps": 20, "learning_rate": 0.3, "leaves": 4, "min_rows": 1, "l2": 0.0, "buckets": 8},
    "ensemble": {
        "members": [
            {"name": "modality_dropout", "hidden": 8, "dropout": 0.0},
            {"name": "late_fusion", "hidden": 8, "dropout": 0.0},
            {"name": "boosting", "steps": 8, "leaves": 4, "min_rows": 1, "buckets": 8},
        ]
    },
    "per_pattern": {"min_rows": 1},
    "primo": {"hidden": 32, "latent": 4},
    "cepa": {"layers": 1},
    "cm2": {"hidden": 32, "latent": 6, "components": 2, "prediction_draws": 4, "training_draws": 2},
    "fills": {"drop": 0.35, "form": "radial"},
    "mvae": {"hidden": 32, "latent": 4},
    "mmvae": {"hidden": 32, "latent": 4},
    "cmmd": {"hidden": 32, "latent": 4},
    "lvae": {"hidden": 32, "latent": 4},
    "lsmt": {"layers": 1, "latents": 3},
    "daft": {"factor": 1.0},  # the width is small already: two units may see nothing
    "m3jepa": {"experts": 3},
    "fusemoe": {"experts": 4},
    "dicmor": {"steps": 2, "flow_hidden": 8},
    "smil": {"prototypes": 4},
    "drim": {"heads": 2, "head_width": 4},
    "m3care": {"layers": 1, "bank": 24},
}
# Methods that read one modality only by default: the others cannot teach them anything.
READS: dict[str, int] = {"unimodal": 0, "cmmd": 0}
# Steps after which every parameter has had a turn, where these are more than three: m3jepa takes one direction a step.
STEPS_TO_REACH = {"m3jepa": 20}
# Methods with a model for every modality or every pattern, which meet all patterns without removing anything.
BY_STRUCTURE = ("unimodal", "late_fusion", "per_pattern", "ensemble")


class Identity(Encoder):
    """A table as its own pooled vector, for values computed by hand. It has no parameters."""

    kinds = ("tabular",)

    def __init__(self, modality: Modality):
        super().__init__(modality, width=modality.n_features)

    @property
    def n_tokens(self) -> int:
        return 1

    def embed(self, values, measured=None, lengths=None) -> Tokens:
        return Tokens(values[:, None], torch.ones(len(values), 1, dtype=torch.bool))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        return tokens


def identities(schema: Schema) -> PerModality:
    return PerModality({modality.name: Identity(modality) for modality in schema.modalities})


# Options under which a method is tested a second time, because they take another path.
VARIANTS: dict[str, tuple[str, dict]] = {
    "fusion, mean fill": ("fusion", {"fill": "mean"}),
    "fusion, learned fill": ("fusion", {"fill": "learned"}),
    # Without the clean prediction the paper's fusion sees other predictions in training than afterwards: see the log.
    "cepa, paper": (
        "cepa",
        {"preset": "paper", "dropout": 0.0, "heads": 2, "clean_prediction": True, "completion_weight": 0.1},
    ),
    "cepa, block masks": ("cepa", {"masking": "block", "alignment": {"name": "conditional", "context": "transformer"}}),
    "fusion, transformer": ("fusion", {"fusion": {"name": "transformer", "dropout": 0.0}}),
    "cm2, paper": ("cm2", {"preset": "paper", "fusion": {"name": "lstm", "layers": 2}, "w_alignment": 0.01}),
    "cm2, kendall": ("cm2", {"variant": "kendall", "family": "clayton", "training_draws": 2, "fusion": "lstm"}),
    "primo, paper": ("primo", {"preset": "paper", "w_anchor": 0.1, "w_tie": 0.1}),  # at 1, it stays unsure on purpose
    "lvae, mixture": ("lvae", {"imputer_components": 3}),
    "dicmor, published": ("dicmor", {"literal": True, "merge": "linear"}),
    "mmtm, hub, alternating": ("mmtm", {"preset": "paper", "form": "hub", "dropout": 0.0}),
    "mmtm, mean": ("mmtm", {"output": "mean"}),
    "daft, joint": ("daft", {"form": "joint", "activation": "sigmoid"}),
    "daft, paper": ("daft", {"preset": "paper", "dropout": 0.0}),
    "lsmt, running, deep": ("lsmt", {"positions": "running", "doubled": True, "deep_supervision": True, "latents": 2}),
    "drfuse, paper": ("drfuse", {"preset": "paper", "dropout": 0.0}),
    "unified, paper": ("unified", {"preset": "paper", "dropout": 0.0}),
    "fusemoe, joint": ("fusemoe", {"router": "joint", "gate": "softmax", "layers": 1}),
    "m3jepa, published gates": ("m3jepa", {"renormalise": False, "detach_targets": False}),
    "primo, also masked": ("primo", {"also_masked": True, "always_observed": None, "training_draws": 2}),
}

REGISTRY: dict[str, type[Method]] = dict(METHODS)
CASES: dict[str, tuple[str, dict]] = {name: (name, {}) for name in REGISTRY} | VARIANTS
NAMES = tuple(CASES)
BY_GRADIENTS = tuple(name for name, case in CASES.items() if not issubclass(REGISTRY[case[0]], EstimatedMethod))
BY_ESTIMATE = tuple(name for name in CASES if name not in BY_GRADIENTS)
SAMPLING = tuple(name for name, case in CASES.items() if issubclass(REGISTRY[case[0]], SamplingMethod))

TASKS = {
    "binary": Task("binary", classes=("no", "yes")),
    "multiclass": Task("multiclass", classes=("a", "b", "c")),
    "multilabel": Task("multilabel", classes=("x", "y")),
    "regression": Task("regression"),
}
# One modality of each kind, and three tables for what takes many steps.
MODALITIES = {
    "mixed": (
        Modality("table", "tabular", (3,)),
        Modality("vital-signs", "series", (4, 2)),
        Modality("image", "image", (1, 4, 4)),
        Modality("text", "text", ()),
    ),
    "tables": tuple(Modality(name, "tabular", (4,)) for name in ("a", "b", "c")),
    "many": tuple(Modality(f"m{i}", "tabular", (2,)) for i in range(5)),
}


def make_schema(task: str = "multiclass", modalities: str = "mixed") -> Schema:
    return Schema(MODALITIES[modalities], TASKS[task])


def patterns(n_modalities: int) -> Tensor:
    """All 2^M - 1 patterns, bool (2^M - 1, M)."""
    chosen = [c for k in range(1, n_modalities + 1) for c in combinations(range(n_modalities), k)]
    return torch.tensor([[m in c for m in range(n_modalities)] for c in chosen])


def mixed_presence(schema: Schema, repeats: int = 1) -> Tensor:
    return patterns(len(schema.names)).repeat(repeats, 1)


def make_batch(schema: Schema, observed: Tensor, *, seed: int = 0, hidden: float = 0.0, blank: bool = True) -> Batch:
    """A batch whose present content depends on the seed alone.

    Args:
        schema: Modalities and task.
        observed: Presence, bool (B, M).
        seed: Of content and target.
        hidden: What stands in absent rows, unmeasured cells and padding (of text: bytes 255 unless it is 0).
        blank: Whether the batch is built as always; False: behind its back, with absent rows as they are.
    """
    draw = torch.Generator().manual_seed(seed)
    n = len(observed)
    values, measured, lengths = {}, {}, {}
    for modality in schema.modalities:
        name = modality.name
        if modality.kind == "text":
            lengths[name] = torch.randint(3, 10, (n,), generator=draw)
            content = torch.randint(97, 104, (n, 9), generator=draw, dtype=torch.uint8)
            content[:, 2] = 32
            keep = torch.arange(9) < lengths[name][:, None]
            filler = torch.tensor(0 if hidden == 0 else 255, dtype=torch.uint8)
        else:
            content = torch.randn(n, *modality.shape, generator=draw)
            keep = torch.ones_like(content, dtype=torch.bool)
            filler = torch.tensor(hidden)
        if modality.kind in ("tabular", "series"):
            keep = torch.rand(content.shape, generator=draw) < 0.8
            measured[name] = keep.clone()
        if modality.kind == "series":
            lengths[name] = torch.randint(1, modality.shape[0] + 1, (n,), generator=draw)
            keep &= (torch.arange(modality.shape[0]) < lengths[name][:, None])[..., None]
        values[name] = torch.where(keep, content, filler)
    present = dict(zip(schema.names, observed.unbind(1)))
    target, ids = make_target(schema.task, n, draw), [f"id{i}" for i in range(n)]
    whole = {name: _where_rows(seen, values[name], hidden) for name, seen in present.items()}
    batch = Batch(whole, present, measured, lengths, target, ids)
    if blank:
        return batch
    behind = {name: _where_rows(seen, batch.values[name], hidden) for name, seen in present.items()}
    return Batch._trusted(
        values=behind,
        observed=present,
        measured=batch.measured,
        lengths=batch.lengths,
        target=target,
        ids=ids,
        labelled=batch.labelled,
    )


def _where_rows(seen: Tensor, values: Tensor, hidden: float) -> Tensor:
    filler = float(hidden != 0) * 255 if values.dtype == torch.uint8 else hidden
    return torch.where(seen.view(-1, *[1] * (values.ndim - 1)), values, torch.tensor(filler, dtype=values.dtype))


def make_target(task: Task, n: int, generator: torch.Generator) -> Tensor:
    """Targets with every class; a multilabel target has an unknown label here and there, and one row of none."""
    if task.kind == "regression":
        return torch.randn(n, generator=generator)
    if task.kind == "multilabel":
        labels = torch.randint(0, 2, (n, task.n_outputs), generator=generator).float()
        labels[torch.rand(labels.shape, generator=generator) < 0.1] = torch.nan
        if n > 4:
            labels[:2], labels[-1] = torch.tensor([[0.0] * task.n_outputs, [1.0] * task.n_outputs]), torch.nan
        return labels
    return torch.arange(n) % task.n_outputs


def without_target(batch: Batch) -> Batch:
    return Batch(batch.values, batch.observed, batch.measured, batch.lengths)


def make_encoders(schema: Schema, *, width: int = 8, dropout: float = 0.0) -> PerModality:
    return build_encoders(schema, width=width, dropout=dropout)


def method_of(name: str) -> type[Method]:
    return REGISTRY[CASES[name][0]]


def options_of(name: str, *, dropout: float = 0.0) -> dict:
    known = inspect.signature(method_of(name)).parameters
    options = {"dropout": dropout, "hidden": 8}
    kept = {key: value for key, value in options.items() if key in known}
    return kept | SMALL.get(CASES[name][0], {}) | CASES[name][1]


def steps_of(name: str) -> int:
    """Steps in which a method learns 32 rows by heart; fewer for one whose steps are long."""
    if name == "cm2, kendall":
        return 600  # completions are drawn by a law that the task does not move: noise that the head has to see through
    return 150 if CASES[name][0] in ("cepa", "dicmor", "drim", "fusemoe", "m3jepa", "robult") else 300


def new_method(name: str, schema: Schema, *, seed: int = 0, dropout: float = 0.0, encoders=None) -> Method:
    """A method as `amodal.fit` would build it, small, before any hook is called."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = make_encoders(schema, dropout=dropout) if encoders is None else encoders
        options = resolve_options(
            method_of(name), options_of(name, dropout=dropout), owner=name, outside=("schema", "encoders")
        )
        return method_of(name)(schema, encoders, **options).to("cpu")  # as training does: no part may break it


def make_method(
    name: str, task: str = "multiclass", modalities: str = "mixed", *, seed: int = 0, dropout: float = 0.0
) -> Method:
    """A method that has been prepared, or estimated, on every pattern; in evaluation mode, a copy of its own."""
    return copy.deepcopy(_prepared(name, task, modalities, seed, dropout))


@functools.cache
def _prepared(name: str, task: str, modalities: str, seed: int, dropout: float) -> Method:
    schema = make_schema(task, modalities)
    method = new_method(name, schema, seed=seed, dropout=dropout)
    make_ready(method, [make_batch(schema, mixed_presence(schema, 2), seed=seed) for seed in (1, 2)])
    return method.eval()


def make_ready(method: Method, batches: list[Batch], *, remember: bool = True) -> None:
    """What `amodal.fit` does before the first step and after the last; for an estimated method, all that it does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if isinstance(method, EstimatedMethod):
            method.estimate(batches, [], torch.Generator().manual_seed(0))
        else:
            for part in method.estimated_parts():
                part.estimate(batches, [], torch.Generator().manual_seed(0))
            method.prepare(batches)
        if remember:
            training = method.training
            with torch.no_grad():
                method.eval().remember(batches)
                method.adjust([(batch, torch.ones(len(batch))) for batch in batches])
            method.train(training)


def objectives_of(method: Method, batch: Batch, generator: torch.Generator) -> dict[str, LossTerms]:
    """The loss terms of every optimiser."""
    if method.alternates:
        return {name: method.objective_of(name, batch, generator) for name in method.optimisers}
    return dict(method.objectives(batch, generator))


def loss_of(method: Method, batch: Batch, *, seed: int = 0, global_seed: int = 0) -> Tensor:
    """The sum of the objectives of all optimisers."""
    with torch.random.fork_rng():
        torch.manual_seed(global_seed)
        objectives = objectives_of(method, batch, torch.Generator().manual_seed(seed))
        return torch.stack([terms.total for terms in objectives.values()]).sum()


def gradients_of(method: Method, batch: Batch, *, seed: int = 0) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradients, each optimiser's objective to its own parameters, as training takes them."""
    named = {id(p): key for key, p in method.named_parameters()}
    gradients: dict[str, Tensor | None] = dict.fromkeys(named.values())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objectives = objectives_of(method, batch, torch.Generator().manual_seed(seed))
        for name, terms in objectives.items():
            parameters = list(method.parameters_of(name))
            found = torch.autograd.grad(terms.total, parameters, allow_unused=True, retain_graph=True)
            gradients |= {named[id(p)]: g for p, g in zip(parameters, found)}
    return torch.stack([terms.total.detach() for terms in objectives.values()]).sum(), gradients


def train(method: Method, batch: Batch, *, steps: int, learning_rate: float = 1e-2, seed: int = 0) -> Method:
    """Steps a method on one batch with the training step of `amodal.fit`, all hooks called.

    Evaluation mode is left on.
    """
    make_ready(method, [batch], remember=False)
    if isinstance(method, EstimatedMethod):
        return method.eval()
    settings = TrainingSettings(epochs=1, learning_rate=learning_rate, weight_decay=0.0, optimiser="adam", warmup=0.0)
    method.clock = Clock(steps=steps)
    method.train()
    method.begin_epoch()
    optimisers = Optimisers(method, settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(steps):
            method.clock = Clock(step=step, steps=steps)
            optimisers.set_learning_rates(learning_rate_factor(settings, step, steps))
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            training_step(method, optimisers, batch, generator, clip=1.0)
    method.clock = Clock(step=steps, steps=steps)
    method.eval()
    with torch.no_grad():
        method.remember([batch])
        method.adjust([(batch, torch.ones(len(batch)))])
    return method
