"""What every encoder promises, over the whole registry. A contract never replaces one value from outside."""

import copy
import inspect
import json
import math
import re

import pytest
import torch
from encoders import tiny_networks
from safetensors.torch import load, save
from torch import Tensor

from amodal.batch import Batch
from amodal.citation import bibliography
from amodal.encoders import (
    ENCODERS,
    Encoded,
    Encoder,
    Tokens,
    build_encoders,
    encode_present,
)
from amodal.encoders.sets import SetEncoder
from amodal.kinds import MODALITY_KINDS
from amodal.schema import Modality, Schema, Task

MODALITIES = {
    "tabular": Modality("m", "tabular", (5,)),
    "series": Modality("m", "series", (20, 3)),
    "image": Modality("m", "image", (1, 9, 7)),
    "text": Modality("m", "text", ()),
}
# Options without which an encoder cannot be built, or is too large for a test.
OPTIONS: dict[str, dict] = {
    "resnet": {"model": tiny_networks.RESNET, "image_size": 16},
    "pretrained_vision": {"model": tiny_networks.VIT},
    "pretrained_text": {"model": tiny_networks.BERT},  # and a tokenizer
}
BARE = ("plain_lstm", "flattened_gru")  # published for imputed values, with indicators as further features
BATCH_STATISTICS = ("lenet", "resnet")  # published with BatchNorm
KINDS = {name: kind for name, encoder in ENCODERS.items() for kind in encoder.kinds}
HIDDEN = (0.0, 1e30, math.nan, math.inf)
WIDTH = 8
WORDS = ("no", "acute", "edema", "clear", "lungs", "zzz", "the")

every_encoder = pytest.mark.parametrize("name", list(ENCODERS))
every_encoder_of_cells = pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k in ("tabular", "series")])
every_encoder_of_series = pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k == "series"])
every_encoder_with_lengths = pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k in ("series", "text")])


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    return tiny_networks.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def make(tokenizer):
    def build(name: str, *, dropout: float | None = None, seed: int = 0, width: int = WIDTH, **options) -> Encoder:
        options = OPTIONS.get(name, {}) | ({"tokenizer": tokenizer} if name == "pretrained_text" else {}) | options
        choice = json.loads(json.dumps({"name": name} | options))  # options are plain JSON
        schema = Schema((MODALITIES[KINDS[name]],), Task("regression"))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = build_encoders(schema, width=width, choices={"m": choice}, dropout=dropout)["m"]
        assert isinstance(encoder, Encoder)
        return encoder

    return build


def rows_of(kind: str, n: int, seed: int = 0) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Values, measured cells and lengths of n rows."""
    draw = torch.Generator().manual_seed(seed)
    if kind == "text":
        texts = [
            " ".join(WORDS[i] for i in torch.randint(len(WORDS), (2 + row % 3,), generator=draw)).encode()
            for row in range(n)
        ]
        table = torch.zeros(n, max(map(len, texts)), dtype=torch.uint8)
        for row, text in zip(table, texts):
            row[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        return table, None, torch.tensor([len(text) for text in texts])
    values = torch.randn(n, *MODALITIES[kind].shape, generator=draw)
    if kind == "image":
        return values, None, None
    measured = torch.rand(values.shape, generator=draw) < 0.6
    lengths = torch.randint(5, 21, (n,), generator=draw) if kind == "series" else None
    if lengths is not None:
        lengths[0] = 20
    return values, measured, lengths


def batch_of(kind: str, observed: Tensor, *, hidden: float = 0.0, blank: bool = True) -> Batch:
    """A batch with `hidden` in all absent rows; unless blanked, they reach whoever reads them."""
    values, measured, lengths = rows_of(kind, len(observed))
    filler = torch.tensor(255 * (hidden != 0) if kind == "text" else hidden, dtype=values.dtype)
    values = torch.where(observed.view(-1, *[1] * (values.ndim - 1)), values, filler)
    parts = {
        "values": {"m": values},
        "observed": {"m": observed},
        "measured": {} if measured is None else {"m": measured},
        "lengths": {} if lengths is None else {"m": lengths},
    }
    return (
        Batch(**parts)
        if blank
        else Batch._trusted(**parts, target=None, ids=None, labelled=torch.zeros(len(observed), dtype=torch.bool))
    )


def fingerprint(encoded: Encoded) -> Tensor:
    """A scalar that depends on every part of the pooled vectors."""
    weight = torch.linspace(-1.0, 1.3, encoded.pooled.numel()).view(encoded.pooled.shape)
    return (encoded.pooled * weight).sum() + (encoded.pooled.square() * weight.flip(0)).sum()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_encoder
def test_shapes_are_as_promised(name, make):
    encoder, rows = make(name), rows_of(KINDS[name], 4)
    tokens, valid, pooled = encoder.eval()(*rows)
    assert tokens.shape[::2] == (4, WIDTH)
    assert tokens.shape[1] == encoder.n_tokens or (KINDS[name] == "text" and 1 <= tokens.shape[1] <= encoder.n_tokens)
    assert valid.shape == tokens.shape[:2]
    assert valid.dtype == torch.bool
    assert valid.any(1).all()
    assert pooled.shape == (4, WIDTH)
    assert tokens.isfinite().all()
    assert pooled.isfinite().all()
    assert not tokens[~valid].any()


@every_encoder
def test_forward_is_embed_trunk_pool(name, make):
    encoder, rows = make(name).eval(), rows_of(KINDS[name], 4)
    embedded, valid = encoder.embed(*rows)
    assert embedded.shape[2] == encoder.embed_width
    tokens = encoder.trunk(embedded, valid)
    whole = encoder(*rows)
    assert torch.equal(whole.valid, valid)
    close(whole.tokens, tokens)
    close(whole.pooled, encoder.pool(tokens, valid))


@every_encoder
def test_tokens_can_be_replaced_between_the_stages(name, make):
    """Latent prediction hides tokens: the trunk takes what is put in their place, and gradients reach it."""
    encoder = make(name, dropout=0.0)
    embedded, valid = encoder.embed(*rows_of(KINDS[name], 4))
    placeholder = torch.randn(encoder.embed_width, requires_grad=True)
    hide = valid & (torch.arange(valid.shape[1]) == 0)
    tokens = encoder.trunk(torch.where(hide[..., None], placeholder, embedded), valid)
    # a LayerNorm at the end has a constant plain sum, hence the square of a part
    tokens[..., : WIDTH // 2].square().sum().backward()
    assert placeholder.grad is not None
    assert placeholder.grad.isfinite().all()
    assert placeholder.grad.any()


def masks_of(encoder: Encoder, valid: Tensor) -> list[Tensor]:
    """Two masks of an encoder's tokens: by turns, and at random; each leaves a token to see."""
    may = encoder.hideable(valid)
    noise = torch.rand(valid.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    masks = [may & (torch.arange(valid.shape[1]) % 2 == 1), may & noise]
    return [hide & ~(hide.all(1, keepdim=True)) for hide in masks]


def masked_inputs(encoder: Encoder, embedded: Tokens, hide: Tensor, rows: tuple) -> Tensor:
    """What the trunk sees where nothing is hidden; constant elsewhere."""
    again = encoder.embed_without(hide, *rows)
    return torch.where(hide[..., None], 0.0, embedded.values if again is None else again)


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if kind != "text"])
def test_hidden_means_hidden(name, make):
    """The derivative of every visible token by what hidden ones read is exactly zero, before and after the trunk."""
    encoder, (values, measured, lengths) = make(name, dropout=0.0).eval(), rows_of(KINDS[name], 4)
    if not encoder.can_hide:
        pytest.skip("counts as one token")
    values.requires_grad_()
    rows = (values, measured, lengths)
    embedded = encoder.embed(*rows)
    reads = [  # which values (P, ...) each hideable token reads when it is the only one that is visible
        torch.autograd.grad(
            masked_inputs(encoder, embedded, encoder.hideable(embedded.valid) & (torch.arange(n) != token), rows)[
                :, token
            ].sum(),
            values,
            retain_graph=True,
        )[0]
        != 0
        for n in [embedded.values.shape[1]]
        for token in range(n)
    ]
    for hide in masks_of(encoder, embedded.valid):
        assert hide.any()
        inputs = masked_inputs(encoder, embedded, hide, rows)
        for tokens in (inputs, encoder.trunk(inputs, embedded.valid)):
            weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2))
            (gradient,) = torch.autograd.grad((tokens * weight).sum(), values, retain_graph=True)
            assert gradient.any()
            for token, read in enumerate(reads):
                hidden = hide[:, token].view(-1, *[1] * (values.ndim - 1))
                assert not (gradient * (read & hidden)).any()


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if kind != "image"])
def test_what_hidden_tokens_read_cannot_matter_in_any_other_way(name, make):
    """Also not by what was measured where, by a carried value, by a summary, or by other words."""
    encoder, (values, measured, lengths) = make(name, dropout=0.0).eval(), rows_of(KINDS[name], 4)
    if not encoder.can_hide:
        pytest.skip("counts as one token")
    embedded = encoder.embed(values, measured, lengths)
    for token in encoder.hideable(embedded.valid).any(0).nonzero()[:, 0].tolist():
        hide = embedded.valid & (torch.arange(embedded.valid.shape[1]) == token)
        before = masked_inputs(encoder, embedded, hide, (values, measured, lengths))
        other, seen = values.clone(), None if measured is None else measured.clone()
        if KINDS[name] == "tabular":
            other[:, token], seen[:, token] = 9.0, ~seen[:, token]
        elif KINDS[name] == "series":
            size = getattr(encoder, "window", 1)
            at = token - (getattr(encoder, "summary", None) is not None)
            steps = slice(at * size, (at + 1) * size)
            other[:, steps], seen[:, steps] = 9.0, ~seen[:, steps]
        else:
            for row, size in enumerate(lengths.tolist()):
                words = bytes(other[row, :size].tolist()).split(b" ")
                if 0 < token <= len(words) and name == "hashing":
                    words[token - 1] = words[token - 1][::-1]
                other[row, :size] = torch.tensor(list(b" ".join(words)), dtype=torch.uint8)
        after = masked_inputs(encoder, encoder.embed(other, seen, lengths), hide, (other, seen, lengths))
        assert torch.equal(before, after)


@every_encoder
def test_stages_can_be_run_from_outside(name, make):
    encoder, rows = make(name).eval(), rows_of(KINDS[name], 4)
    stage_map, valid = encoder.begin(*rows)
    assert len(encoder.stage_widths) >= 1
    for index, channels in enumerate(encoder.stage_widths):
        stage_map = encoder.run_stage(index, stage_map, valid)
        assert stage_map.shape[encoder.channel_axis] == channels
        assert valid is None or valid.shape == stage_map.shape[:2]
    for ours, theirs in zip(encoder.finish(stage_map, valid), encoder(*rows)):
        close(ours.float(), theirs.float())


@every_encoder
@pytest.mark.parametrize("blank", [True, False], ids=["blanked", "behind the batch's back"])
def test_absent_content_cannot_matter(name, blank, make):
    """Bitwise equal outputs, gradients and buffers, whatever absent rows hold."""
    observed = torch.tensor([True, False, True, True, False])
    results = []
    for hidden in HIDDEN:
        encoder = make(name, dropout=0.0).train()
        encoded = encode_present(encoder, batch_of(KINDS[name], observed, hidden=hidden, blank=blank), "m")
        fingerprint(encoded).backward()
        gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
        results.append((*encoded, *gradients, *encoder.buffers()))
        assert not encoded.pooled[~observed].any()
        assert not encoded.valid[~observed].any()
    for other in results[1:]:
        assert len(other) == len(results[0])
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@every_encoder
def test_only_present_rows_are_encoded(name, make):
    """Cost falls with absence: the encoder never sees the other rows."""
    encoder, seen = make(name).eval(), []
    encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    encode_present(encoder, batch_of(KINDS[name], torch.tensor([True, False, False, True, False])), "m")
    assert seen == [2]


@every_encoder
def test_nothing_present_gives_zeros_without_a_call(name, make):
    encoder = make(name)
    encoder.register_forward_pre_hook(lambda *_: pytest.fail("called without rows"))
    tokens, valid, pooled = encode_present(encoder, batch_of(KINDS[name], torch.zeros(3, dtype=torch.bool)), "m")
    assert tokens.shape == (3, encoder.n_tokens, WIDTH)
    assert pooled.shape == (3, WIDTH)
    assert not tokens.any()
    assert not valid.any()
    assert not pooled.any()


@every_encoder
def test_a_batch_of_one_trains(name, make):
    encoder = make(name).train()
    encoded = encoder(*rows_of(KINDS[name], 1))
    fingerprint(encoded).backward()
    assert encoded.pooled.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@every_encoder
def test_gradients_reach_every_parameter(name, make):
    encoder = make(name, dropout=0.0).eval()
    fingerprint(encoder(*rows_of(KINDS[name], 6))).backward()
    foreign = name in OPTIONS  # keys' biases in attention have a gradient of exactly zero
    still = [k for k, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    still += [k for k, p in encoder.named_parameters() if p.grad is not None and not (foreign or p.grad.any())]
    assert not still


@every_encoder_of_cells
def test_unmeasured_cells_cannot_matter(name, make):
    encoder = make(name).eval()
    values, measured, lengths = rows_of(KINDS[name], 5)
    assert measured is not None
    results = [encoder(torch.where(measured, values, hidden), measured, lengths) for hidden in HIDDEN]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k in ("tabular", "series") and n not in BARE])
def test_unmeasured_is_not_the_mean(name, make):
    """An unmeasured cell and a measured zero, the training mean, are different inputs."""
    encoder = make(name).eval()
    values, _, _ = rows_of(KINDS[name], 3)
    everything = torch.ones_like(values, dtype=torch.bool)
    values[..., 1], partly = 0.0, everything.clone()
    partly[..., 1] = False
    assert not torch.allclose(encoder(values, everything).pooled, encoder(values, partly).pooled, atol=1e-3)
    close(encoder(values, everything).pooled, encoder(values).pooled, 0)


@every_encoder
def test_rows_without_a_measured_cell_or_a_step_are_finite(name, make):
    encoder = make(name, dropout=0.0).train()
    values, measured, lengths = rows_of(KINDS[name], 4)
    measured = None if measured is None else torch.zeros_like(measured)
    lengths = None if lengths is None else lengths * torch.tensor([1, 0, 1, 0])
    encoded = encoder(values, measured, lengths)
    fingerprint(encoded).backward()
    assert encoded.pooled.isfinite().all()
    assert encoded.tokens.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@every_encoder_with_lengths
def test_padding_cannot_matter(name, make):
    encoder = make(name).eval()
    values, measured, lengths = rows_of(KINDS[name], 5)
    assert lengths is not None
    padding = torch.arange(values.shape[1]) >= lengths[:, None]
    padding = padding.view(*padding.shape, *[1] * (values.ndim - 2))
    assert padding.any()
    fillers = (0, 65, 255) if KINDS[name] == "text" else HIDDEN
    results = [
        encoder(torch.where(padding, torch.tensor(filler, dtype=values.dtype), values), measured, lengths)
        for filler in fillers
    ]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
    for row, size in enumerate(lengths.tolist()):  # and neither can its amount
        part = None if measured is None else measured[row : row + 1, :size]
        alone = encoder(values[row : row + 1, :size], part, lengths[row : row + 1])
        close(alone.pooled[0], results[0].pooled[row])


@pytest.mark.parametrize(
    ("name", "training"),
    [(n, mode) for n in ENCODERS for mode in (False, True) if not (mode and n in BATCH_STATISTICS)],
)
def test_rows_do_not_influence_one_another(name, training, make):
    """In training too, so that a batch's objective is the mean of its rows' objectives."""
    encoder = make(name, dropout=0.0).train(training)
    rows = rows_of(KINDS[name], 5)
    together = encoder(*rows).pooled
    for i in range(5):
        close(encoder(*(None if part is None else part[i : i + 1] for part in rows)).pooled[0], together[i])
    order = torch.tensor([3, 0, 4, 1, 2])
    close(encoder(*(None if part is None else part[order] for part in rows)).pooled, together[order])


@every_encoder
def test_evaluation_is_deterministic_and_training_drops_out(name, make):
    encoder, rows = make(name, dropout=0.5), rows_of(KINDS[name], 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = encoder.train()(*rows).pooled, encoder(*rows).pooled
        assert not torch.equal(a, b)
        c, d = encoder.eval()(*rows).pooled, encoder(*rows).pooled
        assert torch.equal(c, d)


@every_encoder
def test_state_is_saved_and_loaded(name, make):
    encoder, other, rows = make(name, seed=1).eval(), make(name, seed=2).eval(), rows_of(KINDS[name], 5)
    expected = encoder(*rows).pooled
    assert not torch.allclose(other(*rows).pooled, expected)
    other.load_state_dict(load(save({key: value.contiguous() for key, value in encoder.state_dict().items()})))
    assert torch.equal(other(*rows).pooled, expected)
    assert torch.equal(copy.deepcopy(encoder)(*rows).pooled, expected)


@every_encoder
def test_bfloat16_is_finite_and_near(name, make):
    encoder = make(name, dropout=0.0).eval()
    batch = batch_of(KINDS[name], torch.tensor([True, False, True, True]))
    full = encode_present(encoder, batch, "m").pooled
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encode_present(encoder, batch, "m").pooled
        fingerprint(Encoded(half, half, half.float())).backward()
    assert half.isfinite().all()
    close(half.float(), full, 0.1)
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@every_encoder_of_cells
def test_far_outliers_stay_finite(name, make):
    """One mistyped laboratory value must not become a NaN."""
    encoder = make(name, dropout=0.0).train()
    values, measured, lengths = rows_of(KINDS[name], 4)
    values[1, ..., 0] = 1e10 if name in BARE else 1e30
    encoded = encoder(values, measured, lengths)
    fingerprint(encoded).backward()
    assert encoded.pooled.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@every_encoder
def test_is_documented_and_registered(name):
    encoder = ENCODERS[name]
    assert encoder.kinds
    assert set(encoder.kinds) <= set(MODALITY_KINDS)
    assert not set(encoder.references) - set(bibliography())
    text = inspect.getdoc(encoder) or ""
    cited = set(re.findall(r":cite:`([^`]+)`", text))
    assert not cited - set(bibliography())
    arguments = text.split("Args:")[1].split("\n\n")[0]
    documented = re.findall(r"(?m)^    (\w+):", arguments)
    assert documented == list(inspect.signature(encoder).parameters)
    for parameter in list(inspect.signature(encoder).parameters.values())[1:]:
        assert parameter.kind is parameter.KEYWORD_ONLY


def test_every_concrete_encoder_is_registered():
    def concrete(cls):
        below = [found for child in cls.__subclasses__() for found in concrete(child)]
        own = cls.__module__.startswith("amodal.") and not cls.__name__.startswith("_") and not inspect.isabstract(cls)
        return ([cls] if own else []) + below

    assert set(concrete(Encoder)) == {*ENCODERS.values(), SetEncoder}  # made of another encoder where there are sets
    assert not set(BATCH_STATISTICS) & {kind.encoder for kind in MODALITY_KINDS.values()}
