"""The alignment of a batch: an average of the loss by queries, then by modalities, with every option passed on."""

import pytest
import torch

from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.losses.characteristic_function.context_alignment import ContextAlignment, build_alignment
from amodal.losses.characteristic_function.kernel_weights import NeighbourShare, neighbour_weights
from amodal.losses.characteristic_function.loss import conditional_cf_loss, conditional_cf_rows, marginal_cf_loss
from amodal.losses.characteristic_function.radial_kernel import radial_kernel
from amodal.losses.masked import mean_over_terms


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rows():
    draw = generator(1)
    observed = torch.rand(12, 3, generator=draw) < 0.6
    observed[0] = True
    features, predicted = (torch.randn(12, 3, 6, generator=draw) for _ in range(2))
    return features, predicted, torch.randn(12, 4, generator=draw), observed


def test_mean_over_queries_then_over_modalities(rows):
    features, predicted, context, observed = rows
    ours = ContextAlignment(form="radial", bandwidth=2.0, distance="per_dimension")(*rows, generator())
    means = [
        conditional_cf_loss(
            features[seen, m], predicted[~seen, m], context[seen], context[~seen], 2.0,
            form="radial", distance="per_dimension",
        ).mean()
        for m, seen in enumerate(observed.unbind(1))
    ]  # fmt: skip
    torch.testing.assert_close(ours, torch.stack(means).mean())


def test_without_a_context_it_is_the_two_sample_loss(rows):
    features, predicted, _, observed = rows
    ours = ContextAlignment(form="radial", conditional=False)(*rows, generator())
    means = [
        marginal_cf_loss(features[seen, m], predicted[~seen, m], form="radial")
        for m, seen in enumerate(observed.unbind(1))
    ]
    torch.testing.assert_close(ours, torch.stack(means).mean())


def test_directions_come_from_the_generator_and_estimate_the_radial_form(rows):
    sampled = ContextAlignment(directions=500, frequencies=2000)
    exact = ContextAlignment(form="radial")(*rows, generator())
    assert sampled(*rows, generator()) == sampled(*rows, generator())
    assert sampled(*rows, generator()) != sampled(*rows, generator(1))
    assert sampled(*rows, generator()).item() == pytest.approx(exact.item(), rel=0.03)


@pytest.mark.parametrize("presence", [True, False])
def test_a_modality_that_all_or_none_have_counts_for_nothing(rows, presence):
    features, predicted, context, observed = rows
    observed = observed.clone()
    observed[:, 2] = presence
    alignment = ContextAlignment(form="radial")
    ours = alignment(features, predicted, context, observed, generator())
    without = alignment(features[:, :2], predicted[:, :2], context, observed[:, :2], generator())
    torch.testing.assert_close(ours, without)
    assert len(alignment.weights(context, observed)) == 2
    all_or_none = torch.full_like(observed, presence)
    assert alignment(features, predicted.requires_grad_(), context, all_or_none, generator()) == 0


def test_a_batch_of_one_has_nothing_to_compare_with(rows):
    one = [part[1:2] for part in rows]
    for form in ("products", "gram", "radial"):
        value = ContextAlignment(form=form, directions=3, frequencies=2)(*one, generator())
        assert value == 0


def test_contexts_that_are_not_finite_are_told_by_row(rows):
    features, predicted, context, observed = rows
    context = context.clone()
    context[observed[:, 0].nonzero()[1, 0]] = torch.nan  # row 2 of the batch, the second one that has the modality
    for form, row in (("radial", 2), ("products", 1)):
        with pytest.raises(
            DataError, match=rf"1 of \d+ .* contexts are not finite, the first in row {row}.*not blanked"
        ):
            ContextAlignment(form=form)(features, predicted, context, observed, generator())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"detach_weights": False},
        {"detach_observed": False},
        {"bandwidth": 1e-3},
        {"bandwidth": NeighbourShare(0.3)},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_modalities_at_once_are_the_modalities_one_by_one(rows, options, dtype):
    found = []
    for at_once in (True, False):
        features, predicted, context = (part.to(dtype).requires_grad_() for part in rows[:3])
        alignment = ContextAlignment(form="radial", distance="per_dimension", **options)
        observed = rows[3]
        if at_once:
            value = alignment(features, predicted, context, observed, generator())
        else:
            how = {"form": "radial", "distance": "per_dimension"} | options
            ones = [
                conditional_cf_rows(features[:, m], predicted[:, m], context, observed[:, m], **how) for m in range(3)
            ]
            value = mean_over_terms(*({str(m): one[i] for m, one in enumerate(ones)} for i in (0, 1)))
        gradients = torch.autograd.grad(value, [features, predicted, context], allow_unused=True)
        found.append([value, *(torch.zeros(()) if g is None or not g.any() else g for g in gradients)])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    assert found[0][2].any()
    assert found[0][1].any() == (options == {"detach_observed": False})
    assert found[0][3].any() == (options == {"detach_weights": False})


@pytest.mark.parametrize("bandwidth", [0.8, NeighbourShare(0.4)])
def test_contexts_without_a_modality_count_for_the_rows_that_have_it(rows, bandwidth):
    features, predicted, context, observed = rows
    without = torch.where(observed[..., None], torch.randn(12, 3, 4, generator=generator(2)), context[:, None])
    alignment = ContextAlignment(form="radial", bandwidth=bandwidth)
    ours = alignment(*rows, generator(), contexts_without=without)
    means, several = [], observed.sum(1) > 1
    for m, seen in enumerate(observed.unbind(1)):
        having = seen & several  # a row that has nothing else has no such context
        sides = (features[having, m], predicted[~seen, m], without[having, m], context[~seen])
        means.append(conditional_cf_loss(*sides, bandwidth, form="radial").mean())
    torch.testing.assert_close(ours, torch.stack(means).mean())
    assert ours != alignment(*rows, generator())
    for weights, seen in zip(alignment.weights(context, observed, without), observed.unbind(1)):
        assert weights.shape == ((~seen).sum(), (seen & several).sum())


def test_the_loss_without_its_diagonal_by_hand(rows):
    """Means over pairs of different rows, with the weights normalised anew; zero expectation at the right law."""
    features, predicted, context, observed = rows
    alignment = ContextAlignment(form="radial", diagonal=False, bandwidth=0.7)
    expected = []
    for m, seen in enumerate(observed.unbind(1)):
        a, b = features[seen, m], predicted[~seen, m]
        kernel = radial_kernel(torch.cdist(torch.cat([a, b]), torch.cat([a, b])).square(), 6)
        around, among = neighbour_weights(context[seen], context[~seen], 0.7)
        values = []
        for v, w in zip(around, among):
            parts = [(v, v, kernel[: len(a), : len(a)]), (w, w, kernel[len(a) :, len(a) :])]
            pairs = [torch.outer(x, y).fill_diagonal_(0) for x, y, _ in parts]
            same = [float((p * k).sum() / p.sum()) if p.any() else 0.0 for p, (*_, k) in zip(pairs, parts)]
            values.append(sum(same) - 2 * float(v @ kernel[: len(a), len(a) :] @ w))
        expected.append(sum(values) / len(values))
    assert alignment(*rows, generator()).item() == pytest.approx(sum(expected) / 3, abs=1e-5)


@pytest.mark.parametrize(("diagonal", "shrinks"), [(True, True), (False, False)])
def test_what_is_expected_at_the_right_law(diagonal, shrinks):
    draw, values = generator(0), []
    for _ in range(200):
        features, observed = torch.randn(24, 1, 8, generator=draw), torch.arange(24)[:, None] % 2 == 0
        alignment = ContextAlignment(form="radial", diagonal=diagonal, bandwidth=NeighbourShare(0.3))
        values.append(alignment(features, features, torch.randn(24, 4, generator=draw), observed, draw))
    mean, error = torch.stack(values).mean().item(), torch.stack(values).std().item() / 200**0.5
    assert (abs(mean) < 4 * error) == (not shrinks)


def test_large_batches_are_aligned_in_parts():
    draw = generator(3)
    features, observed = torch.randn(600, 2, 4, generator=draw), torch.rand(600, 2, generator=draw) < 0.5
    whole = [features, features + 0.3, features.sum(1), observed]
    alignment = ContextAlignment(form="radial")
    parts = [alignment(*(x[i : i + 200] for x in whole), generator()) for i in (0, 200, 400)]
    torch.testing.assert_close(alignment(*whole, generator()), torch.stack(parts).mean())


def test_alignments_by_name(rows):
    marginal = build_alignment({"name": "marginal", "diagonal": True}, detach_observed=True)
    two_samples = ContextAlignment(form="radial", conditional=False)(*rows, generator())
    torch.testing.assert_close(marginal(*rows, generator()), two_samples)
    assert marginal.weights(rows[2], rows[3]) == []
    conditional = build_alignment("conditional", detach_observed=False)
    assert (conditional.detach_observed, conditional.with_target, conditional.diagonal) == (False, False, False)
    with pytest.raises(UnknownNameError, match="alignment 'conditonal'.*Did you mean 'conditional'"):
        build_alignment("conditonal", detach_observed=True)
    with pytest.raises(ConfigurationError, match=r"neighbours .*more than 0 and at most 1, got 2"):
        build_alignment({"name": "conditional", "neighbours": 2.0}, detach_observed=True)
    with pytest.raises(ConfigurationError, match=r"cannot leave out the diagonal.*form='radial', got products"):
        build_alignment({"name": "conditional", "form": "products"}, detach_observed=True)
