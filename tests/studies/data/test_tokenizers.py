"""Bytes and characters as numbers, and back."""

import jaxtyping
import numpy as np
import pytest

from nestax_studies.data import ByteTokenizer, CharacterTokenizer, DataError, Text

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


EMPTY = np.zeros(0, np.uint8)


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), CharacterTokenizer.of("abc"), Text("abc", EMPTY, EMPTY)]
)
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0, 256], "got 0 to 256; leave padding out"),
        ([-1], "got -1 to -1"),
        (np.asarray([2, -1], np.int8), r"got -1 to 2; leave padding out, as tokens\[tokens >= 0\]"),
        ([0.5], r"one sequence of whole numbers is expected, got float64 of shape \(1,\)"),
        (np.ones(2, bool), r"got bool of shape \(2,\)"),
        ([1, True], "got bools"),
        ([[0, 1]], r"of shape \(1, 2\)"),
        ([[0], [0, 1]], r"got \[\[0\], \[0, 1\]\], a list"),
        (1, r"of shape \(\)"),
        ("abc", r"of shape \(\)"),
        (None, r"got object of shape \(\)"),
        ([2**70], r"got object of shape \(1,\)"),
        (np.ma.masked_array([1, 2], [False, True]), "the tokens have masked entries"),
    ],
)
def test_numbers_that_stand_for_nothing_are_refused(tokenizer, tokens, message):
    with pytest.raises(DataError, match=message) as refused:
        tokenizer.decode(tokens)
    assert str(refused.value).startswith(f"{type(tokenizer).__name__}: ")


@pytest.mark.parametrize(
    "bad",
    [5, 5.0, True, None, np.int64(5), np.arange(3), np.zeros(2, np.uint8), [104, 105], ["a"],
     memoryview(b"abc"), (1,), {"a"}],
)  # fmt: skip
def test_what_is_no_text_is_refused(monkeypatch, bad):
    """bytes(5) is five zeros, and bytes(array) the array's memory."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(DataError, match="ByteTokenizer: text must be a str or bytes, got"):
        ByteTokenizer().encode(bad)
    for one in (bad, b"abc"):
        for tokenizer in (CharacterTokenizer("abc"), CharacterTokenizer("abc", "a")):
            with pytest.raises(DataError, match="CharacterTokenizer: text must be a str, got"):
                tokenizer.encode(one)
        with pytest.raises(DataError, match="CharacterTokenizer: characters must be a str of all"):
            CharacterTokenizer(one)
        if not isinstance(one, list | set) or 104 in one:
            with pytest.raises(DataError, match="CharacterTokenizer: texts must be a str or sev"):
                CharacterTokenizer.of(one)
        with pytest.raises(DataError, match="unknown must be one of the characters"):
            CharacterTokenizer("abc", unknown=one if one is not None else "d")


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(DataError, match=r"ByteTokenizer: '\\udc80' at position 2 is half"):
        ByteTokenizer().encode("ab\udc80")
    assert ByteTokenizer().encode(bytearray(b"ab")).tolist() == [97, 98]


def test_bad_characters_are_refused():
    with pytest.raises(DataError, match="'a' is among the characters twice"):
        CharacterTokenizer("abca")
    with pytest.raises(DataError, match="unknown must be one of the characters, got 'x'"):
        CharacterTokenizer("abc", unknown="x")
    for unknown in ("", "ab"):
        with pytest.raises(DataError, match="unknown must be one character, got"):
            CharacterTokenizer.of("abc", unknown=unknown)
