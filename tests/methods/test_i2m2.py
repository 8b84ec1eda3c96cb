"""I2M2: products of experts by hand."""

import numpy as np
import pytest
import torch
from contracts import cases
from scipy.special import expit, softmax

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.method import Clock
from amodal.methods.i2m2 import I2M2, combine_experts


def case(task="multiclass", **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    method = I2M2(schema, cases.identities(schema), hidden=0, dropout=0.0, **options).eval()
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=1)
    return method, batch


def linear(head, x):
    (layer,) = head.layers
    return (x @ layer.weight.T + layer.bias).detach().double().numpy()


def own_outputs(method, batch, i, joint):
    names = method.schema.names
    there = [name for name in names if batch.observed[name][i]]
    outputs = [linear(method.heads[name], batch.values[name][i]) for name in there]
    flat = torch.cat([batch.values[name][i] for name in names])  # absent ones are zero
    if joint == "any":
        flags = torch.tensor([float(name in there) for name in names])
        outputs.append(linear(method.joint_head, torch.cat([flat, flags])))
    elif len(there) == len(names):
        outputs.append(linear(method.joint_head, flat))
    return np.stack(outputs)


@pytest.mark.parametrize("joint", ["complete", "any"])
@pytest.mark.parametrize("task", list(cases.TASKS))
def test_predictions(task, joint):
    """Probabilities are multiplied and normalised, label by label in a multilabel task; means are averaged."""
    method, batch = case(task, joint=joint)
    found = method.predict(batch).detach().numpy()
    for i in range(len(batch)):
        outputs = own_outputs(method, batch, i, joint)
        if task == "regression":
            expected = outputs[:, 0].mean()
        elif task == "multilabel":
            yes, no = expit(outputs).prod(0), expit(-outputs).prod(0)
            expected = yes / (yes + no)
        else:
            product = softmax(outputs, axis=1).prod(0)
            expected = product / product.sum()
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_the_product_is_normalised_and_blind_to_constants():
    draw = torch.Generator().manual_seed(0)
    outputs, counted = torch.randn(6, 4, 3, generator=draw), torch.rand(6, 4, generator=draw) < 0.7
    counted[:, 0] = True
    found = combine_experts(outputs, counted, "multiclass")
    torch.testing.assert_close(found.exp().sum(1), torch.ones(6))
    shifted = outputs + 5 * torch.randn(6, 4, 1, generator=draw)
    torch.testing.assert_close(combine_experts(shifted, counted, "multiclass"), found, atol=1e-4, rtol=0)
    outputs[:, 1:] = 0.0  # all but one know nothing
    torch.testing.assert_close(combine_experts(outputs, counted, "multiclass"), outputs[:, 0].log_softmax(-1))


def test_experts_share_nothing():
    schema = cases.make_schema("multiclass", "tables")
    method = I2M2(schema, cases.make_encoders(schema))
    own, joint = dict(method.encoders.named_parameters()), dict(method.joint_encoders.named_parameters())
    assert own.keys() == joint.keys()
    assert not {id(p) for p in own.values()} & {id(p) for p in joint.values()}


def test_first_steps_train_every_expert_by_itself():
    method, batch = case(pretrain_steps=1)
    outputs, counted = method.experts(batch)
    log_p = outputs.log_softmax(-1).gather(2, batch.target.view(-1, 1, 1).expand(-1, 4, 1))[..., 0]
    expected = -torch.where(counted, log_p, 0.0).sum(1).mean()
    found = method.objective(batch, torch.Generator()).terms
    assert list(found) == ["own"]
    torch.testing.assert_close(found["own"], expected)
    method.clock = Clock(1)
    found = method.objective(batch, torch.Generator()).terms
    assert list(found) == ["task"]
    torch.testing.assert_close(found["task"], -method.predict(batch).gather(1, batch.target[:, None]).log().mean())


def test_options_that_cannot_be():
    schema = cases.make_schema()
    with pytest.raises(UnknownNameError, match="joint of I2M2 'all'"):
        I2M2(schema, joint="all")
    with pytest.raises(ConfigurationError, match="pretrain_steps of I2M2 is out of range"):
        I2M2(schema, pretrain_steps=-1)
