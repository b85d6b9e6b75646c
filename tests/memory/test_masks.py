"""Masks and documents: what is checked, and convolutions against separate documents."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from nestax import memory
from nestax.memory import _masks, _parts

RNG = np.random.default_rng(0)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


# Documents.


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["known", "traced"])
def test_documents_begin_where_the_id_changes(wrap):
    starts = wrap(memory.segment_starts)
    ids = np.array([3, 3, 0, 0, 3, 3, 7])
    assert starts(jnp.asarray(ids)).tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert starts(np.array([5])).tolist() == [1] and starts(np.zeros(0, int)).tolist() == []
    # Padding in the middle of a document cuts nothing, and at the end begins nothing.
    valid = np.array([0, 1, 0, 0, 1, 0, 1], bool)
    assert starts(ids, valid).tolist() == [0, 1, 0, 0, 0, 0, 1]
    assert starts(ids, jnp.zeros(7, bool)).tolist() == [0] * 7


def test_known_documents_are_known_within_a_jit():
    ids = jnp.array([1, 1, 2])

    @jax.jit
    def inside():
        assert isinstance(memory.segment_starts(ids), np.ndarray)
        valid, reset = _masks.check_masks("f", 3, ids < 2, jnp.asarray(memory.segment_starts(ids)))
        assert isinstance(valid, jax.core.Tracer)
        return reset

    assert inside().tolist() == [True, False, True]


# What is refused.


def test_masks_that_change_nothing_are_none():
    for one in (np.ones(3, bool), jnp.ones(3, bool)):
        assert _masks.check_masks("f", 3, one, ~one, 1) == (None, None)
    valid, reset = _masks.check_masks("f", 2, np.array([True, False]), jnp.array([False, True]))
    assert isinstance(valid, np.ndarray) and isinstance(reset, np.ndarray)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"valid": np.ones(4, bool)}, r"f: valid must be .* shape \(3,\), .* bool of shape \(4,\)"),
        ({"reset": np.ones((1, 3), bool)}, r"f: reset must be .* \(1, 3\)"),
        ({"valid": np.ones(3, int)}, r"f: valid must be .* got int64 of shape \(3,\); .* booleans"),
        ({"reset": [True] * 3}, "f: reset must be .* got a list; make lists arrays"),
        ({"valid": True}, "f: valid must be .* got a bool"),
        ({"max_documents": 0}, "f: max_documents must be a whole number, at least 1, .* got 0"),
        ({"max_documents": True}, "f: max_documents must be a whole number"),
        ({"max_documents": 2.0}, "f: max_documents must be a whole number"),
        ({"reset": np.ones(3, bool), "max_documents": 2}, "f: 3 documents begin in this piece"),
    ],
)
def test_other_masks_are_refused_by_name(monkeypatch, masks, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        _masks.check_masks("f", 3, **{"valid": None, "reset": None, **masks})


def test_other_segments_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for wrong in ([0, 1], np.zeros(3), np.zeros((2, 2), int), 3):
        with pytest.raises(ValueError, match="segment_starts: segments must be one array of int"):
            memory.segment_starts(wrong)
    with pytest.raises(ValueError, match="segment_starts: valid must be one array of booleans"):
        memory.segment_starts(np.zeros(3, int), np.ones(2, bool))


# Convolutions.

TIME, CHANNELS = 12, 2
STARTS = (4, 5, 9)  # documents of 4, 1, 4 and 3 valid tokens
PADDING = {"none": (), "right": (12, 13), "anywhere": (0, 3, 6, 7, 14, 15)}


def padded(padding, starts):
    """A sequence of TIME valid tokens and padding that holds garbage, and its two masks."""
    valid = np.ones(TIME + len(padding), bool)
    valid[list(padding)] = False
    x = np.full((len(valid), CHANNELS), np.nan)
    x[valid] = RNG.normal(size=(TIME, CHANNELS))
    reset = np.zeros(len(valid), bool)
    reset[np.flatnonzero(valid)[list(starts)]] = True
    return x, valid, reset


@pytest.mark.parametrize(
    ("window", "padding"), [(4, "none"), (4, "right"), (4, "anywhere"), (None, "anywhere")]
)
def test_convolutions_see_valid_tokens_of_their_own_document(x64, window, padding):
    conv = _parts.ShortConvolution(CHANNELS, window, key=jax.random.key(0))
    x, valid, reset = padded(PADDING[padding], STARTS)
    tail = jnp.asarray(RNG.normal(size=conv.init_state().shape))
    weights, end = RNG.normal(size=x.shape), RNG.normal(size=tail.shape)

    def together(conv, x, tail, valid, reset):
        y, last = conv(x, tail, valid, reset)
        return jnp.sum(jnp.where(valid[:, None], y, 0) * weights) + jnp.sum(last * end), (y, last)

    def apart(conv, x, tail, valid, reset):
        there, made = np.flatnonzero(valid), jnp.zeros(x.shape)
        for place in np.split(there, np.flatnonzero(reset[there])):
            y, tail = conv(x[place], tail)
            made, last, tail = made.at[place].set(y), tail, jnp.zeros(tail.shape)
        return jnp.sum(made * weights) + jnp.sum(last * end), (made, last)

    arguments = conv, jnp.asarray(x), tail
    made, expected = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))(*arguments, *masks)
        for f, masks in (
            (together, (valid, reset)),
            (lambda *a: apart(*a, valid, reset), ()),
        )
    )
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        close(a, b)


def test_a_document_that_begins_after_the_last_token_leaves_an_empty_tail():
    conv = _parts.ShortConvolution(CHANNELS, 3, key=jax.random.key(0))
    x, tail = jnp.ones((3, CHANNELS)), jnp.ones((2, CHANNELS))
    valid, reset = np.array([True, True, False]), np.array([False, False, True])
    y, last = conv(x, tail, valid, reset)
    close(y[:2], conv(x[:2], tail)[0])
    assert not last.any() and not y[2].any()
    y, last = conv(x, tail, jnp.zeros(3, bool))
    assert not y.any() and (last == tail).all()
