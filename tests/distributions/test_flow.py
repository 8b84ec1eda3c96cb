"""Glow of zuko's parts: inverse, Jacobian, start, and the literal form against a plain transcription."""

import builtins
import math

import pytest
import torch

from amodal.distributions.flow import glow
from amodal.errors import ConfigurationError, RunError

close = torch.testing.assert_close


def moved(width=4, steps=3, **options):
    """A flow with parameters away from their start."""
    torch.manual_seed(0)
    flow = glow(width, steps=steps, hidden=8, **options)
    for parameter in flow.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return flow


@pytest.mark.parametrize("literal", [True, False])
@pytest.mark.parametrize("width", [4, 5])
def test_inverse_in_both_directions(width, literal):
    transform = moved(width, literal=literal)()
    x = torch.randn(20, width)
    close(transform.inv(transform(x)), x, atol=1e-4, rtol=0)
    close(transform(transform.inv(x)), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 32])
def test_a_deep_flow_at_its_start_can_be_inverted(steps):
    torch.manual_seed(0)
    transform = glow(16, steps=steps, hidden=8)()
    x = torch.randn(20, 16)
    close(transform.inv(transform(x)), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("literal", [True, False])
def test_log_determinant_is_that_of_the_jacobian(literal):
    transform = moved(literal=literal)()
    x = torch.randn(6, 4)
    _, log_det = transform.call_and_ladj(x)
    for row, found in zip(x, log_det):
        jacobian = torch.autograd.functional.jacobian(transform, row)
        close(torch.linalg.slogdet(jacobian.double()).logabsdet.float(), found, atol=1e-5, rtol=1e-5)


def test_the_literal_flow_written_out():
    """Half of the coordinates pass all steps unchanged; the other half is moved and scaled in each."""
    flow = moved(literal=True)
    x = torch.randn(7, 4)
    found, log_det = flow().call_and_ladj(x)
    first, second, total = x[:, :2], x[:, 2:], torch.zeros(7)
    for coupling in flow.transforms:
        t, a = coupling.hyper(first).view(7, 2, 2).unbind(2)
        s = 1 / (1 + (-(a + 2)).exp())
        second, total = (second + t) * s, total + s.log().sum(1)
    assert torch.equal(found[:, :2], first)
    close(found[:, 2:], second)
    close(log_det, total)
    assert not torch.isclose(moved()()(x)[:, :2], first).any()


def test_the_literal_flow_starts_with_a_scale_of_0_017():
    x = torch.randn(3, 4)
    found = glow(4, steps=32, hidden=8, literal=True)()(x)
    close(found[:, 2:] / x[:, 2:], torch.full((3, 2), (1 / (1 + math.exp(-2))) ** 32))
    assert (found[0, 2] / x[0, 2]).item() == pytest.approx(0.017, abs=5e-4)


def test_without_zuko_the_error_names_the_extra(monkeypatch):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("zuko"):
            raise ModuleNotFoundError("No module named 'zuko'", name="zuko")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RunError, match=r"flows need the package zuko\. pip install 'amodal\[flows\]'"):
        glow(4, steps=1, hidden=8)


def test_one_coordinate_cannot_be_coupled():
    with pytest.raises(ConfigurationError, match=r"encoders of width 2 or more, got 1"):
        glow(1, steps=1, hidden=8)
