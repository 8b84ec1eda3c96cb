"""Pretrained text networks, folders that cannot be read, and rebuilding: the real code on tiny networks in folders."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from encoders import tiny_networks
from encoders.tiny_networks import VISION

import amodal
from amodal.data.cohort import Cohort
from amodal.encoders import build_encoders, portable_choices
from amodal.encoders.backbone import load_backbone, load_config, load_tokenizer
from amodal.encoders.pretrained import PretrainedText
from amodal.encoders.pretrained_vision import PretrainedVision
from amodal.errors import ConfigurationError, RunError
from amodal.schema import Modality, Schema, Task

IMAGE, NOTE = Modality("x-ray", "image", (1, 20, 24)), Modality("note", "text", ())


def encode(*texts: str) -> tuple[torch.Tensor, None, torch.Tensor]:
    raw = [text.encode() for text in texts]
    table = torch.zeros(len(raw), max(map(len, raw)), dtype=torch.uint8)
    for row, data in zip(table, raw):
        row[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    return table, None, torch.tensor([len(data) for data in raw])


def test_text_outputs_are_those_of_transformers(folders):
    """The same folder, tokenizer and padding read by transformers itself."""
    import transformers

    texts = ["No acute edema.", "the lungs are clear", "Effusions?"]
    encoder = PretrainedText(NOTE, width=6, model=folders["bert"]).eval()
    tokens, valid, pooled = encoder(*encode(*texts))
    theirs = transformers.AutoModel.from_pretrained(folders["bert"]).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folders["bert"])(texts, return_tensors="pt", padding=True)
    hidden = theirs(**inputs).last_hidden_state
    assert torch.equal(valid, inputs["attention_mask"].bool())
    expected = torch.where(valid[..., None], encoder.project(hidden), 0.0)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(pooled, tokens[:, 0])


def test_texts_are_cut_to_the_network_s_positions_and_to_what_was_asked(folders):
    long = "the lungs are clear " * 10
    for options, expected in (({}, 12), ({"max_tokens": 5}, 5)):
        encoder = PretrainedText(NOTE, width=6, model=folders["bert"], **options).eval()
        assert encoder.n_tokens == expected
        assert encoder(*encode(long)).tokens.shape == (1, expected, 6)


def test_a_text_is_tokenised_once(folders, monkeypatch):
    encoder = PretrainedText(NOTE, width=6, model=folders["bert"]).eval()
    first = encoder(*encode("no edema", "clear", "no edema")).pooled
    assert len(encoder._cache) == 2
    monkeypatch.setattr(encoder, "_open_tokenizer", lambda: pytest.fail("tokenised again"))
    torch.testing.assert_close(encoder(*encode("no edema", "clear", "no edema")).pooled, first)
    assert torch.equal(first[0], first[2])


def test_bytes_that_are_no_utf8_are_replaced(folders):
    encoder = PretrainedText(NOTE, width=6, model=folders["bert"]).eval()
    values = torch.tensor([[255, 254, 110, 111]], dtype=torch.uint8)
    assert encoder(values, None, torch.tensor([4])).pooled.isfinite().all()


def test_cxr_bert_s_own_code_is_never_run(bert_folder):
    """It names classes in its repository; its encoder is a plain BERT and is read as one."""
    trap = bert_folder / "ran"
    for name in ("modeling_cxrbert.py", "configuration_cxrbert.py"):
        (bert_folder / name).write_text(f"open({str(trap)!r}, 'w')", encoding="utf-8")
    code = {"AutoConfig": "configuration_cxrbert.CXRBertConfig", "AutoModel": "modeling_cxrbert.CXRBertModel"}
    tiny_networks.edit_json(bert_folder / "config.json", model_type="cxr-bert", auto_map=code)
    tiny_networks.edit_json(
        bert_folder / "tokenizer_config.json",
        tokenizer_class="CXRBertTokenizer",
        auto_map={"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]},
    )
    encoder = PretrainedText(NOTE, width=6, model=str(bert_folder)).eval()
    plain = load_backbone(str(bert_folder), load_config(str(bert_folder), "text_config", "bert"))
    assert torch.equal(encoder.backbone.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    assert encoder(*encode("no acute edema")).valid.sum() == 5
    assert not trap.exists()


def test_an_architecture_can_be_named_where_the_folder_names_none(bert_folder):
    """TinyBERT's configuration has no model_type."""
    tiny_networks.edit_json(bert_folder / "config.json", model_type=None)
    with pytest.raises(ConfigurationError, match=r"names no architecture .*architecture='bert'"):
        PretrainedText(NOTE, width=6, model=str(bert_folder))
    encoder = PretrainedText(NOTE, width=6, model=str(bert_folder), architecture="bert")
    assert type(encoder.backbone).__name__ == "BertModel"


def test_a_tokenizer_of_vocabulary_alone_is_read(bert_folder):
    (bert_folder / "tokenizer.json").unlink()
    (bert_folder / "tokenizer_config.json").unlink()
    (bert_folder / "vocab.txt").write_text("\n".join(tiny_networks.VOCABULARY), encoding="utf-8")
    text, pad, _ = load_tokenizer(str(bert_folder))
    assert json.loads(text)["model"]["vocab"]["edema"] == tiny_networks.VOCABULARY.index("edema")
    assert pad == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"cannot read the configuration \(config.json\)"),
        (lambda f: (f / "config.json").write_text("{"), r"cannot read the configuration \(config.json\)"),
        (lambda f: (f / "tokenizer.json").unlink(), r"cannot read the tokenizer .*no vocabulary"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"cannot read the weights .*Only safetensors weights are read.*save_pretrained",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"0123456789"), r"cannot read the weights"),
        (
            lambda f: tiny_networks.edit_json(f / "config.json", num_hidden_layers=3),
            r"are not those of a bert network .*16 tensors missing or of another shape",
        ),
        (
            lambda f: tiny_networks.edit_json(f / "config.json", vocab_size=99),
            r"(are not those of a bert network|cannot read the weights)",
        ),
    ],
    ids=[
        "no config",
        "bad config",
        "no tokenizer",
        "pickled weights",
        "bad weights",
        "lacking weights",
        "other shapes",
    ],
)
def test_folders_that_cannot_be_read_are_refused_by_name(spoil, message, bert_folder):
    spoil(bert_folder)
    with pytest.raises(RunError, match=message) as caught:
        PretrainedText(NOTE, width=6, model=str(bert_folder))
    assert str(bert_folder) in str(caught.value)


def test_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(RunError, match=r"there is no folder .*nowhere .*local folder or a name"):
        PretrainedVision(IMAGE, width=6, model=str(tmp_path / "nowhere"))


def test_a_configuration_alone_has_no_tokenizer():
    encoder = PretrainedText(NOTE, width=6, model=tiny_networks.BERT)
    with pytest.raises(RunError, match=r"modality 'note' has no tokenizer.*tokenizer=<name or folder>"):
        encoder(*encode("no"))


@pytest.mark.parametrize("name", ["pretrained_text", "pretrained_vision", "resnet"])
def test_without_transformers_the_command_to_install_it_is_told(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    modality = NOTE if name == "pretrained_text" else IMAGE
    schema = Schema((modality,), Task("regression"))
    with pytest.raises(RunError, match=r"transformers, which is not installed\. Install it: pip install 'amodal\[pre"):
        build_encoders(schema, choices={modality.name: {"name": name, "model": {"model_type": "resnet"}}})


@pytest.mark.parametrize("name", [*VISION, "bert"])
def test_a_trained_encoder_is_rebuilt_without_its_folder(name, folders):
    """From choices in plain JSON and its state, tokenizer included: the same output."""
    modality = NOTE if name == "bert" else IMAGE
    kind = {"bert": "pretrained_text", "resnet": "resnet"}.get(name, "pretrained_vision")
    rows = encode("No acute edema.", "clear") if name == "bert" else (torch.randn(2, *modality.shape),)
    schema = Schema((modality,), Task("regression"))
    choices = {modality.name: {"name": kind, "model": folders[name], "dropout": 0.2}}
    encoders = build_encoders(schema, width=6, choices=choices).eval()
    portable = json.loads(json.dumps(portable_choices(encoders, choices)))
    assert folders[name] not in json.dumps(portable)
    assert portable[modality.name]["dropout"] == 0.2
    rebuilt = build_encoders(schema, width=6, choices=portable)
    rebuilt.load_state_dict(encoders.state_dict())
    ours, theirs = encoders[modality.name](*rows), rebuilt.eval()[modality.name](*rows)
    assert torch.equal(ours.pooled, theirs.pooled)
    assert portable_choices(rebuilt, portable) == portable


def test_a_run_is_loaded_after_its_pretrained_folder_is_gone(bert_folder, tmp_path):
    """The whole way: fit on texts of which some are missing, save, delete the network's folder, load, predict."""
    texts = ["no acute edema", "the lungs are clear", "effusion", "edema effusion"] * 10
    cohort = Cohort.from_arrays(
        {"note": texts, "age": np.linspace(-1, 1, 40, dtype=np.float32)[:, None]},
        task=Task("binary", classes=("well", "ill")),
        target=np.array([0, 0, 1, 1] * 10),
        observed={"note": np.arange(40) % 5 > 0},
    )
    encoders = {"note": {"name": "pretrained_text", "model": str(bert_folder)}}
    model = amodal.fit("fusion", cohort, encoders=encoders, epochs=1, width=8, seed=0)
    model.save(tmp_path / "run")
    shutil.rmtree(bert_folder)
    again = amodal.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict(cohort), model.predict(cohort))
