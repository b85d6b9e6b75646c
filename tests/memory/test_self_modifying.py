"""Memories that modify themselves against a loop, their bounds, and what they can represent."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modules import redrawn, run, slopes
from references.memory_layers import naive_self_modifying

from nestax.memory.layers import SelfModifyingMemory
from nestax.memory.layers._self_writing import limited

WIDTH, TIME = 4, 11
OPTIONS = {
    "token by token": {"chunk": 1},
    "short for itself": {"chunk": 2, "chunk_others": 4},
    "short for others": {
        "chunk": 4, "chunk_others": 2, "objective": "l2", "rule": "gd", "momentum": True,
    },
    "all adaptive": {
        "chunk": 4, "adaptive": ("k", "v", "q", "rate", "retain"), "read": "after", "conv": None,
    },
    "no skip": {"chunk": 4, "skip": False, "limit": float("inf"), "objective": "l2"},
    "static": {"chunk": 4, "adaptive": (), "decay": False, "max_rate": 1.0},
    "mlp": {
        "chunk": 2, "chunk_others": 4, "memory": "mlp", "objective": "l2", "momentum": True,
        "adaptive": ("rate",),
    },
    "mlp, no skip": {"chunk": 4, "memory": "mlp", "skip": False, "adaptive": ("k", "v")},
}  # fmt: skip


def make(name, seed=0, width=WIDTH, scale=1.0, **more):
    """A layer all of whose parameters are drawn anew, none zero."""
    options = {**OPTIONS[name], **more}
    layer = SelfModifyingMemory(width, 2, **options, key=jax.random.key(seed))
    return redrawn(layer, 0.5, seed, scale)


def sequence(time=TIME, width=WIDTH, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(time, width)))


@functools.cache
def one_pass(name):
    with jax.enable_x64(True):
        return slopes(make(name), sequence())


def same(a, b, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-11), a, b)


def equals_the_loop(layer, y, state):
    expected, memories = naive_self_modifying(layer, np.asarray(sequence()))
    same(y, expected)
    assert state.now.keys() == memories.keys()
    for box, matrices in memories.items():
        same(list(state.now[box]), matrices)


# Of these the gradients are those of the others.
VALUES = ("token by token", "mlp, no skip")


@pytest.mark.parametrize("name", VALUES)
def test_equals_a_loop_in_outputs_and_state(x64, name):
    layer = make(name)
    equals_the_loop(layer, *run(layer, sequence()))


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in VALUES])
def test_equals_a_loop_in_outputs_state_and_gradients_and_is_causal(x64, name):
    """Gradients against central differences of the loop, of every parameter."""
    layer, x = make(name), np.asarray(sequence())
    y, state, (by_layer, by_x) = one_pass(name)
    equals_the_loop(layer, y, state)
    rng = np.random.default_rng(2)
    seen = rng.normal(size=x.shape)
    gradient = jax.tree.map(lambda a: np.tensordot(seen.ravel(), a, 1), by_layer)
    paths, treedef = jax.tree.flatten_with_path(jax.tree.map(np.asarray, layer))
    leaves = [a for _, a in paths]
    for i, ((path, _), slope) in enumerate(zip(paths, jax.tree.leaves(gradient), strict=True)):
        direction = rng.normal(size=slope.shape)

        def moved(step, i=i, direction=direction):
            other = [a + step * direction if j == i else a for j, a in enumerate(leaves)]
            return np.sum(naive_self_modifying(treedef.unflatten(other), x)[0] * seen)

        assert np.any(slope), path
        difference = (moved(1e-6) - moved(-1e-6)) / 2e-6
        np.testing.assert_allclose(np.sum(slope * direction), difference, rtol=1e-5, atol=1e-8)
    # Outputs depend on all tokens until their own, and on no later ones.
    depends = np.any(np.reshape(by_x, (TIME, WIDTH, TIME, WIDTH)) != 0, axis=(1, 3))
    np.testing.assert_array_equal(depends, np.tril(np.ones((TIME, TIME), bool)))


def test_every_entry_of_every_initial_memory_is_meta_learnt(x64):
    """At the values the layer itself begins with, against central differences."""
    layer = SelfModifyingMemory(WIDTH, 2, **OPTIONS["short for itself"], key=jax.random.key(3))
    assert set(layer.initial) == {"k", "v", "rate", "retain", "memory"}
    x, plain = sequence(), jax.tree.map(np.asarray, layer)
    y, _, (by_layer, _) = slopes(plain, x)
    weights = np.cos(y).ravel()

    def moved(box, place, step):
        matrix = plain.initial[box][0].copy()
        matrix[place] += step
        initial = {**plain.initial, box: (matrix,)}
        other = eqx.tree_at(lambda layer: layer.initial, plain, initial)
        return np.sum(np.sin(naive_self_modifying(other, np.asarray(x))[0]))

    for box, (by_box,) in by_layer.initial.items():
        slope = np.tensordot(weights, by_box, 1)
        assert np.all(slope != 0)
        for place in np.ndindex(slope.shape):
            difference = (moved(box, place, 1e-5) - moved(box, place, -1e-5)) / 2e-5
            np.testing.assert_allclose(slope[place], difference, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["short for itself", "short for others", "mlp, no skip"])
def test_a_stream_cut_anywhere_is_one_pass(x64, name):
    """Pieces shorter and longer than a chunk, of no and of one token, from all places in one."""
    layer, x = make(name), sequence()
    whole, end = run(layer, x) if name in VALUES else one_pass(name)[:2]
    long = [5, 5, 10] if "short" in name else [3, 6, 9, 10]
    for cuts in (long, range(1, TIME)):
        state, made = layer.init_state(), []
        for piece in np.split(x, np.array(cuts)):
            shapes = jax.tree.map(lambda a: (a.shape, a.dtype), state)
            y, state = run(layer, piece, state)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == shapes
            made.append(y)
        same(np.concatenate(made), whole)
        same(state, end)


def test_samples_of_a_batch_do_not_touch_each_other(x64):
    layer, batch = make("short for itself"), np.stack([sequence(seed=s) for s in (1, 2)])
    both, states = jax.jit(jax.vmap(layer))(batch)
    for i in range(2):
        y, state, _ = slopes(layer, batch[i])
        same(both[i], y)
        same(jax.tree.map(lambda a, i=i: a[i], states), state)


def cast(layer, dtype):
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a), dtype), layer)


@pytest.mark.parametrize("name", ["short for itself", "mlp"])
def test_half_precision_parameters_have_single_precision_states(name):
    with jax.enable_x64(True):
        layer, exact = make(name), one_pass(name)[0]
    half, x = cast((layer, sequence()), jnp.bfloat16)
    y, state = run(half, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, float), exact, atol=0.1 * np.max(np.abs(exact)))
    begin = jax.eval_shape(half.init_state)
    for old, new in zip(*map(jax.tree.leaves, (begin, state)), strict=True):
        assert old.dtype == new.dtype and old.dtype in (jnp.float32, jnp.int32)


def test_states_keep_their_precision_whatever_that_of_the_tokens_is(x64):
    layer = cast(make("short for itself"), jnp.float32)
    y, state = run(layer, sequence())
    assert y.dtype == jnp.float64
    assert all(a.dtype in (jnp.float32, jnp.int32) for a in jax.tree.leaves(state))


@pytest.mark.parametrize("memory", ["linear", "mlp"])
def test_many_tokens_and_large_weights_stay_finite(memory):
    own = ("k", "v", "rate", "retain") if memory == "linear" else ("v",)
    layer = SelfModifyingMemory(16, 2, memory=memory, adaptive=own, key=jax.random.key(0))
    layer = jax.tree.map(lambda a: 3 * np.asarray(a), layer)
    x = sequence(8192, 16).astype(jnp.float32)

    def loss(layer):
        y, state = layer(x)
        return jnp.mean(jnp.square(y)), (y, state)

    (_, made), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(layer)
    for leaf in jax.tree.leaves((made, gradient)):
        assert np.all(np.isfinite(leaf))


def test_errors_are_shortened_smoothly():
    sizes = np.array([[1e-3], [1], [10], [1e9], [0]])
    e = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)) * sizes)
    made = jax.jit(lambda e: limited(e, 2.0))(e)
    assert np.all(np.linalg.norm(made, axis=1) <= 2.0)
    np.testing.assert_allclose(made[0], e[0], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made[3]), 2.0, rtol=1e-5)
    np.testing.assert_array_equal(limited(e, float("inf")), e)


@pytest.mark.parametrize("rule", ["dgd", "gd"])
@pytest.mark.parametrize("objective", ["dot", "l2"])
def test_no_write_makes_a_memory_larger_than_the_bound_says(x64, objective, rule):
    """|W_t| <= |W_{t-1}| + max_rate limit, at every token and for any weights."""
    layer = make("short for itself", scale=20.0, objective=objective, rule=rule, limit=0.5)
    x, state = 10 * np.asarray(sequence(24)), layer.init_state()
    sizes = []
    for token in x:
        norms = [np.linalg.norm(m, ord=2, axis=(1, 2)) for (m,) in state.now.values()]
        sizes.append(np.array(norms))
        _, state = run(layer, token[None], state)
    grown = np.diff(np.array(sizes), axis=0)
    assert np.max(grown) <= 2 * 0.5 + 1e-9 and np.max(grown) > 0.03


def test_erasing_twice_settles():
    """With "l2" and "dgd" both the loss and the rule erase. At three quarters of the greatest rate
    one pair, shown again and again, is learnt: the memory does not swing about it."""
    layer = SelfModifyingMemory(
        WIDTH, 2, objective="l2", chunk=1, adaptive=(), conv=None, key=jax.random.key(0)
    )
    nothing = {box: np.zeros_like(layer.skips[box]) for box in ("v", "rate", "retain")}
    layer = eqx.tree_at(
        lambda layer: (layer.skips, layer.rate_bias),
        layer,
        ({**layer.skips, **nothing}, np.full(2, np.log(3.0), np.float32)),
    )
    x = np.tile(np.asarray(sequence(1), np.float32), (200, 1))
    _, before = run(layer, x)
    _, after = run(layer, x[:1], before)
    (old,), (new,) = before.now["memory"], after.now["memory"]
    assert np.all(np.max(np.abs(old), axis=(1, 2)) > 0.1)
    np.testing.assert_allclose(new, old, atol=1e-3)


def test_without_skip_all_linear_memories_are_moved_by_one_matrix(x64):
    """M_b,t = M_b,0 A_t: what `skip` is for."""
    layer = make("no skip", objective="dot", adaptive=("k", "v", "q", "rate", "retain"))
    _, state = run(layer, sequence())
    start, end = layer.initial, state.now
    for h in range(2):
        moved = np.linalg.solve(start["v"][0][h], end["v"][0][h])
        for box in end:
            same(end[box][0][h], start[box][0][h] @ moved, rtol=1e-7)


@pytest.mark.parametrize("chunks", [(1, 1), (16, 4)])
def test_it_can_represent_parity(chunks):
    """An eigenvalue of -1 along one key, at every token 1: nothing else is needed."""
    chunk, others = chunks
    options = {"decay": False, "conv": None, "chunk": chunk, "chunk_others": others}
    build = eqx.filter_jit(lambda key: SelfModifyingMemory(2, 1, **options, key=key))
    layer = build(jax.random.key(0))
    array = lambda *rows: np.array(rows, np.float32)  # noqa: E731
    nothing = jax.tree.map(np.zeros_like, layer.initial)
    first = array([[1e3, 1e3], [0, 0]])
    set_by_hand = {
        "into": array([1e3, 0], [0, 1e3], [1e3, 1e3], [0, 0]),
        "initial": {**nothing, "memory": (array([[0.0, 0], [1, 0]]),)},
        "skips": {
            **layer.skips,
            "k": first,  # every token has the same key
            "v": array([[0, 0], [0, 0]]),  # nothing is written
            "rate": array([[-50.0, 50]]),  # 1 erases twice what is there, 0 nothing
        },
        "rate_bias": array(0),
        "output": eqx.tree_at(
            lambda o: (o.gate, o.out), layer.output, (array([1, 1], [1, 1]), array([1, 0], [0, 1]))
        ),
    }
    layer = eqx.tree_at(
        lambda layer: [getattr(layer, name) for name in set_by_hand],
        layer,
        list(set_by_hand.values()),
    )
    bits = np.random.default_rng(0).integers(2, size=500)
    y, _ = run(layer, np.eye(2, dtype=np.float32)[bits])
    before = np.concatenate([[0], np.cumsum(bits)[:-1]]) % 2
    np.testing.assert_array_equal(y[:, 1] < 0, before == 1)
    np.testing.assert_allclose(np.abs(y[:, 1]), np.abs(y[0, 1]), rtol=1e-3)


def test_at_first_it_is_nearly_a_gated_delta_net():
    """Adaptive or not makes a small difference before training, and rates and decay are small."""
    adaptive = SelfModifyingMemory(16, 2, key=jax.random.key(0))
    static = SelfModifyingMemory(16, 2, adaptive=(), key=jax.random.key(0))
    for box, skip in static.skips.items():
        np.testing.assert_array_equal(skip, adaptive.skips[box])
    x = sequence(20, 16).astype(jnp.float32)
    (a, _), (b, _) = run(adaptive, x), run(static, x)
    assert np.linalg.norm(a - b) < 0.3 * np.linalg.norm(a)


def test_wrong_arguments_are_refused():
    key = jax.random.key(0)
    for options, message in (
        ({"heads": 3}, "heads must divide the width"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"memory": "deep"}, "memory must be one of .*deep"),
        ({"objective": "l3"}, "objective must be one of .*l3"),
        ({"rule": "x"}, "rule must be one of .*x"),
        ({"read": "never"}, "read must be one of .*never"),
        ({"adaptive": ("memory",)}, "adaptive must be a sequence of some of"),
        ({"adaptive": "k"}, "adaptive must be a sequence of some of"),
        ({"chunk": 4, "chunk_others": 6}, "must divide the other, got 4 and 6"),
        ({"max_rate": 2.5}, "max_rate must be above 0 and at most 2"),
        ({"limit": 0.0}, "limit must be above 0"),
    ):
        with pytest.raises(ValueError, match=f"SelfModifyingMemory: .*{message}"):
            SelfModifyingMemory(WIDTH, **{"heads": 2, **options}, key=key)
    with pytest.raises(ValueError, match="SelfModifyingMemory: one sequence of shape"):
        SelfModifyingMemory(WIDTH, 2, key=key)(jnp.zeros((5, 7)))
