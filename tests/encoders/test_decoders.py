import numpy as np
import pytest
import torch
from scipy import stats

from amodal.batch import Batch
from amodal.encoders.decoders import (
    CellDecoder,
    GaussianNetwork,
    ImageDecoder,
    WordDecoder,
    build_decoders,
    reconstruction_nats,
    target_features,
    target_width,
)
from amodal.schema import Modality, Schema, Task

DRAW = torch.Generator().manual_seed(0)


def _normal(decoder, z, values):
    """Log densities under the decoder's own means, by scipy, cell by cell."""
    mean = decoder.layers(z).unflatten(-1, decoder.shape).detach().numpy()
    return stats.norm.logpdf(values.numpy(), mean)


def test_cells_that_were_measured_within_the_length():
    decoder = CellDecoder(Modality("a", "series", (4, 2)), latent=3, hidden=5)
    z, values = torch.randn(2, 3, 3, generator=DRAW), torch.randn(3, 4, 2, generator=DRAW)
    measured = torch.rand(3, 4, 2, generator=DRAW) < 0.6
    lengths = torch.tensor([4, 2, 0])
    kept = measured.numpy() & (np.arange(4)[None, :, None] < lengths.numpy()[:, None, None])
    each = np.where(kept, _normal(decoder, z, values), 0).sum((2, 3)) / np.maximum(kept.sum((1, 2)), 1)
    found = decoder.log_likelihood(z, values, measured, lengths)
    np.testing.assert_allclose(found.detach().numpy(), each, atol=1e-5)
    assert (found[:, 2] == 0).all()


def test_what_was_not_measured_cannot_matter():
    decoder = CellDecoder(Modality("a", "tabular", (4,)), latent=3, hidden=5)
    z, values = torch.randn(1, 2, 3, generator=DRAW), torch.randn(2, 4, generator=DRAW)
    measured = torch.tensor([[True, False, True, True], [True, True, False, False]])
    found = decoder.log_likelihood(z, values, measured, None)
    for hidden in (torch.nan, torch.inf, 1e30):
        dirty = torch.where(measured, values, hidden)
        assert torch.equal(decoder.log_likelihood(z, dirty, measured, None), found)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (3, 5, 9), (1, 28, 28), (2, 112, 112), (1, 15, 60)])
def test_images_of_any_size(shape):
    decoder = ImageDecoder(Modality("a", "image", shape), latent=3, hidden=8)
    values = torch.randn(2, *shape, generator=DRAW)
    z = torch.randn(4, 2, 3, generator=DRAW)
    found = decoder.log_likelihood(z, values, None, None)
    assert found.shape == (4, 2)
    mean = decoder.blocks(decoder.dense(z.flatten(0, 1)).unflatten(1, decoder.start)).detach()
    mean = mean[..., : shape[1], : shape[2]].unflatten(0, (4, 2))
    expected = stats.norm.logpdf(values.numpy(), mean.numpy()).mean((2, 3, 4))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4)
    found.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


def test_an_image_can_be_learnt_by_heart():
    torch.manual_seed(0)
    decoder = ImageDecoder(Modality("a", "image", (1, 16, 16)), latent=2, hidden=32)
    z, values = torch.eye(2)[None], torch.randn(2, 1, 16, 16, generator=DRAW)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        loss = -decoder.log_likelihood(z, values, None, None).mean()
        loss.backward()
        optimiser.step()
    assert loss < 0.919 + 0.25  # 0.919 is that of the right means; a constant has 0.5 more


def _text(*texts):
    width = max(map(len, texts))
    values = torch.tensor([list(text.ljust(width).encode()) for text in texts], dtype=torch.uint8)
    return values, torch.tensor([len(text) for text in texts])


def test_words_whatever_their_order():
    decoder = WordDecoder(Modality("a", "text", ()), latent=3, hidden=5)
    z = torch.randn(2, 1, 3, generator=DRAW).expand(2, 4, 3)
    values, lengths = _text("no acute edema", "Edema, acute. No", "edema", "...")
    found = decoder.log_likelihood(z, values, None, lengths)
    torch.testing.assert_close(found[:, 0], found[:, 1])
    assert (found[:, 3] == 0).all()
    share = decoder.layers(z[:, 0]).softmax(-1)
    assert (found[:, 2].exp()[:, None] - share).abs().amin(1).max() < 1e-6  # one word: its bucket's share
    single = [decoder.log_likelihood(z[:, :1], *_with(word), None) for word in ("no", "acute", "edema")]
    torch.testing.assert_close(found[:, 0], torch.cat(single, dim=1).mean(1))


def _with(word):
    values, _ = _text(word)
    return values, None


def test_modalities_add_up_where_they_count():
    schema = Schema(
        (Modality("a", "tabular", (3,)), Modality("b", "image", (1, 4, 4)), Modality("c", "text", ())),
        Task("regression"),
    )
    decoders = build_decoders(schema, latent=2, hidden=4)
    assert [type(decoder) for _, decoder in decoders.items()] == [CellDecoder, ImageDecoder, WordDecoder]
    text, lengths = _text("one two", "three", "")
    batch = Batch(
        {"a": torch.randn(3, 3, generator=DRAW), "b": torch.randn(3, 1, 4, 4, generator=DRAW), "c": text},
        dict.fromkeys("abc", torch.ones(3, dtype=torch.bool)),
        lengths={"c": lengths},
    )
    z = torch.randn(2, 3, 2, generator=DRAW)
    counted = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()
    found = reconstruction_nats(decoders, batch, z, counted)
    one = decoders["a"].log_likelihood(z, batch.values["a"], None, None)[:, 0]
    two = decoders["b"].log_likelihood(z, batch.values["b"], None, None)[:, 0]
    three = decoders["c"].log_likelihood(z, text, None, lengths)[:, 1]
    torch.testing.assert_close(found, torch.stack([one + two, three, torch.zeros(2)], dim=1))


def test_gaussians_are_never_too_sure():
    network = GaussianNetwork(2, 3, hidden=4, lowest=-6.0)
    mean, log_var = network(1e6 * torch.randn(50, 2, generator=DRAW))
    assert mean.shape == log_var.shape == (50, 3)
    assert log_var.min() >= -6
    assert log_var.max() <= 10


@pytest.mark.parametrize(
    ("task", "target", "expected"),
    [
        (Task("multiclass", classes="abc"), torch.tensor([2, 0]), [[0, 0, 1], [1, 0, 0]]),
        (Task("binary", classes=(0, 1)), torch.tensor([[0.3, 0.7]]), [[0.3, 0.7]]),
        (Task("multilabel", classes="xy"), torch.tensor([[1.0, torch.nan]]), [[1, 0, 1, 0]]),
        (Task("regression"), torch.tensor([2.5, -1.0]), [[2.5], [-1]]),
    ],
)
def test_targets_as_inputs(task, target, expected):
    found = target_features(target, task)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    assert found.shape[1] == target_width(task)
