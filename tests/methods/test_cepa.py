"""CEPA: the sheet's properties, and its equations transcribed."""

import copy

import pytest
import torch
from contracts import cases

from amodal.encoders import Tokens, build_encoders, encode_all
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.losses.characteristic_function.loss import conditional_cf_loss
from amodal.method import draws_itself
from amodal.methods import cepa, method_options
from amodal.methods.cepa import CEPA
from amodal.patterns import draw_removal, draw_removals
from amodal.schema import Schema
from amodal.tokens.hiding import embed_present, encode_passes
from amodal.tokens.latent_prediction import MovingAverage

SCHEMA = cases.make_schema()
SMALL = {"preset": "one_pattern", "layers": 1, "heads": 2, "dropout": 0.0}
LITERAL = {"name": "conditional", "bandwidth": 1.0, "with_target": True, "diagonal": True}


def method_of(schema=SCHEMA, image="convnet", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = build_encoders(schema, width=8, dropout=0.0, choices={"image": image})
        method = CEPA(schema, encoders, **method_options("cepa", SMALL | options))
    method.reconstructed = 1.0
    return method


def hidden_of(method, batch):
    """All rows of a batch with both masks of them."""
    parts = (method.encoders, method.masks, *method._encoded(batch), batch.presence)
    return method.sequences.hidden_rows(*parts, share=method.reconstructed, generator=generator())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(observed=None, schema=SCHEMA, seed=0):
    return cases.make_batch(schema, cases.mixed_presence(schema) if observed is None else observed, seed=seed)


ALL = torch.ones(8, 4, dtype=torch.bool)


@pytest.mark.parametrize("masking", ["random", "block", "cross_modal", "modality"])
def test_masks_hide_own_tokens_only_and_are_nested(masking):
    method, batch = method_of(masking=masking), batch_of()
    some = hidden_of(method, batch)
    for name, own in some.own.items():
        less, more = some.less[name].detach() > 0.5, some.more[name].detach() > 0.5
        assert not (less & ~more).any()
        assert not (more & ~own).any()
        assert not own[~batch.observed[name]].any()
        if masking == "modality":
            assert torch.equal(more.any(1), more.sum(1) == own.sum(1).clamp(min=1))  # all of a modality or nothing
            continue
        may = method.encoders[name].hideable(own)  # a series' summary is always visible
        several = may.sum(1) > 1
        expected = (0.3 * may.sum(1)).round().clamp(min=1)
        assert torch.equal(less.sum(1)[several], expected[several].long())
    left = torch.stack([(own & (some.more[n] < 0.5)).any(1) for n, own in some.own.items()], 1)
    assert left.any(1).all()


def test_no_masking_reconstructs_all_tokens_from_clean_ones():
    method = method_of(masking="none")
    some = hidden_of(method, batch_of())
    assert method._masked(some, some.less) is some.clean
    assert some.less is some.more is some.own


@pytest.mark.parametrize("patterns", [1, 4])
@pytest.mark.parametrize("masking", ["none", "random", "cross_modal"])
def test_each_encoder_is_called_once_for_all_passes(masking, patterns):
    """Both masked some are one call of the trunk; series and image are embedded again without what is hidden."""
    method, counts = method_of(masking=masking, patterns=patterns), {}
    for name, encoder in method.encoders.items():
        for stage in ("embed", "trunk"):
            original = getattr(encoder, stage)

            def counted(*a, original=original, key=(name, stage), **k):
                counts[key] = counts.get(key, 0) + 1
                return original(*a, **k)

            setattr(encoder, stage, counted)
    method.objective(batch_of(), generator())
    trunks = 1 if masking == "none" else 2
    once = {(n, s): 1 if s == "embed" else trunks for n in SCHEMA.names for s in ("embed", "trunk")}
    assert counts == once | {("vital-signs", "embed"): trunks, ("image", "embed"): trunks}


def test_masked_passes_encode_what_the_first_pattern_leaves():
    method, seen = method_of(patterns=3), {}
    for name, encoder in method.encoders.items():
        original = encoder.trunk

        def counted(tokens, valid, original=original, name=name):
            seen.setdefault(name, []).append(len(tokens))
            return original(tokens, valid)

        encoder.trunk = counted
    batch = batch_of()
    first = draw_removals(batch.presence, 3, generator())[0]
    method.objective(batch, generator())
    for m, name in enumerate(SCHEMA.names):
        assert seen[name] == [int(batch.observed[name].sum()), int(first[:, m].sum())]


def test_a_modality_whose_encoder_cannot_hide_counts_as_one_token():
    encoders = build_encoders(SCHEMA, width=8, dropout=0.0, choices={"image": "convnet"})
    encoders["image"].can_hide = False
    method = CEPA(SCHEMA, encoders, **method_options("cepa", SMALL | {"masking": "random"}))
    some = hidden_of(method, batch_of())
    assert some.own["image"].sum(1).max() > 1
    for hide in (some.less["image"], some.more["image"]):
        assert torch.equal(hide, some.own["image"] & hide.any(1, keepdim=True))  # all of them or none
        assert hide.any()


@pytest.mark.parametrize("encoder", ["convnet", "patches"])
def test_what_is_hidden_does_not_reach_the_masked_tokens(encoder):
    """The whole way: the derivative of the masked pass by the pixels of hidden cells is zero."""
    method, batch = method_of(image=encoder, masking="random"), batch_of(ALL)
    image = batch.values["image"].requires_grad_()  # cells of 2×2 pixels
    some = hidden_of(method, batch)
    for hide in (some.less, some.more):
        tokens = method._masked(some, hide)
        (gradient,) = torch.autograd.grad(tokens["image"].values.square().sum(), image, retain_graph=True)
        by_patch = gradient.unflatten(3, (2, 2)).unflatten(2, (2, 2)).abs().sum((1, 3, 5)).flatten(1)  # (B, L)
        assert not by_patch[hide["image"]].any()
        assert by_patch[~hide["image"]].all()


def test_stacked_passes_are_the_passes_one_by_one():
    encoders = build_encoders(SCHEMA, width=8, dropout=0.0).eval()
    batch = batch_of()
    for name, encoder in encoders.items():
        embedded = embed_present(encoder, batch, name)
        hide = torch.rand(embedded.valid.shape, generator=generator()) < 0.4
        placeholder = torch.randn(8)
        clean, hard, soft = encode_passes(encoder, embedded, placeholder, [None, hide, hide.float()])
        torch.testing.assert_close(clean, encode_all(encoders, batch)[name].tokens[embedded.rows])
        again = encoder.embed_without(hide, *embedded.inputs)
        hidden = torch.where(hide[..., None], placeholder, embedded.tokens if again is None else again)
        torch.testing.assert_close(hard, encoder.trunk(hidden, embedded.valid), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(soft, hard, atol=1e-5, rtol=1e-4)


def test_reconstruction_by_hand():
    """(1 / |O|) sum over modalities of (1 / K) of the squared distances of hidden tokens, summed over the width."""
    method, batch = method_of(masking="random"), batch_of()
    some = hidden_of(method, batch)
    predicted = {n: torch.randn(z.values.shape, generator=generator(m)) for m, (n, z) in enumerate(some.clean.items())}
    value, counted = method._reconstruction(predicted, some, some.less)
    for row in range(len(batch)):
        parts = []
        for name, hide in some.less.items():
            at = hide[row].nonzero()[:, 0]
            if len(at):
                gap = predicted[name][row, at] - some.clean[name].values[row, at]
                parts.append((gap**2).sum() / len(at))
        expected = torch.stack(parts).mean() if parts else torch.zeros(())
        torch.testing.assert_close(value[row], expected)
        assert bool(counted[row]) == bool(parts)


def test_reconstruction_is_zero_at_the_target_and_ignores_what_was_not_hidden():
    method, batch = method_of(masking="random"), batch_of()
    some = hidden_of(method, batch)
    perfect = {name: tokens.detach().clone() for name, (tokens, _) in some.clean.items()}
    assert not method._reconstruction(perfect, some, some.less)[0].any()
    for name, hide in some.less.items():
        perfect[name][:, : hide.shape[1]][~hide] = 1e6
    assert not method._reconstruction(perfect, some, some.less)[0].any()


def test_alignment_is_equation_12_averaged_over_queries_then_modalities():
    method = method_of(alignment=LITERAL)
    observed = cases.mixed_presence(SCHEMA)
    features = torch.randn(len(observed), 4, 8)
    context = torch.stack([f[o].mean(0) for f, o in zip(features, observed)])
    means = []
    for m in range(4):
        has = observed[:, m]
        sides = (features[has, m], features[~has, m], context[has], context[~has])
        means.append(conditional_cf_loss(*sides, form="radial").mean())
    torch.testing.assert_close(method._alignment(features, observed, generator()), torch.stack(means).mean())


def test_contexts_are_of_the_other_modalities():
    method, observed = method_of(), cases.mixed_presence(SCHEMA)
    features = torch.randn(len(observed), 4, 8)
    without = method._contexts_without(features, observed)
    for row, present in enumerate(observed):
        for m in range(4):
            others = [j for j in range(4) if present[j] and j != m]
            expected = features[row, others].mean(0) if others else torch.zeros(8)
            torch.testing.assert_close(without[row, m], expected)
    changed = features.clone()
    changed[:, 2] += 100.0
    assert torch.equal(method._contexts_without(changed, observed)[:, 2], without[:, 2])
    assert method_of(preset="paper")._contexts_without(features, observed) is None


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25])
def test_the_alignment_conditions_on_a_share_of_the_rows(share):
    method, batch = (
        method_of(alignment={"name": "conditional", "neighbours": share}).eval(),
        batch_of(cases.mixed_presence(SCHEMA, 8)),
    )
    numbers = method.monitor(batch)
    assert numbers["effective_sample_size"] == pytest.approx(share * numbers["neighbours"], rel=0.05)
    uniform = method_of(alignment="marginal").eval().monitor(batch)
    assert "effective_sample_size" not in uniform


def test_spreads_of_predictions_are_watched_by_modality():
    method = method_of().eval()
    columns = {f"spread_ratio_{name}" for name in SCHEMA.names}
    numbers = method.monitor(batch_of(cases.mixed_presence(SCHEMA, 3)))
    assert all(numbers[column] > 0 for column in columns)
    constant = copy.deepcopy(method)
    constant.predictor.output.weight.data.zero_()
    numbers = constant.monitor(batch_of(cases.mixed_presence(SCHEMA, 3)))
    assert [numbers[column] for column in columns] == pytest.approx([0.0] * 4, abs=1e-4)


def test_two_modalities_of_one_token_are_told():
    two = Schema(cases.MODALITIES["tables"][:2], cases.TASKS["binary"])
    with pytest.warns(UserWarning, match="cross.* is zero.*'feature_tokens'"):
        CEPA(two, build_encoders(two, width=8)).prepare([])
    tokens = build_encoders(two, width=8, choices=dict.fromkeys(two.names, "feature_tokens"))
    CEPA(two, tokens).prepare([])
    CEPA(two, build_encoders(two, width=8), cross_weight=0.0).prepare([])


def test_half_precision_leaves_predictions_and_reconstructions_in_single():
    method = method_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.objective(batch_of(), generator()).terms
        predicted = method.eval().predict(batch_of())
    assert all(value.dtype == torch.float32 for value in terms.values())
    assert predicted.dtype == torch.float32
    torch.testing.assert_close(predicted.sum(1), torch.ones(len(predicted)))


def test_terms_vanish_where_they_are_not_defined():
    method = method_of()
    terms = method.objective(batch_of(ALL), generator()).terms
    assert terms["cf"] == 0
    assert terms["cross"] == 0  # of rows that lack a modality
    assert terms["observed"] > 0
    assert method_of(preset="paper").objective(batch_of(ALL), generator()).terms["cross"] > 0
    only_table = torch.tensor([[True, False, False, False]] * 3)  # one token, and nothing else to see
    terms = method.objective(batch_of(only_table), generator()).terms
    assert terms["observed"] == terms["cross"] == terms["cf"] == 0
    assert torch.isfinite(terms["task"])


def test_the_weights_are_the_three_of_equation_14():
    weights = {"observed_weight": 2.0, "cross_weight": 3.0, "cf_weight": 5.0, "completion_weight": 7.0}
    terms = method_of(**weights).objective(batch_of(), generator())
    parts = terms.terms
    expected = parts["task"] + 2 * parts["observed"] + 3 * parts["cross"] + 5 * parts["cf"] + 7 * parts["completions"]
    torch.testing.assert_close(terms.total, expected)


def test_complete_rows_are_encoded_pooled_and_fused_only():
    """With nothing absent the prediction is encoders, pooling, fusion: the predictor has no say."""
    method = method_of().eval()
    other = copy.deepcopy(method)
    for parameter in [*other.predictor.parameters(), *other.sequences.stand_in.parameters(), *other.masks.parameters()]:
        parameter.data.normal_(generator=generator())
    assert torch.equal(method.predict(batch_of(ALL)), other.predict(batch_of(ALL)))
    assert not torch.equal(method.predict(batch_of()), other.predict(batch_of()))
    features = []
    for name, encoder in method.encoders.items():
        tokens, valid, _ = encode_all(method.encoders, batch_of(ALL))[name]
        features.append(method.pool[name](encoder, method.sequences.project[name](tokens), valid))
    state = method.fusion(torch.stack(features, 1) + method.slot, torch.ones(8, 4, dtype=torch.bool))
    torch.testing.assert_close(method.head(state.flatten(1)).softmax(1), method.predict(batch_of(ALL)))


def test_the_moving_average_follows_exactly_and_is_never_trained():
    method, share = method_of(), 0.996
    before = [p.clone() for p in method.masks.average.network.parameters()]
    optimiser = torch.optim.SGD(list(method.parameters_of("main")), lr=0.1)
    method.objective(batch_of(), generator()).total.backward()
    optimiser.step()
    method.after_step()
    for old, mine, new in zip(before, method.masks.average.network.parameters(), method.predictor.parameters()):
        torch.testing.assert_close(mine, share * old + (1 - share) * new)
        assert not mine.requires_grad
    followed = {id(p) for p in method.masks.average.parameters()}
    assert not followed & {id(p) for p in method.parameters_of("main")}


def test_the_moving_average_has_no_dropout():
    method = method_of(dropout=0.5).train()
    assert not any(module.training for module in method.masks.average.modules())
    assert method.predictor.training
    with pytest.raises(ConfigurationError, match=r"decay of a moving average.*got 1.5"):
        MovingAverage(torch.nn.Linear(1, 1), 1.5)


def task_gradient(method, batch):
    loss = method.objective(batch, generator()).terms["task"]
    gradients = torch.autograd.grad(loss, list(method.masks.scores.parameters()), allow_unused=True)
    return (
        torch.cat([g.flatten() for g in gradients if g is not None]) if any(g is not None for g in gradients) else None
    )


def test_the_task_alone_teaches_the_scores_only_where_something_is_absent():
    """Fusion uses clean tokens of what is present, and predictions from masked ones of what is absent."""
    complete = task_gradient(method_of(clean_prediction=False), batch_of(ALL))
    assert complete is None or not complete.any()
    assert task_gradient(method_of(clean_prediction=False), batch_of()).any()
    clean = task_gradient(method_of(clean_prediction=True), batch_of())
    assert clean is None or not clean.any()


def test_adversarial_scores_learn_the_opposite_of_cooperative_ones():
    ours, theirs = (
        task_gradient(method_of(mask_objective=o, clean_prediction=False), batch_of())
        for o in ("adversarial", "cooperative")
    )
    torch.testing.assert_close(ours, -theirs)
    frozen = method_of(mask_objective="frozen")
    assert not any(p.requires_grad for p in frozen.masks.scores.parameters())


def test_masks_do_not_depend_on_absent_slots():
    method = method_of()
    masks = []
    for hidden in (0.0, 1e30):
        batch = cases.make_batch(SCHEMA, cases.mixed_presence(SCHEMA), hidden=hidden, blank=False)
        masks.append(hidden_of(method, batch).less)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in SCHEMA.names)


@pytest.mark.parametrize("targets", ["standardised", "detached", "free"])
def test_targets_of_the_reconstruction(targets):
    method, batch = method_of(targets=targets, masking="random"), batch_of()
    some = hidden_of(method, batch)
    predicted = {name: torch.zeros_like(tokens) for name, (tokens, _) in some.clean.items()}
    value, _ = method._reconstruction(predicted, some, some.less)
    assert value.requires_grad == (targets == "free")
    assert method.alignment.detach_observed == (targets != "free")


def test_the_context_encoder_is_fixed():
    fixed = method_of(alignment={"name": "conditional", "context": "transformer"}).train()
    assert not any(p.requires_grad for p in fixed.context.parameters())
    assert not fixed.context.training


def test_presets_set_what_is_not_given():
    literal = method_of(preset="paper")
    mixed = method_of(
        preset="paper", targets="detached", alignment={"name": "conditional", "bandwidth": "per_dimension"}
    )
    for method, targets, distance in ((literal, "free", "raw"), (mixed, "detached", "per_dimension")):
        assert (method.masks.objective, method.targets, method.alignment.distance) == ("cooperative", targets, distance)


@pytest.mark.parametrize("preset", ["default", *CEPA.PRESETS])
def test_every_pattern_is_finite_under_every_preset(preset, monkeypatch):
    monkeypatch.setattr(cepa, "STAND_IN_TOKENS", 1)
    method = method_of(preset=preset)
    for observed in (cases.patterns(4), cases.patterns(4)[:1], cases.patterns(4)[5:6]):
        total = method.objective(batch_of(observed), generator()).total
        gradients = torch.autograd.grad(total, list(method.parameters_of("main")), allow_unused=True)
        assert torch.isfinite(total)
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("masking", ["random", "block", "cross_modal"])
@pytest.mark.parametrize("ratio", [1e-6, 1 - 1e-6])
def test_ratios_that_would_hide_nothing_or_everything_hide_one_token_or_leave_one(masking, ratio):
    method = method_of(masking=masking, mask_ratios=(ratio, ratio))
    batch = batch_of()
    some = hidden_of(method, batch)
    hideable = method.sequences.hideable(method.encoders, some.own, ())
    several = {name: own.sum(1) > 1 for name, own in hideable.items()}
    for name, own in hideable.items():
        count = (some.less[name].detach() > 0.5).sum(1)[several[name]]
        assert torch.equal(count, (torch.ones_like(count) if ratio < 0.5 else own.sum(1)[several[name]] - 1))
    assert torch.isfinite(method.objective(batch, generator()).total)


def test_a_batch_of_one_has_no_alignment_and_one_that_lacks_nothing_no_cross_reconstruction():
    for pattern in cases.patterns(4):
        terms = method_of().objective(batch_of(pattern[None]), generator()).terms
        assert terms["cf"] == 0
        assert terms["cross"] == 0 if pattern.all() else terms["cross"] >= 0
        assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("present", [True, False])
def test_a_modality_that_all_or_none_of_a_batch_have(present):
    observed = cases.mixed_presence(SCHEMA)
    observed = observed[observed[:, 2] == present]
    terms = method_of().objective(batch_of(observed), generator()).terms
    assert terms["cf"] > 0  # of the other modalities
    assert all(torch.isfinite(value) for value in terms.values())


def test_contexts_that_are_not_finite_are_an_error():
    """What a diverged encoder would give."""
    method = method_of()
    features = torch.full((15, 4, 8), torch.nan)
    with pytest.raises(DataError, match="contexts are not finite, the first in row 1"):
        method._alignment(features, cases.mixed_presence(SCHEMA), generator())


def test_terms_without_weight_are_neither_computed_nor_reported():
    """The ablations of the losses cost as much as what is left of them."""
    some = method_of(cross_weight=0.0, completion_weight=0.0).objective(batch_of(), generator())
    assert set(some.terms) == {"task", "observed", "cf"}
    nothing = {"observed_weight": 0.0, "cross_weight": 0.0, "completion_weight": 0.0}
    bare = method_of(**nothing, cf_weight=0.0)
    bare.masks = None  # nothing is hidden
    assert set(bare.objective(batch_of(), generator()).terms) == {"task"}
    literal = method_of(**nothing, clean_prediction=False)
    expected = literal.objective(batch_of(), generator()).terms["task"]
    literal.masks = None
    assert literal.objective(batch_of(), generator()).terms["task"] != expected  # the fusion saw masked tokens


def test_a_share_of_the_rows_is_reconstructed_half_of_them_by_way_of_predictions():
    """The rows are random, and each has one of the two masks; their means are what all rows have on average."""
    method, batch = method_of(masking="none").eval(), batch_of(cases.mixed_presence(SCHEMA, 3))
    whole = method.objective(batch, generator()).terms
    method.reconstructed = 0.25
    some = hidden_of(method, batch)
    assert len(some.rows) == -(-len(batch) // 4)
    assert len(set(some.rows.tolist())) == len(some.rows)
    assert torch.equal(some.observed, batch.presence[some.rows])
    many = [method.objective(batch, generator(seed)).terms for seed in range(60)]
    for name in ("observed", "cross"):
        drawn = torch.stack([terms[name] for terms in many])
        assert abs(drawn.mean() - whole[name]) < 4 * drawn.std() / 60**0.5 + 0.2


def test_the_second_reconstruction_reads_the_predictions_of_the_fusion():
    method, batch = method_of(masking="none", observed_weight=0.0).eval(), batch_of()
    some, (whole, embedded) = hidden_of(method, batch), method._encoded(batch)
    features = method._features(whole, embedded, batch.presence)
    found = method._reconstructions(some, features.predicted, some.rows)["cross"]
    every = method.predictor(whole, {n: v & ~batch.observed[n][:, None] for n, (_, v) in whole.items()})
    again = {n: Tokens(torch.where(batch.observed[n][:, None, None], z, every[n]), v) for n, (z, v) in whole.items()}
    value, counted = method._reconstruction(method.predictor(again), some, some.own)
    torch.testing.assert_close(found, value[counted & ~batch.presence.all(1)].mean())


def test_standardised_tokens_have_one_scale_and_the_paper_s_their_own():
    for preset, same in (("default", True), ("paper", False)):
        some = hidden_of(method_of(preset=preset), batch_of(ALL))
        tokens = torch.cat([z[:, : own.shape[1]][own] for (z, _), own in zip(some.clean.values(), some.own.values())])
        scale = tokens.square().mean(1)
        assert torch.allclose(scale, torch.ones_like(scale), atol=0.02) == same


def test_errors_say_what_was_expected():
    with pytest.raises(UnknownNameError, match=r"preset of cepa 'papr'.*Did you mean 'paper'"):
        method_of(preset="papr")
    with pytest.raises(UnknownNameError, match=r"masking of cepa 'blocks'.*Did you mean 'block'"):
        method_of(masking="blocks")
    for ratios in ((0.0, 0.5), (0.3, 1.0), (0.6, 0.3)):
        with pytest.raises(ConfigurationError, match=r"mask_ratios of cepa .*0 < the first <= the second < 1"):
            method_of(mask_ratios=ratios)
    with pytest.raises(ConfigurationError, match="cf_weight of cepa is out of range"):
        method_of(cf_weight=-1.0)
    with pytest.raises(ConfigurationError, match="patterns of cepa.*1 or more"):
        method_of(patterns=0)


@pytest.mark.parametrize("masking", ["none", "random", "cross_modal"])
def test_several_patterns_are_one_pattern_each(masking):
    """With the task alone the loss of four patterns is the mean of the losses of rows that lack what each removes."""
    nothing = {
        "observed_weight": 0.0,
        "cross_weight": 0.0,
        "cf_weight": 0.0,
        "completion_weight": 0.0,
        "masking": masking,
    }
    several, one = method_of(patterns=4, **nothing), method_of(**nothing)
    assert (several.meets_all_patterns, one.meets_all_patterns) == (True, False)
    one.load_state_dict(several.state_dict())
    several.eval()
    one.eval()
    batch, draws = batch_of(), generator(5)
    kept = [draw_removal(batch.presence, draws) for _ in range(4)]
    less = [batch.restrict(dict(zip(batch.modalities, presence.unbind(1)))) for presence in kept]
    expected = torch.stack([one.objective(part, generator()).terms["task"] for part in less]).mean()
    found = several.objective(batch, generator(5))
    torch.testing.assert_close(found.terms["task"], expected, atol=1e-5, rtol=1e-5)
    assert set(found.terms) == {"task"}


def test_who_removes_modalities_follows_from_the_options():
    """`amodal.fit` removes further unless the method draws several patterns itself."""
    cases_ = [({}, True), ({"preset": "one_pattern"}, False), ({"preset": "paper"}, False), ({"patterns": 1}, False)]
    for options, expected in [*cases_, ({"preset": "paper", "patterns": 2}, True)]:
        resolved = method_options("cepa", options)
        assert CEPA(SCHEMA, cases.make_encoders(SCHEMA), **resolved).meets_all_patterns == expected


def test_the_other_losses_of_several_patterns_are_those_of_the_first():
    options = {"masking": "none", "observed_weight": 0.01, "cross_weight": 0.01, "cf_weight": 0.1}
    several, one = method_of(patterns=3, **options).eval(), method_of(**options).eval()
    batch, draws = batch_of(), generator(5)
    kept = draw_removal(batch.presence, draws)
    less = batch.restrict(dict(zip(batch.modalities, kept.unbind(1))))
    found, expected = several.objective(batch, generator(5)).terms, one.objective(less, generator()).terms
    for name in ("observed", "cross", "cf"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


def test_a_sequence_without_a_modality_is_that_of_rows_that_never_had_it(monkeypatch):
    monkeypatch.setattr(cepa, "STAND_IN_TOKENS", 1)
    method, batch = method_of().eval(), batch_of()
    kept = draw_removal(batch.presence, generator(2))
    patterns = dict(zip(batch.modalities, kept.unbind(1)))
    (whole,) = method.sequences(method.encoders, method.sequences.embed(method.encoders, batch), len(batch), None)
    less = batch.restrict(patterns)
    (never,) = method.sequences(method.encoders, method.sequences.embed(method.encoders, less), len(less), None)
    found = method.sequences.without(whole, patterns)
    for name, (tokens, valid) in never.items():
        length = tokens.shape[1]
        torch.testing.assert_close(found[name].values[:, :length][valid], tokens[valid], atol=1e-5, rtol=1e-5)
        assert torch.equal(found[name].valid[:, :length], valid)
        assert not found[name].valid[:, length:].any()


# Completions ---------------------------------------------------------------------------------------------------------


def test_draws_are_about_the_prediction_and_complete_rows_have_nothing_open():
    method, batch = method_of().eval(), batch_of()
    with torch.no_grad():
        draws, predicted = method.draw(batch, 256, generator()), method.predict(batch)
        assert torch.equal(method.predict_by(batch, seed=3), predicted)
    torch.testing.assert_close(draws.mean(0), predicted, atol=0.01, rtol=0)
    varied = (draws - draws[:1]).abs().amax((0, 2))
    complete = batch.presence.all(1)
    torch.testing.assert_close(draws[:, complete], predicted[complete].expand(256, -1, -1), atol=1e-5, rtol=0)
    assert (varied[~complete] > 1e-6).all()


def test_a_modality_varies_by_itself():
    method, batch = method_of().eval(), batch_of()
    with torch.no_grad():
        draws = method.draw(batch, 8, generator(), vary=["image"])
        lacking = batch_of(cases.patterns(4)[cases.patterns(4)[:, 2]])  # all have the image
        nothing = method.draw(lacking, 8, generator(), vary=["image"])
    varied = (draws - draws[:1]).abs().amax((0, 2)) > 1e-7
    assert torch.equal(varied, ~batch.presence[:, 2])
    assert torch.equal(nothing, nothing[:1].expand_as(nothing))


@pytest.mark.parametrize("preset", ["default", "one_pattern", "paper"])
def test_the_score_is_of_what_the_method_removes(preset):
    """Rows from which nothing can be removed do not count; nothing learns by it but what draws."""
    method = method_of(preset=preset, completion_weight=1.0).eval()
    alone = torch.eye(4, dtype=torch.bool)
    assert method.objective(batch_of(alone), generator()).terms["completions"] == 0
    assert method.objective(batch_of(ALL), generator()).terms["completions"] > 0
    score = method.objective(batch_of(), generator()).terms["completions"]
    gradients = torch.autograd.grad(score, list(method.parameters_of("main")), allow_unused=True)
    learns = {id(p) for p, g in zip(method.parameters_of("main"), gradients) if g is not None}
    assert learns == {id(p) for p in method.completer.parameters()}


def test_without_a_score_there_are_no_completions():
    method = method_of(completion_weight=0.0)
    assert method.draws_mean == "nothing"
    assert not draws_itself(method)
    assert draws_itself(method_of())
    with pytest.raises(ConfigurationError, match=r"no completions.*completion_weight > 0.*training_cases"):
        method.draw(batch_of(), 2, generator())


def test_all_else_is_trained_as_without_completions():
    batch, trained = batch_of(), []
    for weight in (0.0, 0.1):
        method = method_of(preset="default", completion_weight=weight)
        optimiser = torch.optim.AdamW(list(method.parameters_of("main")), lr=0.01)
        for step in range(2):
            optimiser.zero_grad()
            method.objective(batch, generator(step)).total.backward()
            for group in method.clip_groups("main"):
                torch.nn.utils.clip_grad_norm_(list(group), 0.1)
            optimiser.step()
            method.after_step()
        trained.append(method.eval().predict(batch))
    assert torch.equal(*trained)
