"""Joint fusion with identity encoders is a logistic regression: by hand, and against scikit-learn."""

import numpy as np
import pytest
import torch
from contracts import cases
from sklearn.linear_model import LinearRegression, LogisticRegression

from amodal.errors import UnknownNameError
from amodal.methods.fusion import JointFusion


def linear_method(schema, **options):
    torch.manual_seed(0)
    return JointFusion(schema, cases.identities(schema), hidden=0, dropout=0.0, **options)


def full_cells(batch):
    """The same batch with every cell measured (identity encoders do not look at `measured`)."""
    return type(batch)(batch.values, batch.observed, {}, {}, batch.target)


@pytest.fixture
def case():
    schema = cases.make_schema("multiclass", "tables")
    return schema, full_cells(cases.make_batch(schema, cases.mixed_presence(schema, 3), seed=1))


def by_hand(method, batch, fill):
    """Softmax of a linear map of the values, or the fill, and the presence: one row at a time, in NumPy."""
    (linear,) = method.network.head.layers
    weight, bias = (t.detach().double().numpy() for t in (linear.weight, linear.bias))
    probabilities = []
    for i in range(len(batch)):
        inputs = []
        for m, name in enumerate(method.schema.names):
            inputs += batch.values[name][i].tolist() if batch.observed[name][i] else list(fill[m])
        inputs += [float(batch.observed[name][i]) for name in method.schema.names]
        logits = weight @ np.array(inputs) + bias
        odds = np.exp(logits - logits.max())
        probabilities.append(odds / odds.sum())
    return np.array(probabilities)


@pytest.mark.parametrize("fill", ["zero", "mean", "learned"])
def test_predictions_and_loss_by_hand(case, fill):
    schema, batch = case
    method = linear_method(schema, fill=fill)
    vectors = np.zeros((3, 4))
    if fill == "learned":
        vectors = method.network.fusion.learned.detach().numpy()
    if fill == "mean":
        method.train()
        method.objective(batch, torch.Generator())  # one batch has been seen: the fill is its mean of present values
        method.eval()
        vectors = np.stack([batch.values[n][batch.observed[n]].mean(0) for n in schema.names])
    expected = by_hand(method, batch, vectors)
    np.testing.assert_allclose(method.predict(batch).detach(), expected, rtol=1e-4, atol=1e-6)
    loss = method.objective(batch, torch.Generator()).total.item()
    assert loss == pytest.approx(-np.log(expected[np.arange(21), batch.target]).mean(), rel=1e-5)


def test_training_reaches_scikit_learns_logistic_regression():
    schema = cases.make_schema("binary", "tables")
    batch = full_cells(cases.make_batch(schema, cases.mixed_presence(schema, 30), seed=2))
    method = linear_method(schema)
    optimiser = torch.optim.LBFGS(method.parameters(), max_iter=400, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = method.objective(batch, torch.Generator()).total
        loss.backward()
        return loss

    optimiser.step(closure)
    x = torch.cat([*batch.values.values(), batch.presence.float()], dim=1).numpy()  # absent values are zeros
    model = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-8).fit(x, batch.target)
    np.testing.assert_allclose(method.predict(batch).detach(), model.predict_proba(x), atol=2e-3)
    assert model.predict_proba(x)[:, 1].std() > 0.05


def test_regression_reaches_least_squares():
    schema = cases.make_schema("regression", "tables")
    batch = full_cells(cases.make_batch(schema, cases.mixed_presence(schema, 10), seed=2))
    method = linear_method(schema)
    x = torch.cat([*batch.values.values(), batch.presence.float()], dim=1).numpy()
    model = LinearRegression().fit(x, batch.target)
    (linear,) = method.network.head.layers
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(model.coef_)[None])
        linear.bias.fill_(float(model.intercept_))
    np.testing.assert_allclose(method.predict(batch).detach(), model.predict(x), atol=1e-5)
    generator = torch.Generator()
    assert all(
        g.abs().max() < 1e-5 for g in torch.autograd.grad(method.objective(batch, generator).total, linear.weight)
    )


@pytest.mark.parametrize("fusion", ["concatenate", "transformer", "lstm", "mean", "gated"])
def test_every_fusion_learns_from_two_modalities_what_neither_knows(fusion):
    """The sign of a product (XOR) needs both; one of three starts must find it (gates can stick at three cells)."""
    schema = cases.Schema(cases.MODALITIES["tables"][:2], cases.TASKS["binary"])
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (128, 2), generator=generator) * 2.0 - 1
    values = {name: signs[:, [m]] + 0.1 * torch.randn(128, 4, generator=generator) for m, name in enumerate("ab")}
    present = torch.ones(128, dtype=torch.bool)
    batch = cases.Batch(values, {"a": present, "b": present}, target=(signs.prod(1) > 0).long())
    reached = 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        method = JointFusion(schema, cases.make_encoders(schema, width=16), fusion=fusion, hidden=16)
        cases.train(method, batch, steps=150)
        reached = max(reached, (method.predict(batch).argmax(1) == batch.target).double().mean().item())
        if reached == 1:
            break
    assert reached == 1


def test_unknown_options_are_errors():
    schema = cases.make_schema(modalities="tables")
    with pytest.raises(UnknownNameError, match="unknown fusion 'sum'"):
        JointFusion(schema, fusion="sum")
    with pytest.raises(UnknownNameError, match="unknown option of fusion 'transformer' 'fill'"):
        JointFusion(schema, fusion="transformer", fill="mean")
