"""Loading networks of `transformers` by name, local folder or configuration, without executing foreign code."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from amodal.errors import ConfigurationError, RunError

__all__ = ["Source", "import_transformers", "load_backbone", "load_config", "load_tokenizer"]

Source = str | Mapping[str, Any]
_SAME_AS = {"cxr-bert": "bert"}  # CXR-BERT ships code of its own, but its encoder is a plain BERT
_TOWERS = ("vision_config", "text_config")


def import_transformers() -> Any:
    """The `transformers` package.

    Raises:
        RunError: If it is not installed, with the command that installs it.
    """
    try:
        import transformers
    except ImportError as error:
        raise RunError(
            "pretrained encoders need the package transformers, which is not installed",
            hint="Install it: pip install 'amodal[pretrained]'",
        ) from error
    return transformers


def load_config(source: Source, tower: str, architecture: str | None = None) -> Any:
    """The configuration of a network.

    Args:
        source: A name on the Hugging Face hub, a local folder, or a configuration as plain JSON with "model_type".
        tower: "vision_config" or "text_config": which part of a model with both (SigLIP, CLIP) is meant.
        architecture: The `model_type` to use, where the source names none or one that `transformers` does not have.

    Returns:
        A `transformers.PretrainedConfig`.

    Raises:
        RunError: If nothing can be read there.
        ConfigurationError: If `transformers` has no such architecture.
    """
    transformers = import_transformers()
    if isinstance(source, str):
        _check_folder(source)
        try:
            with _quiet(transformers):
                record, _ = transformers.PretrainedConfig.get_config_dict(source)
            if not record:
                raise OSError("there is none, or it is empty")
        except (OSError, ValueError) as error:
            raise _unreadable(source, "configuration (config.json)", error) from error
    else:
        record = copy.deepcopy(dict(source))
    kind = str(record.pop("model_type", "") or "")
    if isinstance(record.get(tower), Mapping):
        kind, record = record[tower].get("model_type") or f"{kind}_{tower.split('_')[0]}_model", dict(record[tower])
        record.pop("model_type", None)
    kind = architecture or _SAME_AS.get(kind, kind)
    if kind not in transformers.CONFIG_MAPPING:
        raise ConfigurationError(
            f"transformers has no architecture {kind!r}" if kind else "the configuration names no architecture",
            expected="a `model_type` that transformers knows without running the model's own code",
            got=f"{source!r}" if isinstance(source, str) else f"model_type={kind!r}",
            hint="If the network is one that transformers has, name it: architecture='bert', 'vit', 'resnet', …",
        )
    record.pop("auto_map", None)  # points to code in the model's repository, which is never run
    return transformers.CONFIG_MAPPING[kind].from_dict(record)


def load_backbone(source: Source, config: Any) -> nn.Module:
    """A network with pretrained weights (from a name or folder) or with initial ones (from a configuration).

    Weights are read from safetensors only, and code that a repository may hold is never run.

    Args:
        source: What `load_config` was given.
        config: The configuration it returned.

    Returns:
        The network without any head, in float32.

    Raises:
        RunError: If the weights cannot be read, or are those of another network.
    """
    import torch
    from safetensors import SafetensorError

    transformers = import_transformers()
    if not isinstance(source, str):
        return transformers.AutoModel.from_config(config, trust_remote_code=False).float()
    try:
        with _quiet(transformers):  # it would list every weight of heads and other towers
            model, report = transformers.AutoModel.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **{_dtype_argument(transformers): torch.float32},
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreadable(source, "weights (model.safetensors)", error) from error
    heads = ("pooler", "head", "embeddings.position_ids")
    lacking = sorted(key for key in report["missing_keys"] if not any(part in key for part in heads))
    wrong = lacking + sorted(str(key) for key in report["mismatched_keys"])
    if wrong:
        raise RunError(
            f"the weights of {source!r} are not those of a {config.model_type} network",
            got=f"{len(wrong)} tensors missing or of another shape: {', '.join(wrong[:3])}, …",
            hint="Check the folder, or name the right one with architecture=….",
        )
    return model


def load_tokenizer(source: str) -> tuple[str, int, int]:
    """A fast tokenizer.

    Args:
        source: A name on the Hugging Face hub or a local folder.

    Returns:
        The tokenizer as JSON (of the package `tokenizers`), the number of its padding token, and its largest length.

    Raises:
        RunError: If none can be read there.
    """
    transformers = import_transformers()
    _check_folder(source)
    problems: list[Exception] = []
    # the second and third read the tokenizer's files alone, where its class is code in the model's repository
    for reader in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast, transformers.BertTokenizerFast):
        try:
            options = {"trust_remote_code": False} if reader is transformers.AutoTokenizer else {}
            with _quiet(transformers):
                tokenizer = reader.from_pretrained(source, **options)
            text = tokenizer.backend_tokenizer.to_str()
            if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # what transformers makes of no files at all
                raise OSError("it has no vocabulary")
        except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
            problems.append(error)
            continue
        return text, int(tokenizer.pad_token_id or 0), int(min(tokenizer.model_max_length, 1_000_000))
    raise _unreadable(source, "tokenizer (tokenizer.json, or vocab.txt of a BERT)", problems[0]) from problems[0]


def _check_folder(source: str) -> None:
    path = Path(source)
    if (path.is_absolute() or source.startswith(".")) and not path.is_dir():
        raise RunError(f"there is no folder {source}", expected="a local folder or a name on the Hugging Face hub")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _dtype_argument(transformers: Any) -> str:
    return "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


def _unreadable(source: str, what: str, error: Exception) -> RunError:
    return RunError(
        f"cannot read the {what} of {source!r}: {str(error).strip().splitlines()[0]}",
        expected="a folder or hub name with config.json, model.safetensors and, for text, a tokenizer",
        hint=(
            "Only safetensors weights are read. Where a model has others, convert it once where you trust it: "
            "AutoModel.from_pretrained(name).save_pretrained(folder)."
        ),
    )
