"""Reconstruction of hidden tokens: by hand, and where nothing is hidden."""

import torch

from amodal.losses.token_reconstruction import hidden_token_error


def test_mean_over_modalities_of_the_mean_over_hidden_tokens():
    draw = torch.Generator().manual_seed(0)
    sizes = {"a": 3, "b": 5, "c": 1}
    target = {name: torch.randn(6, length, 4, generator=draw) for name, length in sizes.items()}
    predicted = {name: torch.randn(6, length + 1, 4, generator=draw) for name, length in sizes.items()}
    padded = {name: torch.nn.functional.pad(z, (0, 0, 0, 1)) for name, z in target.items()}
    own = {name: torch.rand(6, length, generator=draw) < 0.8 for name, length in sizes.items()}
    hidden = {name: valid & (torch.rand(valid.shape, generator=draw) < 0.5) for name, valid in own.items()}
    value, counted = hidden_token_error(predicted, padded, own, hidden)
    for row in range(6):
        parts = [
            sum(((predicted[n][row, t] - target[n][row, t]) ** 2).sum() for t in hide[row].nonzero()[:, 0])
            / hide[row].sum()
            for n, hide in hidden.items()
            if hide[row].any()
        ]
        assert bool(counted[row]) == bool(parts)
        torch.testing.assert_close(value[row], torch.stack(parts).mean() if parts else torch.zeros(()))


def test_what_is_not_a_row_s_own_sends_no_gradient_to_the_mask():
    z = {"a": torch.zeros(1, 3, 2)}
    own = {"a": torch.tensor([[True, True, False]])}
    hide = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    value, _ = hidden_token_error({"a": torch.ones(1, 3, 2)}, z, own, {"a": hide})
    value.sum().backward()
    assert hide.grad.tolist() == [[2.0, 2.0, 0.0]]  # the squared distance, for hidden and for seen tokens
