"""UTDE: the published interpolation by hand, and what the order of observations and gaps must not change."""

import math

import pytest
import torch

from amodal.encoders.irregular import UTDE, fill_forward
from amodal.errors import ConfigurationError
from amodal.schema import Modality

SERIES = Modality("ehr", "series", (6, 3), clock=(0.0, 48.0))


def build(**options) -> UTDE:
    torch.manual_seed(0)
    return UTDE(SERIES, width=5, **{"grid": 4, "time": 8, "heads": 2, "clip": 1e6} | options).eval()


def observations(seed=1, p=3, t=6):
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(p, t, 3, generator=draw)
    measured = torch.rand(p, t, 3, generator=draw) < 0.6
    times = 48 * torch.rand(p, t, generator=draw)
    return torch.where(measured, values, 0.0), measured, torch.full((p,), t), times


def by_hand(encoder, values, measured, times):
    """Scores of every head between grid and observations, expanded over channels; values beside their masks."""
    tau, grid = times / 48, torch.linspace(0, 1, encoder.grid)

    def code(x):
        return torch.cat([encoder.linear_time(x[..., None]), encoder.periodic_time(x[..., None]).sin()], dim=-1)

    query = encoder.query(code(grid)).view(encoder.grid, 2, 4).transpose(0, 1)  # (H, G, k)
    key = encoder.key(code(tau)).view(len(tau), -1, 2, 4).transpose(1, 2)  # (P, H, T, k)
    scores = query[None] @ key.mT / math.sqrt(4)  # (P, H, G, T)
    mask = torch.cat([measured, measured], dim=2)[:, None, None]  # (P, 1, 1, T, 2 D)
    weights = torch.where(mask, scores[..., None], -1e4).softmax(3)
    read = (weights * torch.cat([values, measured.float()], dim=2)[:, None, None]).sum(3)  # (P, H, G, 2 D)
    return encoder.attended(read.transpose(1, 2).flatten(2))


@torch.no_grad()
def test_the_published_interpolation():
    encoder = build(gate="attention")
    values, measured, lengths, times = observations()
    found = encoder(values, measured, lengths, times).tokens
    torch.testing.assert_close(found, by_hand(encoder, values, measured, times), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("gate", ["sample", "time", "channel"])
def test_gate_at_its_ends_is_one_part_alone(gate):
    encoder = build(gate=gate)
    inputs = observations()
    attended, filled = build(gate="attention"), build(gate="filled")
    attended.load_state_dict({k: v for k, v in encoder.state_dict().items() if k in attended.state_dict()})
    filled.load_state_dict({k: v for k, v in encoder.state_dict().items() if k in filled.state_dict()})
    both = attended(*inputs).tokens, filled(*inputs).tokens
    pair = torch.cat(both, dim=2)
    g = encoder.gates(pair.amax(1, keepdim=True) if gate == "sample" else pair).sigmoid()
    torch.testing.assert_close(encoder(*inputs).tokens, g * both[0] + (1 - g) * both[1])
    for bias, part in ((1e4, both[0]), (-1e4, both[1])):
        encoder.gates[3].weight.zero_()
        encoder.gates[3].bias.fill_(bias)
        torch.testing.assert_close(encoder(*inputs).tokens, part)


def observations_are_a_set(encoder) -> bool:
    values, measured, lengths, times = observations()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    before = encoder(values, measured, lengths, times).tokens
    after = encoder(values[:, order], measured[:, order], lengths, times[:, order]).tokens
    return torch.allclose(before, after, atol=1e-5)


@torch.no_grad()
def test_the_order_of_observations_does_not_matter(monkeypatch):
    assert observations_are_a_set(build())
    # Planted: positions instead of times, which an encoder on a grid takes them for.
    monkeypatch.setattr(
        UTDE, "scaled", lambda self, times, like: torch.arange(like.shape[1]).expand(like.shape[:2]) / 5
    )
    assert not observations_are_a_set(build())


@torch.no_grad()
def test_unmeasured_and_padded_steps_change_nothing():
    encoder = build()
    values, measured, lengths, times = observations()
    before = encoder(values, measured, lengths, times).tokens
    empty = torch.zeros(3, 1, 3)
    longer = (torch.cat([values, empty + 7], 1), torch.cat([measured, empty.bool()], 1), lengths + 1)
    torch.testing.assert_close(encoder(*longer, torch.cat([times, times[:, :1]], 1)).tokens, before)
    padded = (torch.cat([values, empty + 7], 1), torch.cat([measured, empty == 0], 1), lengths)
    torch.testing.assert_close(encoder(*padded, torch.cat([times, 0 * times[:, :1]], 1)).tokens, before)
    nothing = encoder(values, torch.zeros_like(measured), lengths, times).tokens
    assert torch.isfinite(nothing).all()


@torch.no_grad()
def test_a_constant_feature_stays_constant():
    encoder = build()
    _, _, _, times = observations()
    read = encoder.attend(torch.full((3, 6, 3), 2.5), torch.ones(3, 6, 3, dtype=torch.bool), times / 48, torch.rand(4))
    torch.testing.assert_close(read[..., :3], torch.full_like(read[..., :3], 2.5))
    torch.testing.assert_close(read[..., 3:], torch.ones_like(read[..., 3:]))


def test_forward_filling_against_a_loop():
    values, measured, _, times = observations(p=4)
    grid = torch.linspace(0, 48, 7)
    filled, new = fill_forward(values, measured, times, grid)
    for p in range(4):
        for g, at in enumerate(grid.tolist()):
            for d in range(3):
                before = [
                    (t, v) for t, v, m in zip(times[p].tolist(), values[p, :, d].tolist(), measured[p, :, d]) if m
                ]
                before = [(t, v) for t, v in before if t <= at]
                assert filled[p, g, d].item() == pytest.approx(max(before)[1] if before else 0.0)
                since = grid[g - 1].item() if g else -math.inf
                assert new[p, g, d].item() == float(any(t > since for t, _ in before))


def test_without_a_clock_the_steps_are_equal():
    torch.manual_seed(0)
    encoder = UTDE(Modality("ehr", "series", (5, 3)), width=4, grid=3).eval()
    assert encoder.scaled(None, torch.zeros(2, 5, 3))[0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_heads_that_cannot_be():
    with pytest.raises(ConfigurationError, match="heads do not divide"):
        UTDE(SERIES, width=4, time=8, heads=3)
