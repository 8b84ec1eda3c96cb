"""Kernels with hand-written derivatives against the same densities in ordinary operations."""

import pytest
import torch

from amodal.distributions.copula import Clayton, Frank, GaussianCopula, Gumbel, Joe, StudentTCopula

F64 = torch.float64


def matrices(dim):
    unit = torch.eye(dim, dtype=F64)
    yield unit.clone()
    yield 0.6 * (1 - unit) + unit
    yield 0.98 * (1 - unit) + unit
    yield -0.4 / (dim - 1) * (1 - unit) + unit


def copulas(dim):
    for t in (1e-12, 1e-3, 0.3, 2.0, 30.0):
        yield Gumbel(1 + t, dim, learnable=True)
        yield Joe(1 + t, dim, learnable=True)
        yield Clayton(t, dim, learnable=True)
    for t in (0.3, 1.0, 5.0, 50.0):
        yield Frank(t, dim, learnable=True)
        if dim == 2 and t < 40:
            yield Frank(-t, dim, learnable=True)
    for matrix in matrices(dim):
        yield GaussianCopula(matrix, learnable=True)
        for df in (1.0, 2.0, 4.0, 6.5):
            yield StudentTCopula(matrix, df=df, learnable=True)


def logits(dim, shape=(60,), spread=3.0, dtype=F64):
    return spread * torch.randn(dim, *shape, generator=torch.Generator().manual_seed(dim), dtype=F64).to(dtype)


def named(copula):
    return lambda message: f"{copula}: {message}"


def both(copula, x):
    """Value and gradients, through the kernel and without it."""
    results = []
    for way in ("kernel", "plain"):
        free = x.clone().requires_grad_()
        lower, upper = torch.nn.functional.logsigmoid(free), torch.nn.functional.logsigmoid(-free)
        parts = copula.kernel(lower, upper)
        assert parts is not None, f"{copula} has no kernel here"
        if way == "kernel":
            value = copula.log_density_margins_first(lower, upper)
            assert "Fused" in type(value.grad_fn).__name__
        else:
            value = parts[0](lower, upper, *parts[2])
        weight = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
        results.append((value.detach(), *torch.autograd.grad((weight * value).sum(), [free, *copula.parameters()])))
    return results


@pytest.mark.parametrize("dim", [2, 3])
def test_kernels_and_plain_densities_are_one_function_with_one_gradient(dim):
    for copula in copulas(dim):
        for fast, slow in zip(*both(copula, logits(dim)), strict=True):
            scale = slow.abs().max().item() + 1.0
            torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-9 * scale, msg=named(copula))


@pytest.mark.parametrize("dim", [2, 3])
def test_kernels_in_single_precision(dim):
    for copula in copulas(dim):
        if getattr(copula, "theta", torch.tensor(1.0)).item() > 25 or isinstance(
            copula, (GaussianCopula, StudentTCopula)
        ):
            continue  # ill-conditioned in the logits themselves
        fast, slow = both(copula, logits(dim, dtype=torch.float32))[0], both(copula, logits(dim))[1]
        for ours, exact in zip(fast, slow, strict=True):
            scale = exact.abs().max().item() + 1.0
            torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5 * scale, msg=named(copula))


@pytest.mark.parametrize("family", [Gumbel, Clayton, Frank, Joe, GaussianCopula, StudentTCopula])
@pytest.mark.parametrize("dim", [2, 3])
def test_kernels_with_a_parameter_for_each_coordinate(family, dim):
    tau = torch.tensor([0.1, 0.3, 0.6, 0.8], dtype=F64)
    copula = family.from_kendall_tau(tau, dim, learnable=True)
    for fast, slow in zip(*both(copula, logits(dim, (7, 4))), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "copula", [Gumbel(2.0, 3), Joe(2.0), Frank(3.0, 3), Clayton(1.0), GaussianCopula([[1.0, 0.4], [0.4, 1.0]])]
)
def test_gradients_of_gradients_go_through_the_plain_density(copula):
    x = logits(copula.dim, (3,), spread=1.0).requires_grad_()

    def density(x):
        return copula.log_density_margins_first(torch.nn.functional.logsigmoid(x), torch.nn.functional.logsigmoid(-x))

    assert torch.autograd.gradcheck(density, x)
    assert torch.autograd.gradgradcheck(density, x)


def test_kernels_step_aside_where_values_leave_their_range():
    """Seventy standard deviations out a kernel would overflow; the plain density does not."""
    lower, upper = torch.tensor([[-0.0], [-0.0]]), torch.tensor([[-2450.0], [-2400.0]])
    assert StudentTCopula([[1.0, 0.5], [0.5, 1.0]]).kernel(lower, upper) is None
    assert Joe(2.0).kernel(upper, lower) is None
    assert Frank(2.0, 3).kernel(torch.full((3, 1), -100.0), torch.zeros(3, 1)) is None
    assert Frank(1e-3).kernel(lower, upper) is None
    assert Frank(500.0).kernel(lower, upper) is None
    assert Gumbel(2.0, 4).kernel(torch.full((4, 1), -1.0), torch.full((4, 1), -1.0)) is None
