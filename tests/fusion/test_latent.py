"""Networks around latent variables, against torch's own modules."""

import torch
from torch import nn

from amodal.fusion.latent import LOG_VAR_RANGE, FixedScaleNorm, LatentDecoder, MixturePrior, NormalisedPosterior


def test_the_norm_is_torchs_with_its_scale_filled_in():
    """As the authors of the normalised posterior write it: the weight filled with gamma, and only the bias learned."""
    torch.manual_seed(0)
    ours, theirs = FixedScaleNorm(4, 0.6), nn.BatchNorm1d(4)
    nn.init.constant_(theirs.weight, 0.6)
    with torch.no_grad():
        theirs.bias.copy_(torch.arange(4.0))
        ours.offset.copy_(torch.arange(4.0))
    for _ in range(5):
        batch = 3 + 2 * torch.randn(16, 4)
        torch.testing.assert_close(ours(batch), theirs(batch))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(batch), theirs(batch))  # by what they have kept
    assert [name for name, _ in ours.named_parameters()] == ["offset"]


def test_a_prior_is_what_its_layers_say():
    torch.manual_seed(1)
    prior = MixturePrior(5, (2, 3, 4), hidden=7)
    x = torch.randn(6, 5)
    found = prior(x)
    h = nn.functional.gelu(nn.functional.linear(x, prior.layers[0].weight, prior.layers[0].bias))
    assert found.mean.shape == found.log_var.shape == (6, 2, 3, 4)
    torch.testing.assert_close(found.mean[:, 1, 2], (h @ prior.mean.weight.T + prior.mean.bias)[:, 20:24])
    torch.testing.assert_close(found.log_weights.exp().sum(-1), torch.ones(6, 2))
    alone = MixturePrior(5, (2, 1, 4), hidden=7)
    assert alone.log_weights is None
    assert (alone(x).log_weights == 0).all()


def test_log_variances_stay_in_their_range():
    torch.manual_seed(2)
    for network in (MixturePrior(3, (1, 2, 2), hidden=4), NormalisedPosterior(3, (1, 2), None, hidden=4)):
        found = network(1e6 * torch.randn(50, 3)).log_var
        assert (found.min().item(), found.max().item()) == LOG_VAR_RANGE


def test_a_posterior_without_gamma_is_not_normalised():
    torch.manual_seed(3)
    free = NormalisedPosterior(3, (2, 2), None, hidden=4)
    x = torch.randn(8, 3)
    torch.testing.assert_close(free(x).mean[:5], free(x[:5]).mean)
    fixed = NormalisedPosterior(3, (2, 2), 0.6, hidden=4)
    torch.testing.assert_close(fixed(x).mean.flatten(1).std(0, correction=0), torch.full((4,), 0.6), atol=1e-2, rtol=0)


def test_the_decoder_is_a_network_of_condition_and_latents_side_by_side():
    torch.manual_seed(4)
    decoder = LatentDecoder(3, 2, 5, hidden=6)
    condition, z = torch.randn(4, 3), torch.randn(7, 4, 2)
    first = nn.Linear(5, 6)
    with torch.no_grad():
        first.weight.copy_(torch.cat([decoder.condition.weight, decoder.latents.weight], dim=1))
        first.bias.copy_(decoder.latents.bias)
    plain = nn.Sequential(first, nn.GELU(), decoder.out)
    expected = plain(torch.cat([condition.expand(7, 4, 3), z], dim=2))
    torch.testing.assert_close(decoder(condition, z), expected)
    assert LatentDecoder(0, 2, 5, hidden=6)(condition[:, :0], z).shape == (7, 4, 5)
