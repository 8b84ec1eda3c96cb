import gzip

import numpy as np
import pytest

from amodal.data.sources.avmnist.idx import read_idx, read_mnist
from amodal.errors import DataError

from .sounds import idx_bytes, write_mnist


def test_what_was_written_is_read(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    for name, content in (("a", idx_bytes(array)), ("a.gz", gzip.compress(idx_bytes(array)))):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)


def test_parts_belong_together(tmp_path):
    train, test = read_mnist(write_mnist(tmp_path, 30, 20))
    assert train.images.shape == (30, 28, 28)
    assert np.bincount(train.labels).tolist() == [3] * 10
    assert len(test.labels) == 20


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "train-images-idx3-ubyte.gz",
            lambda b: b[: len(b) // 2],
            r"train-images-idx3-ubyte\.gz cannot be read.*fetch",
        ),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1], r"t10k-labels-idx1-ubyte is truncated.*28 bytes.*27 bytes"),
        ("t10k-labels-idx1-ubyte", lambda b: b + b"0", "t10k-labels-idx1-ubyte is too long"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:6], "t10k-labels-idx1-ubyte is truncated.*a header"),
        ("t10k-labels-idx1-ubyte", lambda b: b"PK" + b[2:], "no idx file of unsigned bytes"),
        ("t10k-labels-idx1-ubyte", lambda b: b"", "no idx file.*an empty file"),
        ("t10k-labels-idx1-ubyte", lambda b: idx_bytes(np.arange(19) % 10), "does not fit.*expected 20 labels"),
        ("t10k-labels-idx1-ubyte", lambda b: idx_bytes(np.full(20, 10)), "does not fit.*up to 10"),
        ("train-images-idx3-ubyte.gz", lambda b: gzip.compress(idx_bytes(np.zeros((30, 9, 9)))), r"MNIST's images"),
    ],
)
def test_damage_is_named(tmp_path, name, change, words):
    write_mnist(tmp_path, 30, 20)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match=words):
        read_mnist(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        read_mnist(tmp_path / "nowhere")
    write_mnist(tmp_path, 30, 20)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="a file of MNIST is missing: .*t10k-labels"):
        read_mnist(tmp_path)


def test_upstream_files(shared_data):
    train, test = read_mnist(shared_data / "mnist")
    assert train.images.shape == (60_000, 28, 28)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
