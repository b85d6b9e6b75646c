"""A needle in a haystack: haystacks against plain reading, and how much longer the tests are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax_studies import needle
from nestax_studies.needle import BLOCK, NAMES, VOCABULARY, haystack


@pytest.mark.parametrize("passkeys", (1, NAMES))
def test_a_passkey_lies_where_its_place_says_and_is_asked_for_by_name(passkeys):
    length, count = 64, 40
    keys, places = jax.random.split(jax.random.key(0), count), np.arange(count) / count
    draw = jax.jit(jax.vmap(haystack(length, passkeys), (None, 0, 0)))
    depths = []
    for tokens, targets, mask in zip(*map(np.asarray, draw(None, keys, places)), strict=True):
        assert tokens.max() < VOCABULARY and tokens.min() >= 0
        marks = np.flatnonzero(tokens == 30)
        assert len(marks) == passkeys and (marks % BLOCK == 0).all()
        known = {int(tokens[m + 1]): tokens[m + 2 : m + BLOCK] for m in marks}
        assert len(known) == passkeys and all(16 <= name < 20 for name in known)
        assert all(((digits >= 20) & (digits < 30)).all() for digits in known.values())
        (ask,) = np.flatnonzero(tokens == 31)
        assert ask == length - BLOCK + 1 and marks.max() + BLOCK <= ask
        digits = known[int(tokens[ask + 1])]
        np.testing.assert_array_equal(tokens[ask + 2 :], digits[:-1])
        np.testing.assert_array_equal(targets[mask], digits)
        assert mask[-4:].all() and mask.sum() == 4
        inside = np.zeros(length, bool)
        inside[(marks[:, None] + np.arange(BLOCK)).ravel()] = True
        inside[ask:] = True
        assert (tokens[~inside] < 16).all()
        depths.append(next(m for m in marks if tokens[m + 1] == tokens[ask + 1]))
    assert depths == sorted(depths) and depths[0] == 0 and len(set(depths)) == 9


def test_tests_are_longer_and_read_in_pieces_of_the_length_learned_from():
    settings = needle.Settings(length=48, times=(1, 4))
    task = needle.task_of(settings, "names")
    assert task.tune == "1" and list(task.tests) == ["1", "4"]
    shapes = [
        jax.eval_shape(draw, None, jax.random.key(0), jnp.zeros(())).tokens.shape
        for draw in (task.train, *(test.draw for test in task.tests.values()))
    ]
    assert shapes == [(48,), (48,), (192,)]
    assert all(test.piece == 48 for test in task.tests.values())
