"""The alignment of a batch: an average of the loss by queries, then by modalities, with every option passed on."""

import pytest
import torch

from amodal.errors import DataError
from amodal.losses.characteristic_function.context_alignment import ContextAlignment
from amodal.losses.characteristic_function.loss import conditional_cf_loss, marginal_cf_loss


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


@pytest.mark.parametrize("options", [{}, {"detach_weights": False}, {"detach_observed": False}, {"bandwidth": 1e-3}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_modalities_at_once_are_the_modalities_one_by_one(rows, options, dtype):
    found = []
    for at_once in (True, False):
        features, predicted, context = (part.to(dtype).requires_grad_() for part in rows[:3])
        without = None if at_once else context[:, None].expand(-1, 3, -1)  # the same contexts, by the general way
        alignment = ContextAlignment(form="radial", distance="per_dimension", **options)
        several = rows[3] & (rows[3].sum(1, keepdim=True) > 1)  # the general way leaves out what has no other context
        observed = torch.where(rows[3].sum(1, keepdim=True) == 1, ~rows[3], several)
        value = alignment(features, predicted, context, observed, generator(), contexts_without=without)
        gradients = torch.autograd.grad(value, [features, predicted, context], allow_unused=True)
        found.append([value, *(torch.zeros(()) if g is None or not g.any() else g for g in gradients)])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    assert found[0][2].any()
    assert found[0][1].any() == (options == {"detach_observed": False})
    assert found[0][3].any() == (options == {"detach_weights": False})
