"""Places where a training step waits for its device: at most one a modality, for every method of the registry.

``PYTHONPATH=src:tests python tests/training/test_synchronisations.py`` prints the number of each method.
"""

from types import SimpleNamespace

import pytest
import torch
from contracts import cases
from training.synchronisations import Synchronisations

from amodal.method import Clock
from amodal.methods import METHODS
from amodal.processes import Processes
from amodal.settings import TrainingSettings
from amodal.training.loop import TrainingLoop

# What waits more often than once a modality, and why.
MORE = {
    "cepa": (11, "hidden tokens of each modality, their places in each transformer, and the reach of the kernel"),
    "cepa, paper": (18, "the range of the projections of each modality's distance, and completions of a removal apart"),
    "cepa, block masks": (9, "as cepa"),
    "m3jepa": (6, "rows, tokens and experts of prediction and contrast, one after the other"),
    "m3jepa, published gates": (6, "as m3jepa"),
}
# A text encoder waits for the number of words of the longest text: apart, because it is so for every method.
TEXTS = "kinds/words.py"


@pytest.fixture
def on_a_device(monkeypatch):
    """The branches of a GPU, on ordinary tensors of the CPU."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)


def loop_of(name):
    """A training loop of a method, and a batch of all patterns."""
    schema = cases.make_schema()
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 3))
    torch.manual_seed(0)
    method = cases.new_method(name, schema, dropout=0.1)
    cases.make_ready(method, [batch], remember=False)
    data = SimpleNamespace(settings=TrainingSettings(epochs=2, clip=1.0), seed=0)
    loop = TrainingLoop(method, data, Processes(torch.device("cpu")), {})
    method.train()
    method.clock = Clock(0, 0, 20, 2)
    method.begin_epoch()
    return loop, batch


@pytest.mark.parametrize(
    "name", [name if name in METHODS else pytest.param(name, marks=pytest.mark.slow) for name in cases.BY_GRADIENTS]
)
def test_a_step_waits_once_a_modality_at_most(name, request):
    loop, batch = loop_of(name)
    ready = loop._ready(batch)
    request.getfixturevalue("on_a_device")
    loop._step(ready, 0, 0)  # the optimisers' state and tables that are made once
    loop.method.clock = Clock(1, 0, 20, 2)
    with Synchronisations() as counted:
        loop._step(ready, 0, 1)
    waits = {place: n for place, n in counted.waits.items() if not place.startswith(TEXTS)}
    most = MORE[name][0] if name in MORE else len(batch.modalities)
    assert sum(waits.values()) <= most, waits
    if name != "cepa, paper":  # Chebyshev tables by the range of the projections
        assert not counted.copies


def test_what_is_counted():
    """The counter sees what it is for, and nothing else; lines outside amodal do not count."""
    x = torch.tensor([1.0, -1.0, 2.0])
    code = "def f(x):\n    float(x[0]); x.tolist(); x[x > 0]; (x > 0).nonzero(); x.where(x > 0, 0.0); torch.tensor(1.0)"
    space = {"torch": torch}
    exec(compile(code, "/somewhere/amodal/made.py", "exec"), space)
    with Synchronisations() as counted:
        space["f"](x)
        float(x[0])
    kinds = sorted(place.split(" ", 1)[1] for place in counted.waits)
    assert kinds == ["_local_scalar_dense", "index by bool", "nonzero", "tolist"]
    assert sum(counted.copies.values()) == 1


@pytest.mark.parametrize("name", ["cm2", "cm2, kendall", "cepa", "fills", "dicmor", "primo"])
def test_the_branches_of_a_device_agree_with_those_of_a_cpu(name, request):
    results = []
    for forced in (False, True):
        if forced:
            request.getfixturevalue("on_a_device")
        loop, batch = loop_of(name)
        for index in range(2):
            loop.method.clock = Clock(index, 0, 20, 2)
            loop._step(loop._ready(batch), 0, index)
        loop.method.eval()
        with torch.no_grad():
            loss = float(loop.sums["train_loss"][0] / loop.sums["train_loss"][1])
            results.append((loss, loop.method.predict(batch)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-4)


if __name__ == "__main__":
    for method in cases.BY_GRADIENTS:
        with pytest.MonkeyPatch.context() as patch:
            loop, batch = loop_of(method)
            ready = loop._ready(batch)
            patch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)
            loop._step(ready, 0, 0)
            with Synchronisations() as found:
                loop._step(ready, 0, 1)
        texts = sum(n for place, n in found.waits.items() if place.startswith(TEXTS))
        print(f"{method:28} {found.waits.total() - texts:3} waits, {texts} for texts, {found.copies.total()} copies")
