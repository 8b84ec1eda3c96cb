"""Similar training cases, against scikit-learn's neighbours and against values by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from amodal.batch import Batch
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.errors import DataError
from amodal.method import Method
from amodal.predictive_impact import donors
from amodal.predictive_impact.donor_pool import DonorPool, summarise
from amodal.predictive_impact.donor_weights import class_weights, tilt, weighted_mean
from amodal.predictive_impact.donors import DonorCompletions
from amodal.schema import Modality, Task

NAMES = ("a", "b", "c")


class Third(Method):
    """Predicts b + 100 c: the completion can be read off the prediction."""

    def __init__(self, schema):
        super().__init__(schema)
        self.place = torch.nn.Parameter(torch.zeros(()))

    def objective(self, batch, generator):
        raise NotImplementedError

    def predict(self, batch):
        return batch.values["b"][:, 0] + 100 * batch.values["c"][:, 0]


def cohort_of(n, observed=None, seed=0, ids=None, groups=None):
    draw = np.random.default_rng(seed)
    values = {"a": draw.normal(size=(n, 3)), "b": np.arange(n)[:, None], "c": np.arange(n)[:, None]}
    values = {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}
    return Cohort.from_arrays(values, task=Task("regression"), target=np.zeros(n), observed=observed,
                              ids=ids, groups=groups)  # fmt: skip


def model_of(cohort):
    sizes = {"a": 3, "b": 1, "c": 1}
    scaling = Scaling(
        {name: torch.zeros(size) for name, size in sizes.items()},
        {name: torch.ones(size) for name, size in sizes.items()},
        clip=float("inf"),
    )
    return TrainedModel(Third(cohort.schema), cohort.schema, scaling, np.zeros(1), {}, pd.DataFrame())


def law_of(train, cases, names, *, neighbours=5, draws=400, seed=0):
    model = model_of(cases)
    source = DonorCompletions(model, train, cases=cases, neighbours=neighbours, draws=draws, seed=seed)
    batch = next(model.batches(cases))
    with torch.no_grad():
        return source.law(batch, names, torch.full((len(batch), 1), float("nan")))


@pytest.fixture(autouse=True)
def no_tilt(monkeypatch):
    """Donors count alike: what is looked at is where they come from."""
    monkeypatch.setattr(donors, "tilt", lambda predictions, weights, present: weights)


def values(law, i):
    """Distinct predictions of a case, and the weight of each."""
    counts = {}
    for value, weight in zip(law.whole[:, i, 0].tolist(), law.weights[:, i].tolist()):
        counts[value] = counts.get(value, 0.0) + weight
    return {value: weight for value, weight in counts.items() if weight > 0}


def without(n, *lacking):
    observed = np.ones((n, 3), dtype=bool)
    for name in lacking:
        observed[:, NAMES.index(name)] = False
    return observed


def test_donors_are_the_nearest_of_scikit_learn_and_come_whole_and_equally_often():
    train, cases = cohort_of(60), cohort_of(7, without(7, "b", "c"), seed=1, ids=range(100, 107))
    law = law_of(train, cases, ["b", "c"])
    standard = [c.batch(np.arange(len(c))).values["a"].numpy() for c in (train, cases)]
    scale = standard[0].std(0, ddof=1)
    nearest = NearestNeighbors(n_neighbors=5).fit(standard[0] / scale).kneighbors(standard[1] / scale)[1]
    for i in range(7):  # b and c of the same case
        assert values(law, i) == {101.0 * j: pytest.approx(0.2) for j in nearest[i]}


def test_distance_is_the_mean_over_shared_modalities():
    presence = np.ones((40, 3), dtype=bool)
    presence[::2, 0] = False  # every other training case shares b only
    train, cases = cohort_of(40, presence), cohort_of(3, without(3, "c"), seed=2, ids=range(100, 103))
    law = law_of(train, cases, ["c"], neighbours=4)
    a, b = (train.batch(np.arange(40)).values[name].numpy().astype(float) for name in ("a", "b"))
    scale_a, scale_b = a[1::2].std(0, ddof=1), b.std(ddof=1)
    mine = cases.batch(np.arange(3))
    for i in range(3):
        to_b = ((mine.values["b"][i, 0].item() - b[:, 0]) / scale_b) ** 2
        to_a = (((mine.values["a"][i].numpy() - a) / scale_a) ** 2).mean(1)
        distance = np.where(presence[:, 0], (to_a + to_b) / 2, to_b)
        own_b = float(mine.values["b"][i, 0])
        assert set(values(law, i)) == {own_b + 100.0 * j for j in np.argsort(distance)[:4]}


def test_without_enough_joint_donors_each_modality_comes_from_its_own_and_it_is_said():
    presence = np.ones((40, 3), dtype=bool)
    presence[:20, 1] = False
    presence[20:, 2] = False  # nobody has b and c
    train, cases = cohort_of(40, presence), cohort_of(1, without(1, "b", "c"), seed=1, ids=[100])
    law = law_of(train, cases, ["b", "c"], draws=2000)
    found = np.array(list(values(law, 0)))
    assert (found % 100).min() >= 20
    assert (found // 100).max() < 20
    assert len(found) == 25  # independent
    assert any("0 training cases have 'b' and 'c' together: too few" in note for note in law.notes)
    presence[:12] = True
    law = law_of(cohort_of(40, presence), cases, ["b", "c"], neighbours=20)
    assert len(values(law, 0)) == 12
    assert law.notes == ("Only 12 training cases have 'b' and 'c' together: completions come from these.",)


def test_modalities_never_seen_together_are_said_and_their_donors_are_anybodys():
    """b was never seen with a: the nearest are all equal, and which are taken hangs on no order of the file."""
    presence = np.ones((200, 3), dtype=bool)
    presence[:100, 1], presence[100:, 0], presence[:, 2] = False, False, True
    train, cases = cohort_of(200, presence), cohort_of(1, without(1, "b", "c"), ids=[999])
    law = law_of(train, cases, ["b"], neighbours=20)
    assert any("No training case has 'b' together with 'a': nothing in the data" in note for note in law.notes)
    donors_of = lambda law: sorted(map(int, law.source.train.ids[law.donors[:, 0, 0].numpy()]))  # noqa: E731
    chosen = donors_of(law)
    assert min(chosen) < 120 < 180 < max(chosen)  # not the first rows, nor the last
    shuffled = train.take(np.random.default_rng(0).permutation(200))
    assert donors_of(law_of(shuffled, cases, ["b"], neighbours=20)) == chosen


def test_nobody_is_his_own_donor_nor_anybody_of_his_group():
    train = cohort_of(30, groups=np.arange(30) // 3)
    law = law_of(train, train.take(np.arange(6)).with_observed(without(6, "c")), ["c"], neighbours=27)
    for i in range(6):
        assert {int(value // 100) for value in values(law, i)} == set(range(30)) - {*range(i // 3 * 3, i // 3 * 3 + 3)}
    alone = cohort_of(3, groups=["x"] * 3)
    with pytest.raises(DataError, match="no training case but their own has what these cases lack: 0"):
        law_of(alone, alone.with_observed(without(3, "c")), ["c"])


def test_no_donor_is_an_error_that_names_the_modality():
    train, cases = cohort_of(10, without(10, "c")), cohort_of(2, without(2, "c"))
    with pytest.raises(DataError, match=r"no training case has 'c'.*missing in cases to complete"):
        law_of(train, cases, ["c"])


# Many training cases --------------------------------------------------------------------------------------------------


def test_of_many_training_cases_some_are_drawn_and_of_rare_ones_all_are_kept():
    presence = np.ones((3000, 3), dtype=bool)
    presence[:, 2] = np.arange(3000) % 100 == 0  # thirty have c
    train, cases = cohort_of(3000, presence), cohort_of(4, without(4, "b", "c"), seed=1, ids=range(4000, 4004))
    model = model_of(cases)
    pool = DonorPool(model, train, cases, most=200)
    assert len(pool.candidates([1])) == 200
    assert len(pool.candidates([2])) == len(pool.candidates([1, 2])) == 30
    assert set(pool.candidates([1])) == set(DonorPool(model, train, cases, most=200).candidates([1]))
    middle = pool.candidates([1]).mean() / 3000
    assert abs(middle - 0.5) < 0.1  # spread over the file
    rows = pool.candidates([1])
    near, there = pool.nearest(next(model.batches(cases)), [1], 5)
    alone, _ = DonorPool(model, train.take(rows), cases).nearest(next(model.batches(cases)), [1], 5)
    assert bool(there.all())
    assert [set(column) for column in near.T.tolist()] == [set(rows[column]) for column in alone.T.numpy()]
    source = DonorCompletions(model, train, cases=cases, most=200)
    assert "of 200 training cases, drawn from 3000," in source.how


def test_a_sample_of_the_training_cases_gives_the_same_law_up_to_chance():
    """b is a normal around the first entry of a: mean and spread of what 2,000 of 20,000 cases give are theirs."""
    draw = np.random.default_rng(0)
    a = draw.normal(size=(20_000, 1)).astype(np.float32)
    b = (a + draw.normal(size=a.shape)).astype(np.float32)
    given = {"values": {"a": a, "b": b, "c": b}, "task": Task("regression"), "target": np.zeros(20_000)}
    train, cases = Cohort.from_arrays(**given), Cohort.from_arrays(
        {"a": np.float32([[-1], [0], [1]]), "b": np.zeros((3, 1), np.float32), "c": np.zeros((3, 1), np.float32)},
        task=Task("regression"), observed=without(3, "b", "c"), ids=["x", "y", "z"],
    )  # fmt: skip
    model = model_of(cases)
    model.scaling = Scaling({k: torch.zeros(1) for k in NAMES}, {k: torch.ones(1) for k in NAMES}, clip=np.inf)
    for most in (2_000, 20_000):
        source = DonorCompletions(model, train, cases=cases, neighbours=100, most=most)
        with torch.no_grad():
            whole = source.law(next(model.batches(cases)), ["b", "c"], torch.zeros(3, 1)).whole[..., 0] / 101.0
        error = 1 / 100**0.5
        assert (whole.mean(0) - torch.tensor([-1.0, 0.0, 1.0])).abs().max() < 4 * error
        assert (whole.std(0) - 1).abs().max() < 4 * error


def test_values_of_donors_are_read_in_parts_where_they_are_large(monkeypatch):
    train, cases = cohort_of(60), cohort_of(7, without(7, "b", "c"), seed=1, ids=range(100, 107))
    whole = law_of(train, cases, ["b", "c"]).whole
    monkeypatch.setattr(donors, "_BYTES", 80)  # four cases
    assert torch.equal(law_of(train, cases, ["b", "c"]).whole, whole)


# Weights -------------------------------------------------------------------------------------------------------------


def test_weights_by_class_are_bayes_rule():
    """Two binary features given the class: weighted donors of the second are its law given the first."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (20_000,), generator=generator)
    x = (torch.rand(20_000, generator=generator) < torch.where(y == 1, 0.9, 0.3)).double()
    present = torch.tensor([[0.25, 0.75]], dtype=torch.float64)  # what another feature said of the class
    classes = torch.nn.functional.one_hot(y, 2).double()[:, None]
    weights = class_weights(torch.ones(20_000, 1, dtype=torch.float64), classes, present)
    assert (weights[:, 0] * x).sum().item() == pytest.approx(0.25 * 0.3 + 0.75 * 0.9, abs=0.01)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_tilting_reaches_the_present_prediction_by_the_closest_weights(size):
    generator = torch.Generator().manual_seed(1)
    predictions = torch.rand(40, 6, size, generator=generator, dtype=torch.float64)
    weights = torch.rand(40, 6, generator=generator, dtype=torch.float64)
    weights /= weights.sum(0)
    goal = torch.rand(40, 6, generator=generator, dtype=torch.float64).softmax(0)  # some other mean of the same
    present = weighted_mean(predictions, goal)
    found = tilt(predictions, weights, present)
    torch.testing.assert_close(found.sum(0), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(weighted_mean(predictions, found), present, atol=2e-3, rtol=0)
    log_ratio = (found / weights).log()  # exponential in the predictions: an affine function of them
    for i in range(6):
        design = torch.cat([predictions[:, i], torch.ones(40, 1, dtype=torch.float64)], dim=1)
        fitted = design @ torch.linalg.lstsq(design, log_ratio[:, i]).solution
        torch.testing.assert_close(fitted, log_ratio[:, i], atol=1e-6, rtol=0)


def test_tilting_of_many_outputs_is_that_in_what_the_completions_span():
    generator = torch.Generator().manual_seed(2)
    few = torch.rand(12, 4, 3, generator=generator, dtype=torch.float64)
    present, weights = few[:6].mean(0), torch.full((12, 4), 1 / 12, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0][:3] / 2
    expected = tilt(few, weights, present)  # its largest number is another than after the turn, and with it the ridge
    torch.testing.assert_close(tilt(few @ turn, weights, present @ turn), expected, atol=2e-3, rtol=0)


def test_tilting_ends_where_no_weights_can_reach():
    predictions = torch.tensor([0.2, 0.4])[:, None, None]
    found = tilt(predictions, torch.full((2, 1), 0.5), torch.tensor([[0.9]]))
    assert found[1, 0] > 0.95
    assert torch.isfinite(found).all()


# Summaries -----------------------------------------------------------------------------------------------------------


def batch_of(value, measured=None, lengths=None):
    given = {"x": torch.as_tensor(value)}
    present = {"x": torch.ones(len(given["x"]), dtype=torch.bool)}
    extra = {} if measured is None else {"x": torch.as_tensor(measured)}
    return Batch(given, present, extra, {} if lengths is None else {"x": torch.as_tensor(lengths)})


def test_a_series_is_its_means_and_last_values():
    value = torch.tensor([[[1.0, 5.0], [3.0, 0.0], [9.0, 9.0]], [[2.0, 7.0], [0.0, 0.0], [0.0, 0.0]]])
    measured = torch.tensor([[[True, True], [True, False], [True, True]], [[True, False]] * 3])
    found = summarise(batch_of(value, measured, [2, 1]), Modality("x", "series", (3, 2)))
    assert found.tolist() == [[2.0, 5.0, 3.0, 5.0], [2.0, 0.0, 2.0, 0.0]]


def test_an_image_is_averaged():
    image = torch.arange(256.0).view(1, 1, 16, 16)
    found = summarise(batch_of(image), Modality("x", "image", (1, 16, 16))).view(8, 8)
    assert found[0, 0] == image[0, 0, :2, :2].mean()
    small = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(summarise(batch_of(small), Modality("x", "image", (1, 4, 4)))[0], small.flatten())


def test_a_text_is_its_triples_without_padding():
    texts = ["the cat sat", "the cat sat on", "zzz", ""]
    raw = [list(text.encode()) for text in texts]
    padded = torch.tensor([row + [0] * (20 - len(row)) for row in raw], dtype=torch.uint8)
    found = summarise(batch_of(padded, lengths=[len(row) for row in raw]), Modality("x", "text", ()))
    torch.testing.assert_close(found.square().sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert (found[0] - found[1]).norm() < (found[0] - found[2]).norm()
