"""Pretrained encoders: any vision or text network of the `transformers` library."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.encoders.backbone import Source, load_backbone, load_config, load_tokenizer
from amodal.encoders.encoder import Encoded, Encoder, StagedEncoder, Tokens
from amodal.errors import ConfigurationError, RunError
from amodal.schema import Modality

__all__ = ["PretrainedResNet", "PretrainedText", "PretrainedVision", "portable_choices"]

_CACHED_TEXTS = 100_000


class _PretrainedEncoder(Encoder):
    """What pretrained encoders share: a backbone, whether it learns, and the projection to the common width."""

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        model: Source,
        tower: str,
        architecture: str | None,
        frozen: bool,
        pool: Literal["mean", "first"],
        dropout: float,
    ):
        super().__init__(modality, width=width)
        if pool not in ("mean", "first"):
            raise ConfigurationError("unknown pooling", expected="mean or first", got=repr(pool))
        self.config = load_config(model, tower, architecture)
        self.backbone = load_backbone(model, self.config)
        self.frozen = frozen
        self.pooling = pool
        self.drop = nn.Dropout(dropout)

    def _finish(self, hidden: int, output: Tensor) -> None:
        """Adds the projection, and freezes what learns nothing: everything, or the heads that `output` does not use."""
        self.project = nn.Linear(hidden, self.width)
        learning = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        grads = torch.autograd.grad(output.sum(), learning, allow_unused=True)
        for parameter, grad in zip(learning, grads):
            parameter.requires_grad_(grad is not None and not self.frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> _PretrainedEncoder:
        """Training or evaluation mode; a frozen backbone always stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The mean of the valid tokens, or the first one (the class token of BERT and ViT)."""
        return tokens[:, 0] if self.pooling == "first" else super().pool(tokens, valid)


class _VisionEncoder(_PretrainedEncoder):
    kinds = ("image",)

    def _prepare(self, values: Tensor) -> Tensor:
        """Images (P, C, H, W) in the network's channels and size."""
        if values.shape[1] != self.channels:
            values = values.expand(-1, self.channels, -1, -1)
        if values.shape[2:] == self.image_size:
            return values
        return F.interpolate(values.float(), self.image_size, mode="bilinear", align_corners=False, antialias=True)

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
    always does; that takes the place of the normalisation that the network was pretrained with.

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
        image_size: int | None = None,
        frozen: bool = False,
        pool: Literal["mean", "first"] = "mean",
        dropout: float = 0.1,
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
        self._embed_width = self._tokens(blank).shape[2] if self._embeddings is not None else width
        self._finish(output.shape[2], output)

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


class PretrainedResNet(_VisionEncoder, StagedEncoder):
    """A ResNet of `transformers`, with its four stages open to methods that exchange features between stages.

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

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        model: Source | int = 34,
        image_size: int | None = None,
        frozen: bool = False,
        dropout: float = 0.1,
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
        self._finish(output.shape[1], output)

    @property
    def n_tokens(self) -> int:
        """Cells of the last map."""
        return self._n_tokens

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels after each stage."""
        return tuple(self.config.hidden_sizes)

    def stages(self) -> tuple[nn.Module, ...]:
        """The four stages."""
        return tuple(self.backbone.get_submodule("encoder.stages").children())

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
        """Nothing is left to do."""
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


class PretrainedText(_PretrainedEncoder):
    """Any text network of `transformers` that takes embeddings (BERT, TinyBERT, CXR-BERT, RoBERTa, …).

    `embed` tokenises and looks the embeddings up, in the network's own width (`embed_width`); `trunk` adds positions
    and runs the layers. Token numbers are kept in a cache keyed by the text, so that each text is tokenised once.

    The tokenizer travels with the weights (as JSON bytes in the state), so that a trained encoder is rebuilt from its
    configuration and its state alone.

    Args:
        modality: A text modality.
        width: Width of tokens and of the pooled vector.
        model: A name on the Hugging Face hub, a local folder, or a configuration {"model_type": "bert", …} for initial
            weights. Of a model with two towers the text tower is taken.
        tokenizer: A name or folder to read the tokenizer from; None: the model's.
        architecture: The `model_type` to use where the source's is missing or unknown to `transformers`.
        max_tokens: Tokens read of each text, from its start; at most what the network has positions for.
        frozen: Whether the network stays as it is and only the projection learns.
        pool: "first", the class token, or "mean" of the tokens.
        dropout: Dropout before the projection.

    Raises:
        RunError: If transformers is not installed, or network or tokenizer cannot be read.
        ConfigurationError: If the network does not fit.
    """

    kinds = ("text",)
    references = ("devlin2019bert",)

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        model: Source,
        tokenizer: str | None = None,
        architecture: str | None = None,
        max_tokens: int = 512,
        frozen: bool = False,
        pool: Literal["mean", "first"] = "first",
        dropout: float = 0.1,
    ):
        super().__init__(
            modality,
            width=width,
            model=model,
            tower="text_config",
            architecture=architecture,
            frozen=frozen,
            pool=pool,
            dropout=dropout,
        )
        self.max_tokens = max_tokens
        self._cache: OrderedDict[bytes, list[int]] = OrderedDict()
        self._tokenizer: Any = None
        self._tokenizer_json, self._pad, limit = "", 0, max_tokens
        source = tokenizer or (model if isinstance(model, str) else None)
        if source is not None:
            self._tokenizer_json, self._pad, limit = load_tokenizer(source)
        offset = self._pad + 1 if "roberta" in self.config.model_type else 0  # RoBERTa counts positions from there
        positions = getattr(self.config, "max_position_embeddings", None) or max_tokens + offset
        self._n_tokens = max(1, min(max_tokens, limit, positions - offset))
        self.backbone.eval()
        output = self._run(self._lookup(torch.zeros(1, 1, dtype=torch.int64)), torch.ones(1, 1, dtype=torch.bool))
        self._finish(output.shape[2], output)

    @property
    def n_tokens(self) -> int:
        """As many as may be read."""
        return self._n_tokens

    @property
    def embed_width(self) -> int:
        """Width of the token embeddings."""
        return int(self.backbone.get_input_embeddings().weight.shape[1])  # type: ignore[operator]

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Bytes (P, L) to token embeddings, without positions."""
        ids = self._tokenise(values, lengths)
        longest = max(map(len, ids))
        table = torch.full((len(ids), longest), self._pad, dtype=torch.int64)
        for row, numbers in zip(table, ids):
            row[: len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
        sizes = torch.tensor([len(numbers) for numbers in ids])
        valid = (torch.arange(longest) < sizes[:, None]).to(values.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return Tokens(self._lookup(table.to(values.device)), valid)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The network's layers and the projection."""
        hidden = self._run(torch.where(valid[..., None], tokens, 0.0), valid)
        return torch.where(valid[..., None], self.project(self.drop(hidden)), 0.0)

    def _lookup(self, ids: Tensor) -> Tensor:
        return self.backbone.get_input_embeddings()(ids)  # type: ignore[operator]

    def _run(self, tokens: Tensor, valid: Tensor) -> Tensor:
        return self.backbone(inputs_embeds=tokens, attention_mask=valid.long()).last_hidden_state

    def _tokenise(self, values: Tensor, lengths: Tensor | None) -> list[list[int]]:
        """Token numbers of each row, from the cache where a text was seen before."""
        array = values.cpu().numpy()
        sizes = [array.shape[1]] * len(array) if lengths is None else lengths.tolist()
        texts = [row[:size].tobytes() for row, size in zip(array, sizes)]
        new = list(dict.fromkeys(text for text in texts if text not in self._cache))
        if new:
            found = self._open_tokenizer().encode_batch([text.decode("utf-8", errors="replace") for text in new])
            for text, encoding in zip(new, found):
                self._cache[text] = encoding.ids or [self._pad]
        ids = [self._cache[text] for text in texts]
        while len(self._cache) > _CACHED_TEXTS:
            self._cache.popitem(last=False)
        return ids

    def _open_tokenizer(self) -> Any:
        if self._tokenizer is None:
            if not self._tokenizer_json:
                raise RunError(
                    f"the text encoder of modality {self.modality.name!r} has no tokenizer",
                    hint="A configuration alone has none: pass tokenizer=<name or folder>.",
                )
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_str(self._tokenizer_json)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self._n_tokens)
        return self._tokenizer

    def get_extra_state(self) -> Tensor:
        """The tokenizer, as bytes: it is stored with the weights."""
        header = f"{self._pad}\n{self._tokenizer_json}".encode()
        return torch.frombuffer(bytearray(header), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the tokenizer back from `get_extra_state`."""
        pad, self._tokenizer_json = bytes(state.cpu().numpy()).decode().split("\n", 1)
        self._pad, self._tokenizer = int(pad), None
        self._cache.clear()


def portable_choices(module: nn.Module, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Choices of encoders from which a trained module can be rebuilt without the files it was made from.

    Names and folders of pretrained networks are replaced by their configurations; weights and tokenizers are in the
    module's state.

    Args:
        module: Anything that holds encoders, such as a method.
        choices: What `build_encoders` was given.

    Returns:
        The choices as plain JSON.
    """
    portable = dict(choices)
    for encoder in module.modules():
        choice = portable.get(encoder.modality.name) if isinstance(encoder, _PretrainedEncoder) else None
        if isinstance(encoder, _PretrainedEncoder) and isinstance(choice, Mapping):
            options = {key: value for key, value in choice.items() if key not in ("tokenizer", "architecture")}
            portable[encoder.modality.name] = options | {"model": _plain(encoder.config.to_diff_dict())}
    return portable


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    dropped = re.compile(r"_.*|transformers_version|architectures|dtype|torch_dtype")
    return {key: value for key, value in record.items() if not dropped.fullmatch(key)}
