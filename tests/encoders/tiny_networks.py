"""Tiny networks of `transformers`, saved to folders as a download would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
BERT = {
    "model_type": "bert",
    "vocab_size": 15,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "no",
    "acute",
    "edema",
    "effusion",
    "the",
    "lungs",
    "are",
    "clear",
    "##s",
    "lung",
]


TOWER = {k: v for k, v in VIT.items() if k != "model_type"}
VISION = {
    "vit": VIT,
    "siglip": {
        "model_type": "siglip",
        "vision_config": TOWER,
        "text_config": TOWER | {"num_hidden_layers": 1, "vocab_size": 50},
    },
    "dinov2": {"model_type": "dinov2"} | TOWER,
    "clip_vision_model": {"model_type": "clip_vision_model"} | TOWER,
    "resnet": RESNET,
    "convnext": {
        "model_type": "convnext",
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "num_stages": 2,
        "image_size": 32,
    },
}


def save_network(folder: Path, configuration: dict[str, Any], seed: int = 0) -> str:
    """A randomly initialised network of this configuration."""
    import torch
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        options = {key: value for key, value in configuration.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(configuration["model_type"], **options)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


def save_tokenizer(folder: Path) -> str:
    """A WordPiece tokenizer as BERT has, as one tokenizer.json, made with the package tokenizers."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    settings = {"tokenizer_class": "BertTokenizerFast", "model_max_length": 512} | special
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return str(folder)


def edit_json(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None deletes one."""
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}), encoding="utf-8")
