"""Matching of characteristic functions: values, limits, invariances, gradients, and batches with nothing to match."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel

from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError
from amodal.losses.characteristic_function.loss import (
    conditional_cf_loss,
    conditional_cf_rows,
    effective_sample_size,
    kernel_weights,
    marginal_cf_loss,
    radial_kernel,
    random_directions,
    random_frequencies,
)
from amodal.losses.masked import mean_over_terms

FORMS = pytest.mark.parametrize("form", ["products", "gram", "radial"])
SAMPLED = pytest.mark.parametrize("form", ["products", "gram"])


class Case:
    """Two samples with contexts, directions and frequencies, all drawn from one seed."""

    def __init__(self, n=7, m=5, dim=6, width=4, projections=12, frequencies=32, seed=0, dtype=torch.float64):
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.h, self.h_hat = self.normal(n, dim), self.normal(m, dim)
        self.c, self.c_hat = self.normal(n, width), self.normal(m, width)
        self.sampled = {
            "directions": random_directions(dim, projections, generator=self.generator, dtype=dtype),
            "frequencies": random_frequencies(frequencies, generator=self.generator, dtype=dtype),
        }

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=self.dtype)

    @property
    def inputs(self):
        return self.h, self.h_hat, self.c, self.c_hat

    def options(self, form):
        return {"form": form} if form == "radial" else {"form": form, **self.sampled}

    def literal(self, bandwidth=1.0):
        """Equations 9 to 12 query by query, in NumPy's complex numbers and scikit-learn's kernel."""
        h, h_hat, c, c_hat = (x.detach().double().numpy() for x in self.inputs)
        A, f = (x.double().numpy() for x in self.sampled.values())
        values = []
        for query in c_hat:
            differences = []
            for a in A.T:
                for tau in f:
                    sides = []
                    for features, contexts in ((h, c), (h_hat, c_hat)):
                        kappa = rbf_kernel(query[None], contexts, gamma=1 / (2 * bandwidth**2))[0]
                        sides.append((kappa / kappa.sum()) @ np.exp(1j * tau * features @ a))
                    differences.append(abs(sides[0] - sides[1]) ** 2)
            values.append(np.mean(differences))
        return np.array(values)


# Values ---------------------------------------------------------------------------------------------------------------


@SAMPLED
@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 4.0])
def test_it_is_equation_12_for_each_query(form, bandwidth):
    case = Case(projections=2, frequencies=5 if form == "gram" else 64)  # enough for the expansion
    ours = conditional_cf_loss(*case.inputs, bandwidth, **case.options(form))
    assert ours.shape == (5,)
    np.testing.assert_allclose(ours, case.literal(bandwidth), rtol=1e-10)


@given(
    n=st.integers(1, 9),
    m=st.integers(1, 9),
    scale=st.floats(1e-3, 20),
    bandwidth=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_forms_agree_and_the_loss_is_bounded(n, m, scale, bandwidth, seed):
    case = Case(n, m, seed=seed)
    inputs = (scale * case.h, scale * case.h_hat, case.c, case.c_hat)
    products = conditional_cf_loss(*inputs, bandwidth, **case.options("products"))
    gram = conditional_cf_loss(*inputs, bandwidth, **case.options("gram"))
    torch.testing.assert_close(products, gram, rtol=1e-9, atol=1e-12)
    assert (products >= 0).all()
    assert (products <= 4 + 1e-12).all()


@pytest.mark.parametrize("dim", [3, 64])
def test_the_radial_form_is_the_expectation_of_the_others(dim):
    case = Case(dim=dim, projections=4000)
    case.sampled["frequencies"] = 5 * (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    radial = conditional_cf_loss(*case.inputs, 2.0, form="radial")
    sampled = conditional_cf_loss(*case.inputs, 2.0, **case.options("products"))
    torch.testing.assert_close(sampled, radial, rtol=0.01, atol=0)
    wide = conditional_cf_loss(*case.inputs, 2.0, form="radial", max_frequency=50.0)
    assert (wide > radial).all()


@pytest.mark.parametrize("dim", [2, 16, 256])
def test_one_against_one_is_two_minus_two_cosines(dim):
    case = Case(1, 1, dim=dim, projections=4000)
    case.sampled["frequencies"] = 5 * (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    case.h_hat = case.h + 0.3 * case.normal(1, dim)
    delta = case.h - case.h_hat
    angles = (delta @ case.sampled["directions"]).T * case.sampled["frequencies"]
    ours = conditional_cf_loss(*case.inputs, **case.sampled)
    torch.testing.assert_close(ours[0], (2 - 2 * angles.cos()).mean())
    closed = 2 - 2 * radial_kernel(delta.square().sum(), dim)
    torch.testing.assert_close(conditional_cf_loss(*case.inputs, form="radial")[0], closed)
    assert ours.item() == pytest.approx(closed.item(), rel=0.03)


@pytest.mark.parametrize("bandwidth", [1e-3, 1.0, 1e3, "median"])
@FORMS
def test_the_same_features_in_the_same_contexts_match(form, bandwidth):
    case = Case(n=8, m=8)
    order = torch.randperm(8, generator=case.generator)
    loss = conditional_cf_loss(case.h, case.h[order], case.c, case.c[order], bandwidth, **case.options(form))
    np.testing.assert_allclose(loss, 0, atol=1e-12)


def test_repeating_a_sample_changes_nothing():
    case = Case()
    twice = conditional_cf_loss(case.h.repeat(2, 1), case.h_hat, case.c.repeat(2, 1), case.c_hat, 0.8, **case.sampled)
    torch.testing.assert_close(twice, conditional_cf_loss(*case.inputs, 0.8, **case.sampled))


@FORMS
def test_infinite_bandwidth_is_the_marginal_loss_whatever_the_contexts(form):
    case = Case()
    marginal = marginal_cf_loss(case.h, case.h_hat, **case.options(form))
    for contexts in ((case.c, case.c_hat), (case.normal(7, 2) * 9, case.normal(5, 2))):
        for bandwidth in (float("inf"), 1e9):
            conditional = conditional_cf_loss(case.h, case.h_hat, *contexts, bandwidth, **case.options(form))
            torch.testing.assert_close(conditional, marginal.expand(5), rtol=1e-9, atol=1e-12)


def test_vanishing_bandwidth_matches_each_query_with_its_nearest_neighbour():
    case = Case()
    nearest = torch.cdist(case.c_hat, case.c).argmin(1)
    pointwise = [
        conditional_cf_loss(case.h[[j]], case.h_hat[[i]], case.c[[j]], case.c_hat[[i]], **case.sampled)
        for i, j in enumerate(nearest.tolist())
    ]
    torch.testing.assert_close(conditional_cf_loss(*case.inputs, 1e-4, **case.sampled), torch.cat(pointwise))


def test_the_floor_under_a_perfect_predictor():
    # E ℓ = (1 - ḡ)(Σ w² + Σ ŵ²) = 0.82 (1/11 + 1/5) for layer-normalised features, the sheet's A10.
    g = torch.Generator().manual_seed(0)
    values, kernels = [], []
    for _ in range(60):
        x = torch.nn.functional.layer_norm(torch.randn(16, 256, generator=g), (256,))
        values.append(marginal_cf_loss(x[:11], x[11:], form="radial"))
        kernels.append(radial_kernel((x[0] - x[1]).square().sum(), 256))
    floor = (1 - torch.stack(kernels).mean()) * (1 / 11 + 1 / 5)
    assert torch.stack(values).mean().item() == pytest.approx(floor.item(), rel=0.02)
    assert floor.item() == pytest.approx(0.236, abs=0.005)


# Invariances ----------------------------------------------------------------------------------------------------------


@FORMS
def test_only_differences_of_features_matter(form):
    case = Case()
    shift = 10 * case.normal(1, 6)
    moved = (case.h + shift, case.h_hat + shift, case.c, case.c_hat)
    options = case.options(form)
    torch.testing.assert_close(conditional_cf_loss(*moved, **options), conditional_cf_loss(*case.inputs, **options))


@FORMS
def test_a_rotation_of_everything_changes_nothing(form):
    case = Case()
    Q, _ = torch.linalg.qr(case.normal(6, 6))
    options = case.options(form)
    before = conditional_cf_loss(*case.inputs, **options)
    if form != "radial":
        options["directions"] = Q.mT @ options["directions"]
    torch.testing.assert_close(conditional_cf_loss(case.h @ Q, case.h_hat @ Q, case.c, case.c_hat, **options), before)


@SAMPLED
def test_it_is_even_in_the_frequency(form):
    case = Case()
    options = case.options(form)
    options["frequencies"] = -options["frequencies"]
    torch.testing.assert_close(
        conditional_cf_loss(*case.inputs, **options), conditional_cf_loss(*case.inputs, **case.options(form))
    )


@FORMS
def test_permutations_of_either_side(form):
    case = Case()
    p, q = torch.randperm(7, generator=case.generator), torch.randperm(5, generator=case.generator)
    mixed = conditional_cf_loss(case.h[p], case.h_hat[q], case.c[p], case.c_hat[q], **case.options(form))
    torch.testing.assert_close(mixed, conditional_cf_loss(*case.inputs, **case.options(form))[q])


def test_distance_per_dimension_is_a_wider_bandwidth():
    case = Case()
    scaled = conditional_cf_loss(*case.inputs, 0.9, distance="per_dimension", **case.sampled)
    torch.testing.assert_close(scaled, conditional_cf_loss(*case.inputs, 0.9 * math.sqrt(4), **case.sampled))


# Gradients ------------------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("detach_weights", [True, False])
def test_gradients_are_finite_differences(form, detach_weights):
    case = Case(n=3, m=3, projections=3, frequencies=32)
    inputs = [x.requires_grad_() for x in case.inputs]
    if detach_weights:
        inputs[2:] = [x.detach() for x in inputs[2:]]
    options = {**case.options(form), "detach_weights": detach_weights}
    assert torch.autograd.gradcheck(lambda *x: conditional_cf_loss(*x, 1.1, **options), inputs)
    assert torch.autograd.gradcheck(
        lambda *x: conditional_cf_loss(*x, "median", **options),
        [inputs[0], inputs[1], case.c.detach(), case.c_hat.detach()],
    )


@FORMS
def test_contexts_get_a_gradient_only_without_detaching(form):
    for detach in (True, False):
        case = Case()
        inputs = [x.requires_grad_() for x in case.inputs]
        conditional_cf_loss(*inputs, detach_weights=detach, **case.options(form)).sum().backward()
        assert all(x.grad.any() for x in inputs[:2])
        assert [x.grad is None for x in inputs[2:]] == [detach] * 2
        if not detach:
            assert all(x.grad.any() for x in inputs[2:])


@given(scale=st.floats(0.01, 10), bandwidth=st.floats(0.05, 20), largest=st.floats(0.1, 20), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_gradients_are_within_the_propositions_bound(scale, bandwidth, largest, seed):
    case = Case(seed=seed)
    frequencies = random_frequencies(20, largest, generator=case.generator, dtype=torch.float64)
    h_hat = (scale * case.h_hat).requires_grad_()
    loss = conditional_cf_loss(
        case.h, h_hat, case.c, case.c_hat, bandwidth,
        directions=case.sampled["directions"], frequencies=frequencies,
    )  # fmt: skip
    among = kernel_weights(case.c_hat, case.c_hat, bandwidth)
    top = 4 * frequencies.max()
    (averaged,) = torch.autograd.grad(loss.mean(), h_hat, retain_graph=True)
    assert (averaged.norm(dim=1) <= top * among.sum(0) / 5 * (1 + 1e-9)).all()
    for query in range(5):
        (one,) = torch.autograd.grad(loss[query], h_hat, retain_graph=True)
        assert (one.norm(dim=1) <= top * among[query] * (1 + 1e-9)).all()


def test_the_gram_form_has_gradients_for_frequencies_and_the_products_say_so():
    case = Case(n=2, m=2, projections=2, frequencies=3)
    f = case.sampled["frequencies"].requires_grad_()
    A = case.sampled["directions"].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda A, f: conditional_cf_loss(*case.inputs, directions=A, frequencies=f, form="gram"), (A, f)
    )
    assert torch.autograd.gradcheck(
        lambda A: conditional_cf_loss(*case.inputs, directions=A, frequencies=f.detach()), A
    )
    with pytest.raises(ConfigurationError, match="no gradient for frequencies. Take form='gram'"):
        conditional_cf_loss(*case.inputs, directions=A, frequencies=f)


@FORMS
def test_descent_moves_predictions_onto_the_conditional_distribution(form):
    g = torch.Generator().manual_seed(0)
    c, c_hat = torch.randn(60, 1, generator=g).sign(), torch.randn(40, 1, generator=g).sign()
    h = 2 * c + 0.3 * torch.randn(60, 2, generator=g)
    predictor = torch.zeros(2, 2, requires_grad=True)  # of a mean, and of how it depends on the context
    noise = 0.3 * torch.randn(40, 2, generator=g)
    optimiser = torch.optim.Adam([predictor], lr=0.1)
    for _ in range(80):
        options = {"form": form, "max_frequency": 1.0}
        if form != "radial":
            options["directions"] = random_directions(2, 8, generator=g)
            options["frequencies"] = random_frequencies(8, 1.0, generator=g)
        h_hat = predictor[0] + c_hat * predictor[1] + noise
        loss = conditional_cf_loss(h, h_hat, c, c_hat, 0.3, **options).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(predictor.detach(), torch.tensor([[0.0, 0.0], [2.0, 2.0]]), atol=0.15, rtol=0)


# Precision, memory and the batch --------------------------------------------------------------------------------------


@FORMS
def test_autocast_does_not_lower_the_precision(form):
    case = Case(dtype=torch.float32)
    h_hat = case.h_hat.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = conditional_cf_loss(*case.inputs, **case.options(form))
        marginal = marginal_cf_loss(case.h, case.h_hat, **case.options(form))
    assert loss.dtype == marginal.dtype == torch.float32
    loss.sum().backward()
    inside, h_hat.grad = h_hat.grad, None
    outside = conditional_cf_loss(*case.inputs, **case.options(form))
    outside.sum().backward()
    assert torch.equal(loss, outside)
    assert torch.equal(inside, h_hat.grad)


@FORMS
def test_low_precision_features_are_compared_in_float32(form):
    case = Case(dtype=torch.float32)
    halves = [x.bfloat16().requires_grad_() for x in case.inputs]
    loss = conditional_cf_loss(*halves, **case.options(form))
    widened = conditional_cf_loss(*[x.float() for x in halves], **case.options(form))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, widened)
    loss.sum().backward()
    assert halves[1].grad.dtype == torch.bfloat16


def test_the_two_sides_may_differ_in_precision():
    case = Case()
    mixed = conditional_cf_loss(case.h.float(), case.h_hat, case.c.float(), case.c_hat, **case.sampled)
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed, conditional_cf_loss(*case.inputs, **case.sampled), rtol=1e-5, atol=1e-6)


def test_rows_of_a_batch_are_the_two_sides():
    case = Case(n=8, m=8)
    observed = torch.tensor([True, False, True, True, False, True, False, True])
    rows = conditional_cf_rows(case.h, case.h_hat, case.c, observed, **case.sampled)
    sides = (case.h[observed], case.h_hat[~observed], case.c[observed], case.c[~observed])
    torch.testing.assert_close(rows.value[~observed], conditional_cf_loss(*sides, **case.sampled))
    assert not rows.value[observed].any()
    assert torch.equal(rows.counted, ~observed)
    expected = effective_sample_size(kernel_weights(case.c[~observed], case.c[observed]))
    torch.testing.assert_close(rows.effective_sample_size[~observed], expected)
    assert not rows.effective_sample_size[observed].any()


@pytest.mark.parametrize("hidden", [0.0, 1e30, float("nan"), float("inf")])
def test_what_is_absent_does_not_reach_the_loss(hidden):
    results = []
    for filling in (1.0, hidden):
        case = Case(n=6, m=6)
        observed = torch.tensor([True, False, True, True, False, True])
        h = torch.where(observed[:, None], case.h, filling).requires_grad_()
        h_hat = torch.where(observed[:, None], filling, case.h_hat).requires_grad_()
        rows = conditional_cf_rows(h, h_hat, case.c, observed, detach_observed=False, **case.sampled)
        rows.value.sum().backward()
        assert not h.grad[~observed].any()
        assert not h_hat.grad[observed].any()
        results.append((rows.value, h.grad, h_hat.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_the_observed_side_is_a_target_unless_asked_otherwise():
    observed = torch.arange(6) % 2 == 0
    for detach in (True, False):
        case = Case(n=6, m=6)
        h, h_hat = case.h.requires_grad_(), case.h_hat.requires_grad_()
        rows = conditional_cf_rows(h, h_hat, case.c, observed, detach_observed=detach, **case.sampled)
        rows.value.sum().backward()
        assert (h.grad is None or not h.grad.any()) == detach
        assert h_hat.grad[~observed].any()


def test_contexts_that_leave_the_modality_out():
    case = Case(n=6, m=6)
    observed = torch.arange(6) < 4
    without, usable = case.normal(6, 4), torch.tensor([True, True, False, True, True, True])
    without[2] = float("nan")  # this row has nothing but the modality, hence no context without it
    rows = conditional_cf_rows(
        case.h, case.h_hat, case.c, observed, reference_context=without, reference=usable, **case.sampled
    )
    kept = observed & usable
    expected = conditional_cf_loss(
        case.h[kept], case.h_hat[~observed], without[kept], case.c[~observed], **case.sampled
    )
    torch.testing.assert_close(rows.value[~observed], expected)


@FORMS
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("present", [True, False])
def test_a_modality_that_everybody_or_nobody_has_matches_nothing(form, batch, present):
    case = Case(n=batch, m=batch)
    h_hat = case.h_hat.requires_grad_()
    observed = torch.full((batch,), present)
    rows = conditional_cf_rows(case.h, h_hat, case.c, observed, bandwidth="median", **case.options(form))
    assert not rows.counted.any()
    assert not rows.value.any()
    loss = mean_over_terms({"m": rows.value}, {"m": rows.counted})
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(h_hat.grad, torch.zeros_like(h_hat))


@FORMS
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sides_give_zeros_on_the_graph(form, n, m):
    case = Case(n=n, m=m)
    h_hat = case.h_hat.requires_grad_()
    loss = conditional_cf_loss(*case.inputs, **case.options(form))
    assert loss.shape == (m,)
    loss.sum().backward()
    assert torch.equal(h_hat.grad, torch.zeros(m, 6, dtype=torch.float64))
    marginal = marginal_cf_loss(case.h, h_hat, **case.options(form))
    assert marginal.requires_grad
    assert marginal.item() == 0


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_contexts_that_are_not_finite_are_an_error(bad):
    case = Case()
    case.c_hat[3, 1] = bad
    with pytest.raises(DataError, match="1 of 5 predicted contexts are not finite, the first in row 3"):
        conditional_cf_loss(*case.inputs, **case.sampled)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"directions": None}, ConfigurationError, "directions and frequencies are needed.*random_directions"),
        ({"frequencies": None}, ConfigurationError, "directions and frequencies are needed"),
        ({"directions": torch.ones(5, 3)}, ShapeError, r"directions do not fit .*expected \(6, P\), got \(5, 3\)"),
        ({"directions": torch.ones(6, 0)}, ShapeError, r"got \(6, 0\)"),
        ({"frequencies": torch.ones(2, 2)}, ShapeError, r"frequencies must be a vector.*got \(2, 2\)"),
        ({"frequencies": torch.ones(0)}, ShapeError, r"not empty \(expected \(F,\), got \(0,\)\)"),
        ({"form": "grams"}, UnknownNameError, "unknown form 'grams'.*Did you mean 'gram'"),
        ({"bandwidth": 0.0}, ConfigurationError, r"a number > 0 or 'median', got 0.0"),
        ({"bandwidth": "mean"}, ConfigurationError, "got mean"),
        ({"distance": "cosine"}, ConfigurationError, "unknown distance"),
        ({"form": "radial", "max_frequency": -1.0}, ConfigurationError, "max_frequency > 0"),
    ],
)
def test_options_that_cannot_be_used(change, error, words):
    case = Case()
    with pytest.raises(error, match=words):
        conditional_cf_loss(*case.inputs, **{**case.sampled, **change})


def test_shapes_that_do_not_fit():
    case = Case()
    with pytest.raises(
        ShapeError, match=r"do not fit each other \(expected \(n, D\) and \(n', D\), got \(7, 6\) and \(5, 4\)"
    ):
        conditional_cf_loss(case.h, case.c_hat, case.c, case.c_hat, **case.sampled)
    with pytest.raises(ShapeError, match=r"observed rows do not fit the features \(expected a matrix of 7 rows"):
        conditional_cf_loss(case.h, case.h_hat, case.c[:3], case.c_hat, **case.sampled)
    with pytest.raises(ShapeError, match=r"presence does not fit the values \(expected bool of shape \(7,\)"):
        conditional_cf_rows(case.h, case.h, case.c, torch.ones(7), **case.sampled)
    with pytest.raises(ShapeError, match="context rows do not fit the features"):
        conditional_cf_rows(case.h, case.h, case.c_hat, torch.ones(7, dtype=torch.bool), **case.sampled)
