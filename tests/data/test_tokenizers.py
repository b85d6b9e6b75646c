"""Bytes and characters as numbers, and back."""

import numpy as np
import pytest

from nestax.data import ByteTokenizer, CharacterTokenizer, DataError

TEXT = "naïve — 日本\n\0"


def test_bytes_of_any_text_come_back():
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(TEXT)
    assert tokens.dtype == np.int32 and tokens.tolist() == list(TEXT.encode())
    assert tokenizer.decode(tokens) == TEXT and tokens.max() < tokenizer.vocabulary == 256
    assert tokenizer.encode(TEXT.encode()).tolist() == tokens.tolist()
    assert tokenizer.encode("").shape == (0,) and tokenizer.decode([]) == ""


def test_what_is_no_text_can_still_be_read():
    tokens = ByteTokenizer().encode(TEXT)
    assert ByteTokenizer().decode(tokens[:3]) == "na\ufffd"
    assert (
        ByteTokenizer().decode(np.arange(256, dtype=np.uint8)[:128]) == bytes(range(128)).decode()
    )


def test_characters_come_back_in_their_order():
    tokenizer = CharacterTokenizer.of(TEXT)
    assert tokenizer.characters == "".join(sorted(set(TEXT)))
    tokens = tokenizer.encode(TEXT)
    assert tokens.dtype == np.int32 and tokenizer.decode(tokens) == TEXT
    assert [tokenizer.characters[t] for t in tokens] == list(TEXT)
    assert tokenizer == CharacterTokenizer(tokenizer.characters)
    assert CharacterTokenizer.of(["ab", "bc"]).characters == "abc"
    assert tokenizer.encode("").shape == (0,) and tokenizer.vocabulary == len(set(TEXT))


def test_other_characters_are_refused_or_unknown():
    with pytest.raises(DataError, match="'d' is none of the 3 characters"):
        CharacterTokenizer("abc").encode("bad")
    tokenizer = CharacterTokenizer.of("abc", unknown="?")
    assert tokenizer.characters == "?abc" and tokenizer.decode(tokenizer.encode("bad")) == "ba?"


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharacterTokenizer.of("abc")])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0, 256], "got 0 to 256"),
        ([-1, 2], "got -1 to 2"),
        ([0.5], "one sequence of whole numbers is expected, got float64"),
        ([[0, 1]], r"of shape \(1, 2\)"),
    ],
)
def test_numbers_that_stand_for_nothing_are_refused(tokenizer, tokens, message):
    with pytest.raises(DataError, match=message):
        tokenizer.decode(tokens)


def test_bad_characters_are_refused():
    with pytest.raises(DataError, match="'a' is among the characters twice"):
        CharacterTokenizer("abca")
    with pytest.raises(DataError, match="unknown must be one of the characters, got 'x'"):
        CharacterTokenizer("abc", unknown="x")
