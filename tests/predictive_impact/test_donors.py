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
from amodal.predictive_impact.donors import DonorCompletions, summarise
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
        assert batch.presence.all()
        return batch.values["b"][:, 0] + 100 * batch.values["c"][:, 0]


def cohort_of(n, observed=None, seed=0):
    draw = np.random.default_rng(seed)
    values = {"a": draw.normal(size=(n, 3)), "b": np.arange(n)[:, None], "c": np.arange(n)[:, None]}
    values = {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}
    return Cohort.from_arrays(values, task=Task("regression"), target=np.zeros(n), observed=observed)


def model_of(cohort):
    sizes = {"a": 3, "b": 1, "c": 1}
    scaling = Scaling(
        {name: torch.zeros(size) for name, size in sizes.items()},
        {name: torch.ones(size) for name, size in sizes.items()},
        clip=float("inf"),
    )
    return TrainedModel(Third(cohort.schema), cohort.schema, scaling, np.zeros(1), {}, pd.DataFrame())


def outputs(train, cases, draws=400, *, neighbours=5, vary=None, seed=0):
    model = model_of(cases)
    source = DonorCompletions(model, train, neighbours=neighbours)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return source.outputs(next(model.batches(cases)), draws, generator, vary=vary).numpy()[..., 0]


def without(n, *lacking):
    observed = np.ones((n, 3), dtype=bool)
    for name in lacking:
        observed[:, NAMES.index(name)] = False
    return observed


def test_donors_are_the_nearest_of_scikit_learn_and_come_whole_and_equally_often():
    train, cases = cohort_of(60), cohort_of(7, without(7, "b", "c"), seed=1)
    found = outputs(train, cases, 2000)
    standard = [c.batch(np.arange(len(c))).values["a"].numpy() for c in (train, cases)]
    scale = standard[0].std(0, ddof=1)
    nearest = NearestNeighbors(n_neighbors=5).fit(standard[0] / scale).kneighbors(standard[1] / scale)[1]
    for i in range(7):
        donors, counts = np.unique(found[:, i], return_counts=True)
        assert sorted(donors) == sorted(101.0 * j for j in nearest[i])  # b and c of the same case
        assert counts.min() > 320


def test_distance_is_the_mean_over_shared_modalities():
    presence = np.ones((40, 3), dtype=bool)
    presence[::2, 0] = False  # every other training case shares b only
    train, cases = cohort_of(40, presence), cohort_of(3, without(3, "c"), seed=2)
    found = outputs(train, cases, 300, neighbours=4)
    a, b = (train.batch(np.arange(40)).values[name].numpy().astype(float) for name in ("a", "b"))
    scale_a, scale_b = a[1::2].std(0, ddof=1), b.std(ddof=1)
    mine = cases.batch(np.arange(3))
    for i in range(3):
        to_b = ((mine.values["b"][i, 0].item() - b[:, 0]) / scale_b) ** 2
        to_a = (((mine.values["a"][i].numpy() - a) / scale_a) ** 2).mean(1)
        distance = np.where(presence[:, 0], (to_a + to_b) / 2, to_b)
        own_b = float(mine.values["b"][i, 0])
        assert set(found[:, i]) == {own_b + 100.0 * j for j in np.argsort(distance)[:4]}


def test_only_the_named_modality_varies_and_the_others_are_held():
    train, cases = cohort_of(60), cohort_of(2, without(2, "b", "c"), seed=1)
    found = outputs(train, cases, 300, vary=["b"])
    c, b = np.divmod(found, 100)
    assert (c == c[:1]).all()
    assert (np.array([len(np.unique(b[:, i])) for i in range(2)]) == 5).all()
    assert (outputs(train, cases, 20, vary=[]) == outputs(train, cases, 20, vary=[])[:1]).all()


def test_without_enough_joint_donors_each_modality_comes_from_its_own():
    presence = np.ones((40, 3), dtype=bool)
    presence[:20, 1] = False
    presence[20:, 2] = False  # nobody has b and c
    train, cases = cohort_of(40, presence), cohort_of(1, without(1, "b", "c"), seed=1)
    found = outputs(train, cases, 2000)
    b, c = found[:, 0] % 100, found[:, 0] // 100
    assert b.min() >= 20
    assert c.max() < 20
    assert len(np.unique(np.stack([b, c]), axis=1).T) == 25  # independent


def test_no_donor_is_an_error_that_names_the_modality():
    train, cases = cohort_of(10, without(10, "c")), cohort_of(2, without(2, "c"))
    with pytest.raises(DataError, match=r"no training case has 'c'.*missing in cases to complete"):
        outputs(train, cases)


def test_complete_cases_are_left_alone():
    cases = cohort_of(3, seed=5)
    assert (outputs(cohort_of(20), cases, 4) == 101.0 * np.arange(3)).all()


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
