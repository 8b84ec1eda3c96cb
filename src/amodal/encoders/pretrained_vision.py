"""Pretrained encoders of images: any vision network of the `transformers` library, and its ResNets stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.encoders.backbone import Source
from amodal.encoders.encoder import Encoded, Tokens
from amodal.encoders.pretrained import PretrainedEncoder
from amodal.errors import ConfigurationError
from amodal.options import Share, Size
from amodal.schema import Modality

__all__ = ["PretrainedResNet", "PretrainedVision", "resnet_configuration"]


class _VisionEncoder(PretrainedEncoder):
    """Base of the vision networks: channels and size of the images they take."""

    kinds = ("image",)

    def _prepare(self, values: Tensor) -> Tensor:
        """Images (P, C, H, W) in the network's channels and size."""
        if values.shape[1] != self.channels:
            values = values.expand(-1, self.channels, -1, -1)
        if values.shape[2:] == self.image_size:
            return values
        return F.interpolate(values.float(), self.image_size, mode="bilinear", align_corners=False, antialias=True)

    def _check_cells(self, n_cells: int) -> None:
        """BatchNorm needs two values of a channel, and a batch of one row must train."""
        if n_cells == 1 and not self.frozen and any(isinstance(m, nn.BatchNorm2d) for m in self.backbone.modules()):
            raise ConfigurationError(
                "the image size is too small for this network",
                expected="a last map of more than one cell",
                got="×".join(map(str, self.image_size)),
                hint="Use a larger image_size.",
            )

    def _measure(self, image_size: int | None) -> None:
        self.channels = int(getattr(self.config, "num_channels", 3))
        if self.modality.n_features not in (1, self.channels):
            raise ConfigurationError(
                f"the network cannot take the channels of modality {self.modality.name!r}",
                expected=f"1 or {self.channels} channels",
                got=self.modality.n_features,
                hint="Use 'convnet', or a configuration with num_channels.",
            )
        size = image_size or getattr(self.config, "image_size", None) or 224
        self.image_size = torch.Size(size if isinstance(size, (list, tuple)) else (size, size))


class PretrainedVision(_VisionEncoder):
    """Any vision network of `transformers` (ViT, SigLIP and SigLIP2, DINOv2, CLIP, ResNet, ConvNeXt, …).

    Transformers are cut behind their patch embeddings: `embed` gives patches with positions, in the network's own
    width (`embed_width`), and `trunk` runs its layers. Other networks run as a whole in `embed`, and the cells of their
    last map are the tokens. Images are resized (bilinear, anti-aliased) to the network's size, and one channel is
    repeated to three. Inputs are expected standardised by the training data's statistics per channel, as `amodal`
    always does; that takes the place of the normalisation that the network was pretrained with. Patches can be hidden
    one by one (`can_hide`) where the network is cut, they do not overlap and images come in the network's size.

    Args:
        modality: An image modality (C, H, W), of one channel or of the network's.
        width: Width of tokens and of the pooled vector.
        model: A name on the Hugging Face hub, a local folder, or a configuration {"model_type": "vit", …} for initial
            weights. Of a model with two towers the vision tower is taken.
        architecture: The `model_type` to use where the source's is missing or unknown to `transformers`.
        image_size: Size to resize to; None: the network's (224 where it names none).
        frozen: Whether the network stays as it is and only the projection learns.
        pool: "mean" of the tokens or "first", the class token.
        dropout: Dropout before the projection.

    Raises:
        RunError: If transformers is not installed, or the network cannot be read.
        ConfigurationError: If the network does not fit.
    """

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        model: Source,
        architecture: str | None = None,
        image_size: Size | None = None,
        frozen: bool = False,
        pool: Literal["mean", "first"] = "mean",
        dropout: Share = 0.1,
    ):
        super().__init__(
            modality,
            width=width,
            model=model,
            tower="vision_config",
            architecture=architecture,
            frozen=frozen,
            pool=pool,
            dropout=dropout,
        )
        self._measure(image_size)
        names = [name for name, _ in self.backbone.named_modules() if name.split(".")[-1] == "embeddings"]
        self._embeddings = names[0] if names else None
        self.backbone.eval()
        blank = torch.zeros(1, self.channels, *self.image_size)
        if self._embeddings is not None and self._tokens(blank).ndim != 3:
            self._embeddings = None
        output = self._run(blank)
        if self._embeddings is not None and self._tokens(blank).shape[1] != output.shape[1]:
            self._embeddings, output = None, self._run(blank)
        self._n_tokens = output.shape[1]
        self._check_cells(self._n_tokens)
        self._embed_width = self._tokens(blank).shape[2] if self._embeddings is not None else width
        self.can_hide = self._embeds_apart()
        self._finish(output.shape[2], output)

    def _embeds_apart(self) -> bool:
        """Whether each patch embedding reads pixels of its own: not where patches overlap or images are resized."""
        if self._embeddings is None or self.image_size != self.modality.shape[1:]:
            return False
        image = torch.zeros(1, self.channels, *self.image_size, requires_grad=True)
        tokens = self._tokens(image)
        one = torch.arange(tokens.shape[1]) == tokens.shape[1] // 2
        inside, outside = (
            torch.autograd.grad(tokens[:, part].sum(), image, retain_graph=True)[0] for part in (one, ~one)
        )
        return not bool(((inside != 0) & (outside != 0)).any())

    @property
    def n_tokens(self) -> int:
        """Patches (and class token), or cells of the last map."""
        return self._n_tokens

    @property
    def embed_width(self) -> int:
        """Width of the patch embeddings, or D where the network is not cut."""
        return self._embed_width

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Images (P, C, H, W) to patch embeddings, or to the projected cells of the last map."""
        images = self._prepare(values)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = self._tokens(images) if self._embeddings is not None else self._run(images)
        if self._embeddings is None:
            tokens = self.project(self.drop(tokens))
        return Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The network's layers and the projection (nothing where the network is not cut)."""
        if self._embeddings is None:
            return tokens
        blank = torch.zeros(len(tokens), self.channels, *self.image_size, dtype=tokens.dtype, device=tokens.device)
        with _output_replaced(self.backbone.get_submodule(self._embeddings), tokens):
            return self.project(self.drop(self._run(blank)))

    def _tokens(self, images: Tensor) -> Tensor:
        assert self._embeddings is not None
        output = self.backbone.get_submodule(self._embeddings)(images)
        return output[0] if isinstance(output, tuple) else output

    def _run(self, images: Tensor) -> Tensor:
        hidden = self.backbone(pixel_values=images).last_hidden_state
        return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden  # (P, L, hidden)


@contextmanager
def _output_replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Inside, the module gives `output` whatever it is given: the one way into the middle of every such network."""
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


class PretrainedResNet(_VisionEncoder):
    """A ResNet of `transformers`, in its four stages.

    Args:
        modality: An image modality (C, H, W), of one channel or of the network's.
        width: Width of tokens and of the pooled vector.
        model: 18, 34, 50, 101 or 152 for that ResNet with initial weights; or a name on the Hugging Face hub
            ("microsoft/resnet-34"), a local folder, or a configuration {"model_type": "resnet", …}.
        image_size: Size to resize to; None: 224.
        frozen: Whether the network stays as it is and only the projection learns.
        dropout: Dropout before the projection.

    Raises:
        RunError: If transformers is not installed, or the network cannot be read.
        ConfigurationError: If the network is not a ResNet, or does not fit.

    Source:
        :cite:`he2016resnet`.
    """

    references = ("he2016resnet",)
    channel_axis = 1

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        model: Source | int = 34,
        image_size: Size | None = None,
        frozen: bool = False,
        dropout: Share = 0.1,
    ):
        super().__init__(
            modality,
            width=width,
            model=resnet_configuration(model) if isinstance(model, int) else model,
            tower="vision_config",
            architecture=None,
            frozen=frozen,
            pool="mean",
            dropout=dropout,
        )
        if self.config.model_type != "resnet":
            raise ConfigurationError("the network is not a ResNet", expected="resnet", got=self.config.model_type)
        self._measure(image_size)
        self.backbone.eval()
        output = self.backbone(pixel_values=torch.zeros(1, self.channels, *self.image_size)).last_hidden_state
        self._n_tokens = output.shape[2] * output.shape[3]
        self._check_cells(self._n_tokens)
        self._finish(output.shape[1], output)

    @property
    def n_tokens(self) -> int:
        """Cells of the last map."""
        return self._n_tokens

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels after each stage."""
        return tuple(self.config.hidden_sizes)

    def run_stage(self, index: int, stage_map: Tensor, valid: Tensor | None) -> Tensor:
        """One of the four stages."""
        return list(self.backbone.get_submodule("encoder.stages").children())[index](stage_map)

    def begin(
        self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Images (P, C, H, W) to the map before the first stage."""
        return self.backbone.get_submodule("embedder")(self._prepare(values)), None

    def finish(self, stage_map: Tensor, valid: Tensor | None) -> Encoded:
        """The last map (P, C, H, W) to projected cells and their mean."""
        tokens = self.project(self.drop(stage_map.flatten(2).transpose(1, 2)))
        whole = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Encoded(tokens, whole, self.pool(tokens, whole))

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """All stages: images (P, C, H, W) to the projected cells of the last map."""
        tokens, valid, _ = self.forward(values, measured, lengths)
        return Tokens(tokens, valid)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The tokens as they are."""
        return tokens


def resnet_configuration(depth: int) -> dict[str, Any]:
    """The configuration of a ResNet by its depth.

    Raises:
        ConfigurationError: If there is none of that depth.

    Source:
        :cite:`he2016resnet`, table 1.

    Example:
        >>> resnet_configuration(34)["depths"]
        [3, 4, 6, 3]
    """
    blocks = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
    if depth not in blocks:
        raise ConfigurationError("there is no ResNet of that depth", expected=f"one of {sorted(blocks)}", got=depth)
    small = depth < 50
    return {
        "model_type": "resnet",
        "depths": blocks[depth],
        "hidden_sizes": [64, 128, 256, 512] if small else [256, 512, 1024, 2048],
        "layer_type": "basic" if small else "bottleneck",
    }
