"""Hashed words against a plain Python reading of the same definition."""

import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.encoders.text import HashingTransformer
from amodal.kinds.words import hash_words
from amodal.schema import Modality

TEXT = Modality("note", "text", ())


def words_by_hand(text: str) -> list[bytes]:
    """Words as the docstring defines them."""
    pattern = re.compile(rb"[\xe0-\xff][a-z0-9\x80-\xdf]*|[a-z0-9\x80-\xdf]+")
    return pattern.findall(re.sub(rb"[A-Z]", lambda m: m[0].lower(), text.encode()))


def bucket_by_hand(word: bytes, buckets: int) -> int:
    """The mixed polynomial with Python's integers, wrapped to signed 64 bits where int64 would wrap."""

    def wrap(n: int) -> int:
        return (n + 2**63) % 2**64 - 2**63

    total = wrap(sum((byte + 1) * 0x100000001B3**i for i, byte in enumerate(word)))
    total = wrap((total ^ (total >> 29)) * (2**64 - 0x61C8864680B583EB))
    return (total ^ (total >> 32)) % buckets


def encode(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    raw = [text.encode() for text in texts]
    table = torch.full((len(raw), max(map(len, raw), default=0)), 65, dtype=torch.uint8)  # padding looks like words
    for row, data in zip(table, raw):
        row[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    return table, torch.tensor([len(data) for data in raw])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(
            alphabet=st.one_of(st.sampled_from("abzAZ09 .-é肺я"), st.characters(exclude_categories=["Cs"])), max_size=30
        ),
        min_size=1,
    )
)
def test_words_and_buckets_are_those_of_the_definition(texts):
    ids, valid = hash_words(*encode(texts), buckets=997, max_words=6)
    for row, text in enumerate(texts):
        expected = [bucket_by_hand(word, 997) for word in words_by_hand(text)][:6]
        assert ids[row, valid[row]].tolist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("No acute EDEMA.", ["no", "acute", "edema"]),
        ("JINXED Quick VLAZY Fowl", ["jinxed", "quick", "vlazy", "fowl"]),
        ("SpO2 93%, pH 7.41", ["spo2", "93", "ph", "7", "41"]),
        ("Müller–Weiß", ["müller", "–weiß"]),
        ("肺炎 x", ["肺", "炎", "x"]),
        ("", []),
        (" .,;! ", []),
    ],
)
def test_words_of_reports(text, words):
    assert [word.decode() for word in words_by_hand(text)] == words
    ids, valid = hash_words(*encode([text]), buckets=2**31, max_words=50)
    assert valid.sum() == len(words)
    assert ids[valid].tolist() == [bucket_by_hand(word.encode(), 2**31) for word in words]


def test_buckets_are_even_and_stable():
    """Ten thousand numbered words over 100 buckets: chi-squared of 99 degrees, 5 standard deviations; fixed values."""
    ids, valid = hash_words(*encode([" ".join(f"word{i}" for i in range(10_000))]), buckets=100, max_words=10_000)
    assert valid.all()
    counts = Counter(ids[0].tolist())
    assert sum((counts[b] - 100) ** 2 / 100 for b in range(100)) < 99 + 5 * (2 * 99) ** 0.5
    again, _ = hash_words(*encode(["edema effusion"]), buckets=4096, max_words=2)
    assert again.tolist() == [[bucket_by_hand(b"edema", 4096), bucket_by_hand(b"effusion", 4096)]]


def test_a_text_without_words_is_its_beginning():
    encoder = HashingTransformer(TEXT, width=8).eval()
    values, lengths = encode(["", "..."])
    tokens, valid, pooled = encoder(values, None, lengths)
    assert tokens.shape == (2, 1, 8)
    assert valid.all()
    assert torch.equal(pooled[0], pooled[1])


def test_only_the_first_words_are_read():
    encoder = HashingTransformer(TEXT, width=8, max_words=3).eval()
    values, lengths = encode(["a b c d e", "a b c x y"])
    _, valid, pooled = encoder(values, None, lengths)
    assert valid.shape == (2, 4)
    torch.testing.assert_close(pooled[0], pooled[1])


def test_order_of_words_matters():
    encoder = HashingTransformer(TEXT, width=8).eval()
    values, lengths = encode(["no edema but effusion", "no effusion but edema"])
    pooled = encoder(values, None, lengths).pooled
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-3)
