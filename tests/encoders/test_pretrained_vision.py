"""Pretrained vision networks: the real loading code on tiny ones in folders, against transformers' own outputs."""

import pytest
import torch
from encoders.tiny_networks import VISION
from torch import nn

from amodal.encoders.backbone import load_backbone, load_config
from amodal.encoders.pretrained_vision import PretrainedResNet, PretrainedVision, resnet_configuration
from amodal.errors import AmodalError
from amodal.schema import Modality

IMAGE = Modality("x-ray", "image", (1, 50, 44))


@pytest.mark.parametrize("name", list(VISION))
def test_vision_outputs_are_those_of_transformers(name, folders):
    """The same folder read by transformers itself, on images prepared by hand: anti-aliased, three channels."""
    import transformers

    encoder = PretrainedVision(IMAGE, width=6, model=folders[name]).eval()
    images = torch.randn(3, 1, 50, 44)
    size = 224 if name == "resnet" else 32
    resized = nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
    if name == "siglip":
        theirs = transformers.SiglipVisionModel.from_pretrained(folders[name])
    else:
        theirs = transformers.AutoModel.from_pretrained(folders[name])
    hidden = theirs.eval()(pixel_values=resized).last_hidden_state.detach()
    hidden = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
    tokens, valid, pooled = encoder(images)
    assert tokens.shape == (3, encoder.n_tokens, 6)
    assert valid.all()
    torch.testing.assert_close(tokens, encoder.project(hidden), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, encoder.project(hidden).mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "siglip", "dinov2", "clip_vision_model"])
def test_transformers_are_cut_behind_their_embeddings(name, folders):
    """What is put in place of a patch embedding reaches the other tokens through the layers."""
    encoder = PretrainedVision(IMAGE, width=6, model=folders[name]).eval()
    assert encoder.embed_width == 16
    embedded, valid = encoder.embed(torch.randn(2, 1, 50, 44))
    before = encoder.trunk(embedded, valid)
    embedded = embedded.clone()
    embedded[0, 1] += 3 * torch.randn(16)
    moved = (encoder.trunk(embedded, valid) - before).abs().amax(2) > 0
    assert moved[0].all()
    assert not moved[1].any()


def test_class_token_can_be_the_pooled_vector(folders):
    encoder = PretrainedVision(IMAGE, width=6, model=folders["vit"], pool="first").eval()
    tokens, _, pooled = encoder(torch.randn(2, 1, 50, 44))
    assert torch.equal(pooled, tokens[:, 0])


def test_heads_that_nothing_uses_do_not_learn(folders):
    encoder = PretrainedVision(IMAGE, width=6, model=folders["siglip"])
    still = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    assert still
    assert all(name.startswith("backbone.head.") for name in still)


@pytest.mark.parametrize("kind", [PretrainedVision, PretrainedResNet])
def test_a_frozen_network_stays_as_it_is(kind, folders):
    encoder = kind(IMAGE, width=6, model=folders["resnet"], image_size=32, frozen=True).train()
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    encoder(torch.randn(4, 1, 50, 44)).pooled.sum().backward()
    assert not encoder.backbone.training
    assert {name for name, p in encoder.named_parameters() if p.grad is not None} == {"project.weight", "project.bias"}
    assert all(torch.equal(before[key], value) for key, value in encoder.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("depth", "parameters"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032)], ids=["18", "34", "50"]
)
def test_resnets_have_the_published_numbers_of_parameters(depth, parameters):
    """torchvision's counts (11,689,512 / 21,797,672 / 25,557,032) less their linear heads of 1,000 classes."""
    with torch.device("meta"):
        backbone = load_backbone(resnet_configuration(depth), load_config(resnet_configuration(depth), "vision_config"))
    assert sum(p.numel() for p in backbone.parameters()) == parameters


def test_resnet_stages_have_the_published_widths_and_strides():
    encoder = PretrainedResNet(Modality("x-ray", "image", (1, 64, 64)), width=8, model=18, image_size=64).eval()
    stage_map, _ = encoder.begin(torch.randn(1, 1, 64, 64))
    shapes = []
    for index in range(len(encoder.stage_widths)):
        stage_map = encoder.run_stage(index, stage_map, None)
        shapes.append(tuple(stage_map.shape[1:]))
    assert shapes == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert encoder.stage_widths == (64, 128, 256, 512)
    assert encoder.n_tokens == 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda f: PretrainedResNet(IMAGE, width=4, model=33), r"no ResNet of that depth .*34.*got 33"),
        (lambda f: PretrainedResNet(IMAGE, width=4, model=f["vit"]), r"not a ResNet .*got vit"),
        (lambda f: PretrainedVision(IMAGE, width=4, model=f["vit"], pool="max"), "unknown pool of .* 'max'"),
        (lambda f: PretrainedVision(IMAGE, width=4, model={"hidden_size": 3}), r"names no architecture"),
        (lambda f: PretrainedVision(IMAGE, width=4, model={"model_type": "vitt"}), r"no architecture 'vitt'"),
        (
            lambda f: PretrainedVision(Modality("four", "image", (4, 8, 8)), width=4, model=f["vit"]),
            r"cannot take the channels of modality 'four' .*1 or 3 channels, got 4.*num_channels",
        ),
        (
            lambda f: PretrainedVision(IMAGE, width=4, model=f["resnet"], image_size=8),
            r"image size is too small .*got 8",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(build, message, folders):
    with pytest.raises(AmodalError, match=message):
        build(folders)
