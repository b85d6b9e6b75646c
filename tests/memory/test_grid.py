"""Rows of periods and documents, against a loop over tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.memory._grid import lay_out, spoiled, take_back


def naive(period, offset, valid, reset):
    """Rows, lists of tokens; whether a document begins in each, and its tokens after the row."""
    rows, begins, after, position, due = [], [], [], offset, False
    for t in range(len(valid)):
        due = due or bool(reset[t])
        if not valid[t]:
            continue
        position = 0 if due else position
        if due or not rows or position % period == 0:
            rows.append([])
            begins.append(due)
            after.append(0)
        rows[-1].append(t)
        position, due = position + 1, False
        after[-1] = position
    if due:
        rows, begins, after, position = [*rows, []], [*begins, True], [*after, 0], 0
    return rows, begins, after, position


@functools.partial(jax.jit, static_argnames=("period", "fresh", "room"))
def traced(x, period, fresh, offset, valid, reset, room):
    return lay_out(x, period, None if fresh else offset, valid, reset, room)


def check(layout, x, period, offset, valid, reset):
    rows, begins, after, position = naive(period, offset, valid, reset)
    marks, count = layout.documents, len(rows)
    there = np.asarray(layout.valid)
    assert not there[count:].any() and np.isfinite(layout.tokens).all()
    for row, tokens, mask in zip(rows, layout.tokens, there, strict=False):
        assert mask.sum() == len(row)
        np.testing.assert_array_equal(np.asarray(tokens)[mask], x[row])
    padding = len(there) - count
    assert list(marks.begins) == begins + [False] * padding
    assert list(marks.after) == after + [position] * padding
    ends = [bool(row) and a % period == 0 for row, a in zip(rows, after, strict=True)]
    assert list(layout.ends) == ends + [False] * padding
    assert int(marks.position) == position and not bool(marks.too_many)
    back = take_back(jnp.asarray(layout.tokens), layout, len(x), period)
    np.testing.assert_array_equal(back, np.where(valid[:, None], x, 0))


@pytest.mark.parametrize("time, period", [(3, 1), (9, 4), (4, 7)])
def test_rows_hold_one_period_of_one_document(time, period):
    """At every beginning, with masks of all densities, known beforehand and not."""
    rng = np.random.default_rng(time)
    for case in range(6):
        valid, reset = rng.random(time) < (0.2, 0.7, 1)[case % 3], rng.random(time) < case / 6
        offset = int(rng.integers(2 * period))
        x = rng.normal(size=(time, 2)).astype(np.float32)
        given = np.where(valid[:, None], x, np.nan)
        found = traced(given, period, False, offset, valid, reset, None)
        check(found, x, period, offset, valid, reset)
        found = jax.jit(lambda x, v=valid, r=reset: lay_out(x, period, None, v, r))(given)
        check(found, x, period, 0, valid, reset)


@pytest.mark.parametrize("offset", [None, 3])
def test_there_is_room_for_as_many_documents_as_are_said(offset):
    """One row more for each document and no more, also where one begins behind all tokens."""
    start = None if offset is None else jnp.asarray(offset)
    reset, valid = np.zeros(9, bool), np.ones(9, bool)
    reset[[2, 3, 8]], valid[8] = True, False
    x = np.ones((9, 1), np.float32)
    run = jax.jit(lambda v, r: lay_out(jnp.asarray(x), 4, start, v, r, 3))
    check(run(valid, reset), x, 4, offset or 0, valid, reset)
    reset[5] = True
    assert bool(run(valid, reset).documents.too_many)


def test_too_many_documents_are_seen_in_all_numbers():
    layout = jax.jit(lambda x, r: lay_out(x, 2, None, None, r, 1))(
        jnp.ones((3, 1)), jnp.ones(3, bool)
    )
    assert jnp.isnan(take_back(layout.tokens, layout, 3, 2)).all()
    numbers, count = spoiled((jnp.ones(2), jnp.ones((), int)), layout)
    assert jnp.isnan(numbers).all() and count == 1
