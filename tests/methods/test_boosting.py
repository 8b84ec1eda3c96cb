"""Boosting: summaries against NumPy and pandas, predictions against scikit-learn on the same features."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import cases
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import amodal
from amodal.batch import Batch
from amodal.data import Cohort
from amodal.errors import AmodalError, ConfigurationError, DataError
from amodal.methods.boosting import Boosting
from amodal.missingness import BalancedCounts
from amodal.schema import Modality, Schema, Task

SMALL = {"steps": 15, "learning_rate": 0.2, "leaves": 5, "min_rows": 2}


def schema_of(*modalities, task="binary"):
    return Schema(modalities, cases.TASKS[task])


# Summaries -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series():
    """Ten rows of eight steps with holes and different lengths, NaN where nothing can be read, and as a batch."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, 8, 3)).astype(np.float32)
    measured = rng.random(values.shape) < 0.6
    lengths = rng.integers(1, 9, 10)
    measured[:, :, 2][0] = False  # a feature that is never measured in a present row
    holes = np.where(measured & (np.arange(8)[None, :, None] < lengths[:, None, None]), values, np.nan)
    observed = np.arange(10) != 4
    batch = Batch(
        {"labs": torch.from_numpy(values)},
        {"labs": torch.from_numpy(observed)},
        {"labs": torch.from_numpy(measured)},
        {"labs": torch.from_numpy(lengths)},
    )
    return holes, lengths, observed, batch


def test_series_summaries_equal_pandas(series):
    holes, lengths, observed, batch = series
    method = Boosting(schema_of(Modality("labs", "series", (8, 3))))
    features = method.features(batch).view(10, 3, 8).numpy()
    assert method.trees.n_features == 24
    for row, feature in np.ndindex(10, 3):
        ours = features[row, feature]
        if not observed[row]:
            assert np.isnan(ours).all()
            continue
        cells = pd.Series(holes[row, :, feature])
        known = cells.dropna()
        late = cells[: lengths[row]].iloc[math.floor(0.75 * lengths[row]) :].mean()
        if known.empty:
            assert np.isnan(np.delete(ours, 6)).all()
            assert ours[6] == 0  # none was counted
            continue
        expected = [known.mean(), known.min(), known.max(), known.std(ddof=0), known.iloc[0], known.iloc[-1]]
        np.testing.assert_allclose(ours[:6], expected, atol=2e-6)
        np.testing.assert_allclose(ours[6], math.log1p(len(known)) / math.log1p(8), rtol=1e-6)  # trees need its order
        np.testing.assert_allclose(ours[7], known.iloc[-1] if math.isnan(late) else late, atol=2e-6)


def test_table_cells_are_the_features_and_nan_where_not_measured_or_absent():
    batch = Batch(
        {"t": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])},
        {"t": torch.tensor([True, True, False])},
        {"t": torch.tensor([[True, False], [True, True], [True, True]])},
    )
    features = Boosting(schema_of(Modality("t", "tabular", (2,)))).features(batch)
    np.testing.assert_array_equal(features, [[1, np.nan], [3, 4], [np.nan, np.nan]])


def test_small_images_are_pixels_and_large_ones_block_means():
    image = torch.rand(2, 1, 6, 8)
    observed = torch.tensor([True, False])
    batch = Batch({"i": image}, {"i": observed})
    schema = schema_of(Modality("i", "image", (1, 6, 8)))
    pixels = Boosting(schema).features(batch)
    np.testing.assert_array_equal(pixels[0], image[0].flatten())
    assert pixels[1].isnan().all()
    blocks = Boosting(schema, image_cells=12).features(batch)  # half of each side: 3 x 4 blocks of 2 x 2
    expected = image[0, 0].numpy().reshape(3, 2, 4, 2).mean((1, 3))
    np.testing.assert_allclose(blocks[0], expected.ravel(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 100, 3), (40, 7, 7), (1, 16, 16)])
def test_an_image_never_has_more_features_than_allowed_unless_it_has_more_channels(shape):
    method = Boosting(schema_of(Modality("i", "image", shape)))
    assert method.trees.n_features <= max(256, shape[0])
    batch = Batch({"i": torch.rand(2, *shape)}, {"i": torch.tensor([True, True])})
    assert method.features(batch).shape == (2, method.trees.n_features)


def test_text_is_counts_of_words():
    texts = ["edema no edema", "No, EDEMA!", "", "effusion"]
    length = max(map(len, texts))
    data = torch.tensor([list(text.encode().ljust(length, b"\0")) for text in texts], dtype=torch.uint8)
    batch = Batch(
        {"note": data},
        {"note": torch.tensor([True, True, True, False])},
        {},
        {"note": torch.tensor([len(text) for text in texts])},
    )
    counts = Boosting(schema_of(Modality("note", "text", ())), buckets=4096).features(batch)
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    assert counts[:3].sum(1).tolist() == [len(found) for found in words[:3]]
    edema = (counts[0] == 2).nonzero().item()
    no = (counts[0] == 1).nonzero().item()
    assert counts[1].nonzero().flatten().tolist() == sorted([edema, no])
    assert counts[3].isnan().all()


def test_modalities_stand_in_the_schemas_order():
    schema = cases.make_schema()
    method = Boosting(schema, buckets=8)
    batch = cases.make_batch(schema, torch.tensor([[True, False, True, False]]))
    known = ~method.features(batch)[0].isnan()
    sizes = [3, 16, 16, 8]
    table, series, image, text = known.split(sizes)
    assert image.all()
    assert not series.any()
    assert not text.any()
    assert table.tolist() == batch.measured["table"][0].tolist()


# Trees ---------------------------------------------------------------------------------------------------------------


def rows_of(task, n=60):
    schema = cases.make_schema(task)
    return schema, [cases.make_batch(schema, cases.mixed_presence(schema, n // 15), seed=seed) for seed in (1, 2)]


def fitted(schema, train, **options):
    method = Boosting(schema, buckets=8, **SMALL | options)
    method.estimate(train, [], torch.Generator().manual_seed(0))
    method.weights.copy_(torch.tensor([1.0, 0.0]))  # the trees of all batches alone
    return method


def scikit_options(method, n_batches):
    return {
        "max_iter": method.steps,
        "learning_rate": method.learning_rate,
        "max_leaf_nodes": method.leaves,
        "min_samples_leaf": method.min_rows * n_batches,
        "l2_regularization": method.l2 * n_batches,
        "early_stopping": False,
        "random_state": int(torch.randint(2**31 - 1, (), generator=torch.Generator().manual_seed(0))),
    }


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_probabilities_equal_scikit_learn(task):
    schema, train = rows_of(task)
    method = fitted(schema, train)
    x = torch.cat([method.features(batch) for batch in train]).numpy()
    y = torch.cat([batch.target for batch in train]).numpy()
    model = HistGradientBoostingClassifier(**scikit_options(method, 2)).fit(x, y)
    new = cases.make_batch(schema, cases.mixed_presence(schema, 3), seed=3)
    expected = model.predict_proba(method.features(new).numpy())
    np.testing.assert_allclose(method.predict(new), expected, atol=1e-6)
    assert expected.std() > 0.01


def test_regression_equals_scikit_learn():
    schema, train = rows_of("regression")
    method = fitted(schema, train)
    x = torch.cat([method.features(batch) for batch in train]).numpy()
    y = torch.cat([batch.target for batch in train]).numpy()
    model = HistGradientBoostingRegressor(**scikit_options(method, 2)).fit(x, y)
    new = cases.make_batch(schema, cases.mixed_presence(schema, 3), seed=3)
    np.testing.assert_allclose(method.predict(new), model.predict(method.features(new).numpy()), atol=1e-5)


def test_each_label_equals_a_model_on_the_rows_that_know_it():
    schema, train = rows_of("multilabel")
    method = fitted(schema, train)
    x = torch.cat([method.features(batch) for batch in train]).numpy()
    y = torch.cat([batch.target for batch in train]).numpy()
    assert np.isnan(y).any()
    new = cases.make_batch(schema, cases.mixed_presence(schema, 3), seed=3)
    for label in range(2):
        known = ~np.isnan(y[:, label])
        model = HistGradientBoostingClassifier(**scikit_options(method, 2)).fit(x[known], y[known, label])
        expected = model.predict_proba(method.features(new).numpy())[:, 1]
        np.testing.assert_allclose(method.predict(new)[:, label], expected, atol=1e-6)


def retargeted(batch, target):
    return Batch(batch.values, batch.observed, batch.measured, batch.lengths, target)


def test_a_constant_label_is_predicted_with_half_a_case_of_doubt():
    schema, (train, _) = rows_of("multilabel")
    target = train.target.nan_to_num()
    target[:, 1] = 1.0
    method = fitted(schema, [retargeted(train, target)])
    expected = (60 + 0.5) / (60 + 1)
    np.testing.assert_allclose(method.predict(train)[:, 1], np.full(60, expected), rtol=1e-5)
    with pytest.raises(DataError, match="every label is constant"):
        fitted(schema, [retargeted(train, torch.ones(60, 2))])


def test_a_class_that_training_lacks_has_next_to_no_probability():
    schema, (train, _) = rows_of("multiclass")
    for seen in ([0, 2], [2, 1]):
        target = torch.tensor(seen)[torch.arange(60) % 2]
        method = fitted(schema, [retargeted(train, target)])
        probabilities = method.predict(train)
        x = method.features(train).numpy()
        model = HistGradientBoostingClassifier(**scikit_options(method, 1)).fit(x, target)
        np.testing.assert_allclose(probabilities[:, sorted(seen)], model.predict_proba(x), atol=1e-6)
        absent = ({0, 1, 2} - set(seen)).pop()
        assert 0 < probabilities[:, absent].max() < 1e-9


def test_a_case_counts_once_however_often_its_removal_is_redrawn():
    """The same rows twice give the same trees as the rows once: leaves hold cases, not repetitions."""
    schema, (train, _) = rows_of("binary")
    once, twice = fitted(schema, [train]), fitted(schema, [train, train])
    torch.testing.assert_close(once.predict(train), twice.predict(train), rtol=1e-4, atol=1e-5)


def test_removal_in_training_teaches_small_patterns():
    """Both tables hold the answer, the second with noise. Trees that never met its like alone do not use it."""
    schema = schema_of(Modality("a", "tabular", (1,)), Modality("b", "tabular", (1,)))
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (400,), generator=rng)
    values = {
        k: target[:, None] * 2.0 - 1 + s * torch.randn(400, 1, generator=rng) for k, s in (("a", 0.1), ("b", 0.8))
    }
    present = torch.ones(400, dtype=torch.bool)
    whole = Batch(values, {"a": present, "b": present}, target=target)
    only_b = whole.restrict({"a": ~present})
    without, with_removal = fitted(schema, [whole]), fitted(schema, [whole, only_b])
    accuracy = [(m.predict(only_b).argmax(1) == target).double().mean() for m in (without, with_removal)]
    assert accuracy[1] > 0.85  # the optimum is 0.894
    assert accuracy[0] < accuracy[1] - 0.2


def test_two_sets_of_trees_are_weighed_by_the_number_of_modalities():
    """The trees of the rows as they are and those of both; each is fitted as it would be alone."""
    schema, (train, removed) = rows_of("binary")
    method = Boosting(schema, buckets=8, **SMALL)
    method.estimate([train, removed], [], torch.Generator().manual_seed(0))
    assert method.weights.tolist() == [[0.5, 0.5]] * 5
    whole, plain = fitted(schema, [train, removed]), fitted(schema, [train])
    torch.testing.assert_close(method.predict(removed), (whole.predict(removed) + plain.predict(removed)) / 2)
    new = cases.make_batch(schema, cases.mixed_presence(schema, 3), seed=3)
    sure = plain.predict(new)[:, 1] > 0.5
    wrong = Batch(new.values, new.observed, new.measured, new.lengths, torch.where(sure, 0, 1), new.ids)
    right = Batch(new.values, new.observed, new.measured, new.lengths, torch.where(sure, 1, 0), new.ids)
    weights = []
    for rows in (wrong, right):
        method.adjust([(rows, torch.ones(len(rows)))])
        weights.append(method.weights[:, 1].mean())
    assert weights[0] < weights[1]


def test_steps_end_at_the_lowest_loss_of_the_validation_rows():
    schema, (train, valid) = rows_of("binary")
    stopped, whole = Boosting(schema, buckets=8, **SMALL), fitted(schema, [train])
    stopped.estimate([train], [valid], torch.Generator().manual_seed(0))
    losses = []
    for steps in range(1, SMALL["steps"] + 1):
        method = fitted(schema, [train], steps=steps)
        losses.append(float(-method.predict(valid).gather(1, valid.target[:, None]).log().mean()))
    best = int(np.argmin(losses)) + 1
    assert len(stopped.trees.root) == best < len(whole.trees.root)
    torch.testing.assert_close(stopped.predict(valid), fitted(schema, [train], steps=best).predict(valid))
    never = Boosting(schema, buckets=8, patience=None, **SMALL)
    never.estimate([train], [valid], torch.Generator().manual_seed(0))
    assert len(never.trees.root) == len(whole.trees.root)


def test_a_class_that_only_validation_has_is_left_out_of_stopping():
    schema, (train, valid) = rows_of("multiclass")
    method = Boosting(schema, buckets=8, **SMALL)
    method.estimate([retargeted(train, train.target % 2)], [valid], torch.Generator().manual_seed(0))
    assert method.predict(valid)[:, 2].max() < 1e-9


def test_the_yardstick_is_no_weaker_than_the_shelf():
    """Beside scikit-learn's defaults, and 300 steps of 0.04, on the rows as they are and on the rows under removal."""
    x, y = load_breast_cancer(return_X_y=True)
    values = {name: x[:, 10 * i : 10 * i + 10] for i, name in enumerate(("mean", "error", "worst"))}
    cohort = Cohort.from_arrays(values, task=Task("binary", classes=("malignant", "benign")), target=y)
    order = np.random.default_rng(0).permutation(len(y))
    train, valid, test = (cohort.take(rows) for rows in np.split(order, [300, 360]))
    removed = BalancedCounts(least=1).draw(test.observed, tuple(values), np.random.default_rng(1))
    removal = BalancedCounts().draw(train.observed, tuple(values), np.random.default_rng(2))
    both = amodal.fit("boosting", train, valid, recalibrate=False)
    differences = []
    for rows in (test, test.with_observed(removed)):
        others = [
            HistGradientBoostingClassifier(random_state=0, **settings)
            .fit(whole_table(learnt), learnt.target)
            .predict_proba(whole_table(rows))
            for learnt in (train, train.with_observed(removal))
            for settings in ({}, {"max_iter": 300, "learning_rate": 0.04})
        ]
        loss, *losses = (-np.log(p[np.arange(len(rows)), rows.target]).mean() for p in (both.predict(rows), *others))
        differences.append(loss - np.array(losses))
    assert np.max(differences) < 0.002  # no other is ahead anywhere,
    assert np.min(differences, axis=0).max() < -0.01  # and each is behind, on the rows as they are or under removal


def whole_table(cohort):
    batch = cohort.batch(np.arange(len(cohort)))
    return np.concatenate(
        [np.where(batch.observed[name][:, None], values, np.nan) for name, values in batch.values.items()], axis=1
    )


# Errors --------------------------------------------------------------------------------------------------------------


def test_defaults_are_the_yardsticks():
    method = Boosting(cases.make_schema())
    assert (method.steps, method.learning_rate, method.leaves, method.min_rows) == (300, 0.06, 12, 20)
    assert (method.l2, method.patience) == (0.6, 15)
    assert Boosting(cases.make_schema(), redraws=3).redraws == 3


def test_prediction_before_fitting_is_an_error():
    schema, (train, _) = rows_of("binary")
    with pytest.raises(AmodalError, match="have not been fitted"):
        Boosting(schema).predict(train)


def test_a_single_class_or_no_target_is_an_error():
    schema, (train, _) = rows_of("binary")
    with pytest.raises(DataError, match=r"one class only.*got yes"):
        fitted(schema, [retargeted(train, torch.ones(60, dtype=torch.int64))])
    with pytest.raises(DataError, match="with a target"):
        fitted(schema, [retargeted(train, None)])


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"steps": 0}, "steps of Boosting is out of range.*1 or more, got 0"),
        ({"leaves": 1}, "leaves of Boosting.*2 or more, got 1"),
        ({"learning_rate": 0.0}, "learning_rate of Boosting.*more than 0, got 0.0"),
        ({"l2": -1.0}, "l2 of Boosting.*0 or more, got -1.0"),
    ],
)
def test_options_out_of_range(option, expected):
    with pytest.raises(ConfigurationError, match=expected):
        Boosting(cases.make_schema(), **option)


def test_targets_are_positions_of_classes_whatever_their_labels():
    """Integer classes: targets are positions, whatever the labels are."""
    schema = Schema((Modality("t", "tabular", (1,)),), Task("binary", classes=(7, 9)))
    target = torch.arange(80) % 2
    batch = Batch({"t": target[:, None].float()}, {"t": torch.ones(80, dtype=torch.bool)}, target=target)
    assert torch.equal(fitted(schema, [batch]).predict(batch).argmax(1), target)
