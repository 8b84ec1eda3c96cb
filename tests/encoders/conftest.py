"""Folders of tiny pretrained networks."""

import pytest
from encoders import tiny_networks


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("networks")
    found = {name: tiny_networks.save_network(root / name, config) for name, config in tiny_networks.VISION.items()}
    found["bert"] = tiny_networks.save_network(root / "bert", tiny_networks.BERT)
    tiny_networks.save_tokenizer(root / "bert")
    return found


@pytest.fixture
def bert_folder(tmp_path):
    """A BERT's folder of one's own, to spoil."""
    tiny_networks.save_network(tmp_path / "bert", tiny_networks.BERT)
    tiny_networks.save_tokenizer(tmp_path / "bert")
    return tmp_path / "bert"
