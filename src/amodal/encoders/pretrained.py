"""Pretrained encoders: their base class, and text networks of the `transformers` library."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from amodal.encoders.backbone import Source, load_backbone, load_config, load_tokenizer
from amodal.encoders.encoder import Encoder, Tokens
from amodal.errors import RunError
from amodal.options import Share, Size
from amodal.schema import Modality

__all__ = ["PretrainedEncoder", "PretrainedText", "portable_choices"]

_CACHED_TEXTS = 100_000


class PretrainedEncoder(Encoder):
    """Base of the pretrained encoders: a backbone, whether it learns, and the projection to the common width.

    Args:
        modality: What is encoded.
        width: Width of tokens and of the pooled vector.
        model: A name on the Hugging Face hub, a local folder, or a configuration as plain JSON.
        tower: "vision_config" or "text_config": the part of a model with both that is meant.
        architecture: The `model_type` to use where the source's is missing or unknown.
        frozen: Whether the backbone stays as it is.
        pool: "mean" of the tokens or "first".
        dropout: Dropout before the projection.
    """

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
        dropout: Share,
    ):
        super().__init__(modality, width=width)
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

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Training or evaluation mode; a frozen backbone always stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The mean of the valid tokens, or the first one (the class token of BERT and ViT)."""
        return tokens[:, 0] if self.pooling == "first" else super().pool(tokens, valid)


class PretrainedText(PretrainedEncoder):
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
    can_hide = True

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        model: Source,
        tokenizer: str | None = None,
        architecture: str | None = None,
        max_tokens: Size = 512,
        frozen: bool = False,
        pool: Literal["mean", "first"] = "first",
        dropout: Share = 0.1,
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
        """The most tokens that are read."""
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
        choice = portable.get(encoder.modality.name) if isinstance(encoder, PretrainedEncoder) else None
        if isinstance(encoder, PretrainedEncoder) and isinstance(choice, Mapping):
            options = {key: value for key, value in choice.items() if key not in ("tokenizer", "architecture")}
            portable[encoder.modality.name] = options | {"model": _plain(encoder.config.to_diff_dict())}
    return portable


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    dropped = re.compile(r"_.*|transformers_version|architectures|dtype|torch_dtype")
    return {key: value for key, value in record.items() if not dropped.fullmatch(key)}
