"""Padded and packed sequences: every document gets what it gets alone, at any length and chunk."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import memory as nm

WIDTH = 4
# Lengths of documents, and of the padding before each and at the end.
PIECES = {
    30: ((13, 17), (0, 0, 0)),
    63: ((14, 1, 13, 1, 13), (3, 0, 6, 1, 0, 11)),
    100: ((17, 13, 17, 1, 17, 17), (0, 4, 0, 6, 1, 2, 5)),
}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def spoiled(a, valid):
    """NaN where nothing is."""
    return a if valid is None else jnp.where(valid.reshape(-1, *(1,) * (a.ndim - 1)), a, jnp.nan)


def read_off(x, valid=None, **largest):
    """Queries, keys and values, and a rate of every token for each name."""
    clean = x if valid is None else jnp.where(valid[:, None], x, 0)
    tokens = clean[:, :3], jnp.tanh(clean[:, 1:]) / 2, clean[:, 1:] * clean[:, :3]
    rates = {n: top * jax.nn.sigmoid(clean[:, i]) for i, (n, top) in enumerate(largest.items())}
    return jax.tree.map(lambda a: spoiled(a, valid), (tokens, rates))


def linear(scan, **largest):
    def run(initial, x, state=None, max_documents=None, **masks):
        tokens, rates = read_off(x, masks.get("valid"), **largest)
        state = initial if state is None else state
        return scan(*tokens, **rates, state=state, initial=initial, **masks)

    memory, surprise = draw(3, 3), draw(3, 3, seed=1)
    return (memory, surprise) if "momentum" in largest else memory, lambda initial: initial, run


def network(**options):
    def run(weights, x, state=None, **masks):
        tokens, rates = read_off(x, masks.get("valid"), rate=0.3, retain=1.0, momentum=0.8)
        return nm.network_scan(*tokens, weights, **rates, state=state, **options, **masks)

    weights = jnp.asarray(draw(5, 3) / 2), jnp.asarray(draw(3, 5, seed=1) / 2)
    return weights, lambda weights: nm.network_state(weights, True), run


def token_by_token(rule, begin):
    def run(memory, x, state=None, max_documents=None, **masks):
        tokens, rates = read_off(x, masks.get("valid"), rate=0.3, retain=1.0)
        initial = begin(memory)
        state = initial if state is None else state
        return nm.scan_rule(rule, *tokens, state, **rates, initial=initial, **masks)

    return draw(3, 3), begin, run


def layer(kind, **options):
    """With all parameters drawn by numpy."""
    build = lambda key: kind(WIDTH, 2, **options, key=key)  # noqa: E731
    shapes, treedef = jax.tree.flatten(eqx.filter_eval_shape(build, jax.random.key(0)))
    leaves = [0.5 * draw(*a.shape, seed=i) for i, a in enumerate(shapes)]
    run = lambda own, x, state=None, **masks: own(x, state, **masks)  # noqa: E731
    return treedef.unflatten(leaves), lambda own: own.init_state(), run


ALL = {"erase": 0.5, "retain": 1.0, "momentum": 0.8, "carried": 0.3}
TARGETS = {
    "memory_scan": lambda: linear(partial(nm.memory_scan, chunk=7), **ALL),
    "memory_scan, recurrent": lambda: linear(
        partial(nm.memory_scan, implementation="recurrent", read="after"), **ALL
    ),
    "titans": lambda: linear(partial(nm.titans, chunk=4), rate=1.5, momentum=0.8, retain=1.0),
    "network_scan": lambda: network(chunk=4, rule="dgd", clip=1.0),
    "network_scan, recurrent": lambda: network(chunk=4, rule="local", implementation="recurrent"),
    "omega": lambda: token_by_token(nm.omega, lambda m: nm.omega_state(m, 3)),
    "memora": lambda: token_by_token(nm.memora, jnp.exp),
    "LinearAttention": lambda: layer(nm.LinearAttention, decay=True, trained_start=True),
    "DeltaMemory": lambda: layer(nm.DeltaMemory, chunk=4, trained_start=True),
    "TitansMemory": lambda: layer(nm.TitansMemory, chunk=4),
    "TitansMemory, mlp": lambda: layer(nm.TitansMemory, chunk=4, memory="mlp", hidden=3),
    "SelfModifyingMemory": lambda: layer(
        nm.SelfModifyingMemory, chunk=2, chunk_others=4, adaptive=("v",), skip=False
    ),
}
made = cache(lambda name: TARGETS[name]())  # programs are shared between cases
# Masks are known beforehand or traced.
OTHERS = [name for name in TARGETS if name not in ("memory_scan", "network_scan")]
CASES = [
    *((name, 63, name == "SelfModifyingMemory") for name in OTHERS),
    *((name, 30, True) for name in ("memory_scan", "network_scan")),
    *((name, 100, False) for name in ("memory_scan", "network_scan")),
]


def packed(time):
    """The tokens of each document, `valid`, `reset`, and whether the first goes on from a state.

    A document is told to begin anywhere in the padding before it; one has padding inside, and after
    a hundred tokens one begins that has none.
    """
    lengths, gaps = PIECES[time]
    valid, reset, at, documents = np.zeros(time, bool), np.zeros(time, bool), 0, []
    for length, gap in zip(lengths, gaps, strict=False):
        reset[at + gap // 2] = True
        documents.append(np.arange(at + gap, at + gap + length))
        at += gap + length
    if time == 63:
        reset[1], documents[0] = False, np.delete(documents[0], 4)
    if time == 100:
        reset[-2] = True
        documents.append(np.arange(0))
    for document in documents:
        valid[document] = True
    return documents, None if valid.all() else valid, reset, time == 63


def graded(target, room, params, x, fresh, state, seen, end_seen, valid=None, reset=None):
    """Outputs and state, and gradients of both by parameters, tokens and the state before, which
    is that of the beginning instead where `fresh` says so."""
    begin, run = target
    masks = {} if reset is None else {"valid": valid, "reset": reset, "max_documents": room}
    floats, others = eqx.partition(state, eqx.is_inexact_array)

    def total(params, x, floats):
        state = eqx.combine(floats, others)
        state = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), begin(params), state)
        y, end = run(params, x, state, **masks)
        ends = zip(jax.tree.leaves(end), jax.tree.leaves(end_seen), strict=True)
        return jnp.sum(y * seen) + sum(jnp.sum(a * b) for a, b in ends), (y, end)

    (_, made), slopes = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(params, x, floats)
    return made, slopes


traced = jax.jit(graded, static_argnums=(0, 1))


def scattered(parts, documents, time):
    """What was made of the documents, in their places, and zeros between."""
    whole = np.zeros((time, parts[0].shape[1]))
    whole[np.concatenate(documents)] = np.concatenate(parts)
    return whole


def close(found, wanted, what):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=what)


@pytest.mark.parametrize("name, time, known", CASES)
def test_every_document_gets_what_it_gets_alone(x64, name, time, known):
    params, *target = made(name)
    target = tuple(target)
    documents, valid, reset, goes_on = packed(time)
    y, like = jax.eval_shape(target[1], params, np.zeros((1, WIDTH)))
    x, seen = draw(time, WIDTH), draw(time, y.shape[1], seed=1)
    nothing = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
    end_seen = jax.tree.map(lambda a: draw(*a.shape, seed=a.size), nothing)
    none_seen = jax.tree.map(np.zeros_like, end_seen)
    longest = max(map(len, documents))
    alone = partial(traced, target, None, params)
    (_, before), _ = alone(draw(longest, WIDTH, seed=2), True, nothing, seen[:longest], none_seen)

    ys, of_params, of_x = [], [], []
    before = jax.tree.map(np.asarray, before)
    of_before = jax.tree.map(np.zeros_like, eqx.filter(before, eqx.is_inexact_array))
    for i, tokens in enumerate(documents):
        fresh, last = i > 0 or not goes_on, i == len(documents) - 1
        # Other tokens behind the shorter ones, which nothing looks at, have no effect before them:
        # documents of all lengths are one program. The last has the state to itself.
        size, there = len(tokens), tokens
        if not last:
            there = np.concatenate([tokens, np.arange(longest - size)])
        told = np.where(np.arange(len(there))[:, None] < size, seen[there], 0)
        found = alone(x[there], fresh, before, told, end_seen if last else none_seen)
        (y, end), slopes = jax.tree.map(np.asarray, found)
        ys.append(y[:size])
        of_params.append(slopes[0])
        of_x.append(slopes[1][:size])
        assert not np.any(slopes[1][size:])
        of_before = of_before if fresh else slopes[2]

    if valid is not None:
        wrong = np.array([np.nan, np.inf, 0, 1e300])
        x = np.where(valid[:, None], x, wrong[None])
    if known:
        found, slopes = jax.jit(
            lambda *given: graded(target, None, *given, seen, end_seen, valid, reset)
        )(params, x, False, before)
    else:
        room = len(documents) - goes_on
        masks = None if valid is None else jnp.asarray(valid), jnp.asarray(reset)
        found, slopes = traced(target, room, params, x, False, before, seen, end_seen, *masks)
    close(found[0], scattered(ys, documents, time), "outputs")
    close(found[1], end, "state")
    close(slopes[0], jax.tree.map(lambda *a: sum(a), *of_params), "by parameters")
    close(slopes[1], scattered(of_x, documents, time), "by tokens")
    close(slopes[2], of_before, "by the state before")


def test_more_documents_than_there_is_room_for_are_no_numbers():
    weights, begin, run = network(chunk=4)
    scan = jax.jit(lambda x, reset: run(weights, x, begin(weights), reset=reset, max_documents=1))
    y, end = scan(np.ones((5, WIDTH)), np.array([True, False, True, False, False]))
    assert all(jnp.isnan(a).all() for a in (y, *end.now, *end.surprise, *end.anchor))


@pytest.mark.parametrize("kind", [nm.DeltaMemory, nm.TitansMemory, nm.SelfModifyingMemory])
def test_masks_that_are_known_to_change_nothing_cost_nothing(kind):
    key, x = jax.eval_shape(lambda: jax.random.key(0)), np.ones((5, WIDTH), np.float32)
    layer = eqx.filter_eval_shape(lambda key: kind(WIDTH, 2, key=key), key)
    masks = {"valid": np.ones(5, bool), "reset": np.zeros(5, bool)}
    program, masked = (
        str(jax.make_jaxpr(lambda layer, x, m=m: layer(x, **m))(layer, x)) for m in ({}, masks)
    )
    assert masked == program
