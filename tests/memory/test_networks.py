"""Memories that are networks equal their definition, wherever a stream is cut, at any rate."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from references.memory_rules import LOSSES, naive_network_scan
from references.memory_rules import read as naive_read

from nestax import memory as nm

EXACT = {"rtol": 1e-10, "atol": 1e-11}
OBJECTIVES = {"dot": "dot", "l2": "l2", "l3": nm.lp(3.0), "huber": nm.huber(0.7)}


def draw(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape))


def uniform(low, high, time, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, time))


def sequence(time=63, key=5, value=4, sizes=(7,)):
    """q, k, v, weights, rate, retain, momentum."""
    inner = (key, *sizes, value)
    weights = tuple(
        draw(rows, columns, seed=i, scale=0.5) for i, (columns, rows) in enumerate(pairwise(inner))
    )
    q, k = draw(time, key, seed=10), draw(time, key, seed=11, scale=0.5)
    v = draw(time, value, seed=12)
    rates = [uniform(*bounds, time, seed=13 + i) for i, bounds in enumerate(BOUNDS)]
    return q, k, v, weights, *rates


BOUNDS = ((0.0, 0.2), (0.8, 1.0), (0.3, 0.9))


# The definition.

CASES = [  # loss, rule, chunk, retain, momentum, read, implicit, skip, hidden sizes, returns
    ("l2", "gd", 16, True, True, "before", True, False, (7,), True),
    ("l2", "gd", 1, True, False, "after", True, False, (7,), False),
    ("dot", "dgd", 16, True, False, "before", True, False, (7,), False),
    ("l2", "dgd", 16, True, True, "after", True, True, (7,), True),
    ("l2", "dgd", 4, True, True, "before", False, False, (7,), False),
    ("huber", "dgd", 16, False, False, "before", True, False, (), False),
    ("l2", "local", 16, True, True, "before", True, False, (7,), True),
    ("l3", "local", 16, True, False, "before", False, False, (7, 6), False),
]


@pytest.mark.parametrize(
    "loss, rule, chunk, retain, momentum, when, implicit, skip, sizes, returns",
    CASES,
    ids=["-".join(map(str, case)) for case in CASES],
)
def test_equals_the_definition_in_outputs_state_and_gradients(
    x64, loss, rule, chunk, retain, momentum, when, implicit, skip, sizes, returns
):
    q, k, v, weights, rate, a, mu = sequence(value=5 if skip else 4, sizes=sizes)
    a, mu = a if retain else None, mu if momentum else None

    def scan(implementation, q, k, v, weights, rate, a, mu):
        outputs, state = nm.network_scan(
            q, k, v, weights, rate, a, mu, OBJECTIVES[loss], rule, None, chunk, when,
            implementation, implicit=implicit, skip=skip, towards=weights if returns else None,
        )  # fmt: skip
        return outputs, state.now, state.surprise

    naive = partial(
        naive_network_scan, loss=loss, rule=rule, chunk=chunk, when=when, implicit=implicit,
        skip=skip, act=jax.nn.silu, returns=returns,
    )  # fmt: skip

    def both(f):
        def loss(*inputs):
            made = f(*inputs)
            return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(made)), made

        inputs = (q, k, v, weights, rate, a, mu)
        return jax.jit(jax.value_and_grad(loss, range(7), has_aux=True))(*inputs)

    expected = both(naive)
    # What is particular to one token after another is where chunks end.
    for implementation in (None, "recurrent") if returns or loss == "l3" else (None,):
        made = both(partial(scan, implementation))
        for x, y in zip(*map(jax.tree.leaves, (made, expected)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("skip", [False, True])
def test_errors_and_inputs_are_the_gradient(x64, loss, skip):
    _, k, v, weights, *_ = sequence(3, 5, 5, (7, 6))
    said = lambda w, k: naive_read(w, k, jax.nn.silu, skip)  # noqa: E731
    slope = jax.grad(lambda w, k, v: LOSSES[loss](said(w, k), v))

    @jax.jit
    def found(weights, k, v):
        pairs = nm.errors(weights, k, v, OBJECTIVES[loss], skip)
        return (
            (pairs, jax.vmap(slope, (None, 0, 0))(weights, k, v)),
            (nm.read_memory(weights, k, skip), jax.vmap(said, (None, 0))(weights, k)),
        )

    slopes, answers = found(weights, k, v)
    for (x, e), expected in zip(*slopes, strict=True):
        np.testing.assert_allclose(np.einsum("ti,tj->tij", e, x), expected, **EXACT)
    np.testing.assert_allclose(*answers, **EXACT)


def test_clipped_errors_are_short_and_small_ones_untouched(x64):
    _, k, v, weights, *_ = sequence(9)
    clipped, top, free, plain = jax.jit(
        lambda *given: (
            nm.errors(*given, clip=0.3),
            nm.errors(*given, nm.huber(0.3)),
            nm.errors(*given, clip=1e3),
            nm.errors(*given),
        )
    )(weights, k, v)
    for _, e in clipped:
        assert np.all(np.linalg.norm(e, axis=1) <= 0.3 * (1 + 1e-12))
    np.testing.assert_allclose(clipped[1][1], top[1][1], **EXACT)
    for found, expected in zip(free, plain, strict=True):
        np.testing.assert_array_equal(found[1], expected[1])


# What it is for one matrix.


def test_a_chunk_of_one_token_is_the_rule(x64):
    q, k, v, _, rate, a, _ = sequence(9)
    m = draw(4, 5)
    for rule in ("gd", "dgd"):
        write = partial(nm.write, objective="l2", rule=rule)
        expected, last = jax.jit(partial(nm.scan_rule, write))(q, k, v, m, rate=rate, retain=a)
        scan = jax.jit(partial(nm.network_scan, rule=rule, chunk=1))
        outputs, state = scan(q, k, v, (m,), rate, a)
        np.testing.assert_allclose(outputs, expected, **EXACT)
        np.testing.assert_allclose(state.now[0], last, **EXACT)
        if rule == "gd":
            plain = outputs
    local = jax.jit(partial(nm.network_scan, rule="local", implicit=False, chunk=1))
    np.testing.assert_allclose(local(q, k, v, (m,), rate, a)[0], plain, **EXACT)


def test_the_local_rule_makes_a_linear_memory_exact_at_every_chunk(x64):
    """The delta rule, and Titans with momentum, though gradients are frozen for a chunk."""
    q, k, v, _, rate, a, mu = sequence(23)
    m = draw(4, 5)
    zero = jnp.zeros_like(m)
    options = {"rule": "local", "chunk": 8, "implicit": False}
    local = partial(jax.jit(partial(nm.network_scan, **options)), q, k, v, (m,), rate, a)
    delta, _ = jax.jit(partial(nm.scan_rule, nm.delta))(q, k, v, m, rate=rate, retain=a)
    np.testing.assert_allclose(local()[0], delta, **EXACT)
    step = jax.jit(partial(nm.scan_rule, nm.titans_rule))
    titans, _ = step(q, k, v, (m, zero), rate=rate, retain=a, momentum=mu)
    np.testing.assert_allclose(local(mu)[0], titans, **EXACT)


def test_a_frozen_chunk_of_hopes_memory_is_the_gated_delta_rule(x64):
    """With b = eta / a and values a (v - M_0 k); the dot product needs no freezing."""
    q, k, v, _, rate, a, _ = sequence(9)
    m = draw(4, 5)
    for objective, written in (("l2", v - k @ m.T), ("dot", v)):
        expected, _ = nm.scan_rule(
            nm.gated_delta, q, k, a[:, None] * written, m, rate=rate / a, retain=a
        )
        options = {"objective": objective, "rule": "dgd", "implicit": False, "chunk": 9}
        outputs, _ = jax.jit(partial(nm.network_scan, **options))(q, k, v, (m,), rate, a)
        np.testing.assert_allclose(outputs, expected, **EXACT)


# Streams.


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("implementation", [None, "recurrent"])
def test_a_stream_can_be_cut_anywhere(usual_loops, x64, momentum, implementation):
    q, k, v, weights, rate, a, mu = sequence(21)
    pieces = (q, k, v, rate, a, mu if momentum else None)
    options = {"rule": "dgd", "chunk": 8, "skip": False, "implementation": implementation}

    @jax.jit
    def run(pieces, state):
        q, k, v, rate, a, mu = pieces
        return nm.network_scan(q, k, v, weights, rate, a, mu, state=state, **options)

    whole, end = run(pieces, None)
    fresh = nm.network_state(weights, momentum)
    for cuts in ((0, 5, 21), (0, 0, 16, 21), (0, 5, 6, 7, 12, 17, 18, 19, 20, 21)):
        state, outputs = fresh, []
        for low, high in pairwise(cuts):
            piece = jax.tree.map(lambda a, low=low, high=high: a[low:high], pieces)
            made, state = run(piece, state)
            outputs.append(made)
        np.testing.assert_allclose(jnp.concatenate(outputs), whole, **EXACT)
        assert jax.tree.structure(state) == jax.tree.structure(end)
        for x, y in zip(*map(jax.tree.leaves, (state, end)), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, **EXACT)
    assert int(end.position) == 21 % 8


@pytest.mark.parametrize("read", ["before", "after"])
def test_nothing_is_read_before_it_is_said(x64, read):
    """At chunks that the tokens do not fill, and of more tokens than there are."""
    q, k, v, weights, rate, a, mu = sequence(3)

    @partial(jax.jit, static_argnums=3)
    def slopes(k, v, rate, chunk):
        def outputs(k, v, rate):
            options = {"rule": "local", "chunk": chunk, "read": read}
            return nm.network_scan(q, k, v, weights, rate, a, mu, **options)[0]

        return jax.jacrev(outputs, range(3))(k, v, rate)

    for chunk in (2, 4):
        for slope in slopes(k, v, rate, chunk):
            moved = np.any(np.asarray(slope).reshape(3, 4, 3, -1) != 0, axis=(1, 3))
            earlier = np.tril(np.ones((3, 3), bool), -(read == "before"))
            np.testing.assert_array_equal(moved, earlier)


# Training through the writes.


@pytest.mark.parametrize("rule", ["gd", "dgd", "local"])
def test_gradients_reach_every_starting_matrix_and_have_gradients(x64, rule):
    """Of what is read after a cut within a chunk, by differences."""
    loss, weights, direction = after_a_cut(rule)
    valued = jax.jit(jax.value_and_grad(loss))
    for i, slope in enumerate(valued(weights)[1]):

        def moved(h, i=i):
            return tuple(w + h * direction[i] if j == i else w for j, w in enumerate(weights))

        difference = (valued(moved(1e-5))[0] - valued(moved(-1e-5))[0]) / 2e-5
        assert abs(difference) > 1e-3
        np.testing.assert_allclose(jnp.vdot(slope, direction[i]), difference, rtol=1e-6)
    if rule != "local":
        return
    product = jax.jit(jax.grad(lambda w: jax.jvp(loss, (w,), (direction,))[1]))(weights)
    ahead, behind = (
        valued(jax.tree.map(lambda w, d, h=h: w + h * d, weights, direction))[1]
        for h in (1e-5, -1e-5)
    )
    for p, x, y in zip(product, ahead, behind, strict=True):
        np.testing.assert_allclose(p, (x - y) / 2e-5, rtol=1e-5, atol=1e-6)


def after_a_cut(rule):
    """What is read after it, as a function of the weights before; a point and a direction."""
    q, k, v, weights, rate, a, mu = sequence(11)

    def loss(weights):
        def piece(i, state):
            pieces = (x[i] for x in (q, k, v))
            rates = (x[i] for x in (rate, a, mu))
            return nm.network_scan(*pieces, weights, *rates, "l2", rule, state, chunk=4)

        _, state = piece(slice(0, 3), None)
        return jnp.sum(jnp.sin(piece(slice(3, None), state)[0]))

    return loss, weights, tuple(draw(*w.shape, seed=20 + i) for i, w in enumerate(weights))


def test_batches_are_vmap():
    q, k, v, weights, rate, a, mu = sequence(21)
    run = jax.jit(lambda q, state: nm.network_scan(q, k, v, None, rate, a, mu, state=state))
    first = jax.tree.map(lambda a: a[:3], (q, k, v, rate, a, mu))
    begin = jax.jit(lambda q, k, v, *rates: nm.network_scan(q, k, v, weights, *rates)[1])
    state = begin(*first)
    many = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    outputs, states = jax.vmap(run)(jnp.stack([q, -q]), many)
    for i, one in enumerate((q, -q)):
        expected, last = run(one, state)
        np.testing.assert_allclose(outputs[i], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(states.position[i], last.position)


def test_half_precision_is_remembered_in_single():
    q, k, v, weights, *_ = jax.tree.map(lambda a: a.astype(jnp.bfloat16), sequence(9))
    scan = jax.jit(partial(nm.network_scan, rate=0.1, momentum=0.5))
    outputs, state = scan(q, k, v, weights)
    assert outputs.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(state[:3])} == {jnp.dtype(jnp.float32)}


# Stability: four pairs, with keys of norm one, shown again and again.


def shown_again(weights, rate, objective, rule, chunk, scale=1.0, **options):
    """Outputs and values of 8,192 tokens."""
    pick = np.random.default_rng(3).integers(0, 4, 8192)
    pool = draw(4, 8, seed=4)
    keys = (pool / jnp.linalg.norm(pool, axis=1, keepdims=True))[pick] * scale
    values = draw(4, 8, seed=5)[pick]

    run = partial(
        jax.jit(nm.network_scan, static_argnames=("objective", "rule", "chunk")),
        objective=objective, rule=rule, chunk=chunk, **options,
    )  # fmt: skip
    return run(keys, keys, values, weights, rate)[0], values


LINEAR = (np.zeros((8, 8), np.float32),)


def mlp():
    return (draw(32, 8, seed=6) / 8**0.5, draw(8, 32, seed=7) / 32**0.5)


STABLE = [  # objective, rule, chunk, rates, limit; None: bounded only
    ("l2", "local", 64, (0.1, 1.0, 100.0), 1.0),
    ("dot", "dgd", 64, (0.1, 1.0, 100.0), 1.0),
    ("l2", "dgd", 16, (0.1, 1.0), 0.5),
    ("l2", "dgd", 64, (1.0, 100.0), None),
    ("l2", "gd", 64, (0.5 / 64,), 1.0),
]


@pytest.mark.parametrize("objective, rule, chunk, rates, limit", STABLE)
def test_a_linear_memory_of_repeated_keys(objective, rule, chunk, rates, limit):
    weights = tuple(map(jnp.asarray, LINEAR))
    for rate in rates:
        outputs, values = shown_again(weights, jnp.asarray(rate), objective, rule, chunk)
        assert jnp.max(jnp.abs(outputs)) < 10
        if limit is not None:
            np.testing.assert_allclose(outputs[-99:], limit * values[-99:], atol=5e-3)


def test_plain_descent_diverges_where_a_chunk_takes_too_much():
    weights = tuple(map(jnp.asarray, LINEAR))
    outputs, _ = shown_again(weights, jnp.asarray(0.5), "l2", "gd", 64)
    assert not jnp.all(jnp.isfinite(outputs))
    outputs, _ = shown_again(weights, jnp.asarray(0.5), "l2", "gd", 64, clip=1.0)
    assert jnp.max(jnp.abs(outputs)) < 100


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_local_rule_of_an_mlp_learns_repeated_keys(scale):
    for rate in (0.1, 1.0):
        outputs, values = shown_again(mlp(), jnp.asarray(rate), "l2", "local", 64, scale)
        assert jnp.max(jnp.abs(outputs)) < 500
        assert jnp.mean(jnp.abs(outputs[-512:] - values[-512:])) < 0.1


@pytest.mark.parametrize("objective, rule", [("l2", "local"), ("l2", "dgd"), ("dot", "dgd")])
def test_an_mlp_with_clipped_errors_is_bounded_at_every_rate(objective, rule):
    for rate in (1.0, 100.0):
        outputs, _ = shown_again(mlp(), jnp.asarray(rate), objective, rule, 64, clip=1.0)
        assert jnp.max(jnp.abs(outputs)) < 10


def test_momentum_with_delta_gradient_descent_counts_writes_again(x64):
    """What momentum multiplies is written, not forgotten: v / (1 - mu) for dot, v / (2 - mu)."""
    k, v = np.ones((2000, 1)), np.ones((2000, 1))
    for objective, limit in (("dot", 1 / (1 - 0.6)), ("l2", 1 / (2 - 0.6))):
        options = {"momentum": 0.6, "objective": objective, "rule": "dgd", "chunk": 1}
        scan = jax.jit(lambda k, v, w, o=options: nm.network_scan(k, k, v, (w,), 0.1, **o))
        outputs, _ = scan(k, v, np.zeros((1, 1)))
        np.testing.assert_allclose(outputs[-1], [limit], rtol=1e-8)


# Refusals.


def test_refusals():
    q, k, v, weights, rate, _, mu = sequence(4)
    scan = partial(nm.network_scan, q, k, v, weights, rate)
    for match, call in {
        "objective must be": lambda: scan(objective="cosine"),
        "rule must be": lambda: scan(rule="delta"),
        "read must be": lambda: scan(read="during"),
        "implementation must be": lambda: scan(implementation="fast"),
        "chunk must be": lambda: scan(chunk=0),
        "chunk must be a number of tokens": lambda: scan(chunk=True),
        "surprise exactly where": lambda: scan(momentum=mu, state=nm.network_state(weights)),
        "begins with weights": lambda: nm.network_scan(q, k, v, None, rate),
        "lead from 5 keys to 4 values": lambda: nm.network_scan(q, k, v, weights[::-1], rate),
        "skip adds": lambda: scan(skip=True),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": jnp.ones((5, 2))}, r"q and k must be \(time, key\), both alike"),
        ({"k": jnp.ones((4, 3))}, r"got \(5, 3\), \(4, 3\)"),
        ({"v": jnp.ones(5)}, r"v \(time, value\)"),
        ({"clip": -1.0}, "clip must be above 0, or None"),
        (
            {"rate": jnp.ones(4)},
            r"network_scan: rate must be a number or .* shape \(5,\), got \(4,\)",
        ),
        ({"rate": jnp.ones(1)}, "network_scan: rate must be a number"),
        ({"retain": jnp.ones(4)}, "network_scan: retain must be a number"),
        ({"read": "during"}, "network_scan: read must be"),
        ({"v": jnp.ones((5, 3), jnp.int32)}, "floating point, got float32, float32, int32"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    sound = {"q": jnp.ones((5, 3)), "k": jnp.ones((5, 3)), "v": jnp.ones((5, 3)), "rate": 0.1}
    with pytest.raises(ValueError, match=message):
        nm.network_scan(**{**sound, **change}, weights=(jnp.eye(3),))


def test_no_derivative_is_taken_where_there_is_no_token():
    """Of |M k - v|, which has none at zero, in chunks that the tokens do not fill."""
    length = lambda said, value: (said - value) / jnp.linalg.norm(said - value)  # noqa: E731
    q, k, v = jax.random.normal(jax.random.key(0), (3, 10, 3))

    def total(given, cuts):
        q, k, v = given
        state, sums = nm.network_state((jnp.eye(3),)), 0.0
        for a, b in cuts:
            told = (q[a:b], k[a:b], v[a:b])
            made, state = nm.network_scan(
                *told, None, 0.1, None, None, length, state=state, chunk=4
            )
            sums = sums + jnp.sum(made)
        return sums + jnp.sum(state.now[0])

    for cuts in (((0, 10),), ((0, 2), (2, 9), (9, 10))):
        gradients = jax.jit(jax.grad(total), static_argnums=1)((q, k, v), cuts)
        assert all(jnp.isfinite(g).all() for g in gradients)
