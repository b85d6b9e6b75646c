"""The multi-timescale wrapper against a naive loop, a nest, and the plain optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.optim import GatheredState, multi_timescale

PERIODS = {"fast": 1, "mid": 3, "slow": 4}
SHAPES = {"fast": (3, 2), "mid": (2,), "slow": ()}
RATES = {"fast": 0.1, "mid": 0.2, "slow": 0.05}
both = pytest.mark.parametrize("accumulate", ["mean", "sum"])


def params(dtype=None):
    return {name: jnp.ones(shape, dtype) for name, shape in SHAPES.items()}


def stream(steps, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(steps, *shape)) for name, shape in SHAPES.items()}


def trajectory(tx, gradients, p=None):
    """All updates along a stream, and the last state, with the parameters moving."""
    p = params() if p is None else p

    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p)
        return (optax.apply_updates(p, updates), state), updates

    start = (p, tx.init(p))
    (_, state), updates = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(start, gradients)
    return updates, state


def close(a, b, rtol=1e-10):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-14), a, b)


@both
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_equals_the_naive_loop(x64, accumulate, momentum):
    gradients = stream(13)
    optimizers = {name: optax.sgd(rate, momentum=momentum) for name, rate in RATES.items()}
    updates, _ = trajectory(multi_timescale(optimizers, PERIODS, None, accumulate), gradients)
    for name, period in PERIODS.items():
        gathered, memory = np.zeros(SHAPES[name]), np.zeros(SHAPES[name])
        for t in range(13):
            gathered = gathered + gradients[name][t]
            expected = np.zeros(SHAPES[name])
            if (t + 1) % period == 0:
                seen = gathered / period if accumulate == "mean" else gathered
                memory = (momentum or 0) * memory + seen
                expected, gathered = -RATES[name] * memory, np.zeros(SHAPES[name])
            np.testing.assert_allclose(updates[name][t], expected, rtol=1e-10, atol=1e-14)


@both
def test_equals_a_nest_of_peers(x64, accumulate):
    """Blocks of one model as levels: the same gradients, gathered, and moved at the same ticks."""
    periods = {"fast": 1, "mid": 2, "slow": 4}
    start = {name: 0.3 * np.eye(3) + 0.1 * i for i, name in enumerate(periods)}

    def loss(values, batch):
        hidden = batch
        for name in periods:
            hidden = hidden + jnp.tanh(hidden @ values[name])
        return jnp.mean(jnp.square(hidden - 1))

    task = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    rules = {name: optax.adam(RATES[name]) for name in periods}
    levels = [
        nx.Level(name, loss, rules[name], every=every, accumulate=accumulate)
        for name, every in periods.items()
    ]
    nest = nx.Nest([tuple(levels)], task, order="simultaneous")
    state = nest.init(jax.tree.map(jnp.asarray, start), jax.random.key(0))

    tx = multi_timescale(rules, periods, accumulate=accumulate)

    @jax.jit
    def tick(p, opt):
        updates, opt = tx.update(jax.grad(loss)(p, task), opt, p)
        return optax.apply_updates(p, updates), opt

    p = jax.tree.map(jnp.asarray, start)
    opt = tx.init(p)
    for t in range(12):
        before = p
        p, opt = tick(p, opt)
        for name, every in periods.items():
            moved = not np.array_equal(p[name], before[name])
            assert moved == ((t + 1) % every == 0), (name, t)
        if (t + 1) % 4 == 0:
            state, _ = nest.step(state)
            close(dict(state.values), p)


@pytest.mark.parametrize("make", [lambda: optax.adamw(0.1), lambda: optax.sgd(0.1, momentum=0.9)])
def test_period_one_is_the_plain_optimizer(make):
    gradients = jax.tree.map(jnp.float32, stream(5))
    plain, plain_state = trajectory(make(), gradients)
    updates, state = trajectory(multi_timescale(make(), {"": 1}), gradients)
    jax.tree.map(np.testing.assert_array_equal, updates, plain)
    held = state.inner_states[""].inner_state
    assert jax.tree.structure(held) == jax.tree.structure(plain_state)
    jax.tree.map(np.testing.assert_array_equal, held, plain_state)


def test_every_way_to_label():
    p = {"blocks": [{"w": jnp.ones(2), "b": jnp.ones(1)}] * 2, "head": {"w": jnp.ones(3)}}
    g = jax.tree.map(lambda x: 2 * x, p)
    labels = [
        {"blocks": [{"w": "a", "b": "c"}, {"w": "b", "b": "c"}], "head": {"w": "c"}},
        lambda path, leaf: (
            "c" if path.endswith("b") or leaf.shape == (3,) else "ab"[path == "blocks/1/w"]
        ),
    ]
    periods = {"a": 2, "b": 3, "c": 1}
    patterns = {"^blocks/0/w$": 2, "blocks/1/w": 3, "": 1}
    every = [multi_timescale(1.0, periods, label) for label in labels]
    for tx in [*every, multi_timescale(1.0, patterns)]:
        state, moved = tx.init(p), []
        for _ in range(3):
            updates, state = tx.update(g, state)
            moved.append([bool(np.any(u)) for u in jax.tree.leaves(updates)])
        # Leaves: blocks/0/b, blocks/0/w, blocks/1/b, blocks/1/w, head/w.
        assert moved == [
            [True, False, True, False, True],
            [True, True, True, False, True],
            [True, False, True, True, True],
        ]
    # A label for a whole subtree, and the first pattern that is found.
    for tx in (
        multi_timescale(1.0, {"a": 2, "c": 1}, {"blocks": "a", "head": "c"}),
        multi_timescale(1.0, {"blocks": 2, "w": 1}),
    ):
        updates, _ = tx.update(g, tx.init(p))
        assert [bool(np.any(u)) for u in jax.tree.leaves(updates)] == [False] * 4 + [True]


def test_rates_and_optimizers_mix(x64):
    gradients = stream(8)
    mixed = {"fast": 0.1, "mid": optax.adam(0.2), "slow": lambda count: 0.5 / (1 + count)}
    updates, _ = trajectory(multi_timescale(mixed, PERIODS), gradients)
    np.testing.assert_allclose(updates["fast"], -0.1 * gradients["fast"], rtol=1e-10)
    means = gradients["slow"].reshape(2, 4).mean(1)
    # The schedule counts the partition's own updates.
    np.testing.assert_allclose(updates["slow"][3::4], -means * [0.5, 0.25], rtol=1e-10)
    adam, _ = trajectory(
        optax.adam(0.2), gradients["mid"][:6].reshape(2, 3, 2).mean(1), jnp.ones(2)
    )
    np.testing.assert_allclose(updates["mid"][2:6:3], adam, rtol=1e-10)


def test_weights_decay_once_a_period(x64):
    tx = multi_timescale(optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1)), {"": 3})
    p = jnp.asarray([2.0, -4.0])
    updates, _ = trajectory(tx, jnp.zeros((4, 2)), p)
    np.testing.assert_allclose(updates, [0 * p, 0 * p, -0.05 * p, 0 * p], rtol=1e-12)


def test_extra_arguments_reach_the_optimizer():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: value * jnp.ones_like(g), updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = multi_timescale(tx, {"": 2})
    g, seen = jnp.ones(2), []
    state = tx.init(g)
    for value in (1.0, 2.0, 3.0, 4.0):
        updates, state = jax.jit(tx.update)(g, state, value=value, unheard_of=0)
        seen.append(float(updates[0]))
    assert seen == [0, 2, 0, 4]


def test_one_period_that_is_not_finite_does_not_spoil_the_next():
    gradients = jnp.asarray([1.0, jnp.inf, 1.0, 3.0])
    updates, _ = trajectory(multi_timescale(1.0, {"": 2}), gradients, jnp.zeros(()))
    np.testing.assert_array_equal(updates, [0, -np.inf, 0, -2])


@both
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtypes(x64, accumulate, dtype):
    p = params(dtype)
    tx = multi_timescale(optax.adam(0.1), PERIODS, accumulate=accumulate)
    state = tx.init(p)
    update = jax.jit(tx.update)
    gathered = state.inner_states["mid"].inner_state.gathered["mid"]
    assert gathered.dtype == jnp.promote_types(dtype, jnp.float32)
    for _ in range(5):
        updates, new = update(p, state, p)
        assert all(u.dtype == dtype for u in jax.tree.leaves(updates))
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)
        state = new


def test_many_small_gradients_of_half_precision_are_not_lost():
    """257 is no bfloat16: a sum kept in it would stay at 256."""
    tx = multi_timescale(1.0, {"": 300}, accumulate="sum")
    updates, _ = trajectory(tx, jnp.ones((300, 1), jnp.bfloat16), jnp.zeros(1, jnp.bfloat16))
    assert updates[-1] == -300


@both
def test_copies_at_different_phases(x64, accumulate):
    """Side by side, each with a clock of its own."""
    gradients = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)))
    tx = multi_timescale(optax.sgd(0.1, momentum=0.9), {"": 4}, accumulate=accumulate)
    ahead = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))[1]
    states = [tx.init(jnp.ones(3)), ahead]

    def run(state, g):
        return jax.lax.scan(lambda s, x: tx.update(x, s)[::-1], state, g)[1]

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    together = jax.jit(jax.vmap(run))(stacked, gradients)
    for i in range(2):
        np.testing.assert_allclose(together[i], run(states[i], gradients[i]), rtol=1e-12)
        assert [bool(np.any(u)) for u in together[i]] == [t == 3 - i for t in range(6)]


def test_wrappers_and_empty_trees():
    p = params()
    inner = multi_timescale(0.1, {"fast": 1, "": 2})
    wrapped = [
        optax.chain(optax.clip_by_global_norm(1.0), inner),
        optax.masked(inner, {"fast": True, "mid": False, "slow": True}),
        optax.masked(
            multi_timescale(0.1, {"a": 2, "c": 1}, {"fast": "c", "mid": "a", "slow": "a"}),
            {"fast": True, "mid": False, "slow": True},
        ),
        optax.apply_if_finite(inner, 2),
        multi_timescale(inner, {"slow": 2, "": 1}),
    ]
    for tx in wrapped:
        state = tx.init(p)
        for _ in range(3):
            updates, new = jax.jit(tx.update)(p, state, p)
            assert jax.tree.structure(new) == jax.tree.structure(state)
            state = new
        assert np.any(updates["fast"])
    # A slow clock within a slow clock: moved at the fourth tick.
    tx = multi_timescale(multi_timescale(1.0, {"": 2}), {"": 2})
    updates, _ = trajectory(tx, jnp.arange(8.0), jnp.zeros(()))
    np.testing.assert_allclose(updates, [0, 0, 0, -1.5, 0, 0, 0, -5.5])
    assert tx.update({}, tx.init({}))[0] == {}


def test_the_level_table_sees_the_clocks():
    tx = multi_timescale(optax.sgd(0.1, momentum=0.9), {"fast": 1, "slow": 4})

    def step(state, x):
        g = jax.tree.map(lambda w: w * x, state["p"])
        updates, opt = tx.update(g, state["opt"], state["p"])
        return {"opt": opt, "p": optax.apply_updates(state["p"], updates)}

    p = {"fast": jnp.ones(2), "slow": jnp.ones(2)}
    table = nx.level_table(step, {"opt": tx.init(p), "p": p}, jnp.ones(2), calls=8)
    states = "['opt'].inner_states"
    fast = f"{states}['fast'].inner_state[0].trace['fast']"
    slow = f"{states}['slow'].inner_state.optimizer[0].trace['slow']"
    gathered = f"{states}['slow'].inner_state.gathered['slow']"
    # The program writes slow parameters at every tick, adding zero: only their update is slow.
    assert [set(level) for level in table.levels] == [
        {gathered},
        {fast, "['p']['slow']"},
        {"['p']['fast']"},
        {slow},
    ]
    assert table.frequencies[fast] == 1 and table.frequencies[slow] == 0.25
    assert table.frequencies[gathered] == 1.25  # added to at every tick, emptied at some
    assert table.depends["['p']['slow']"] >= {gathered, slow}
    assert table.kinds[f"{states}['slow'].inner_state.tick"] == "clock"
    assert isinstance(tx.init(p).inner_states["slow"].inner_state, GatheredState)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multi_timescale(0.1, {"a": 0}), "period of 'a' must be a number of ticks.*got 0"),
        (lambda: multi_timescale(0.1, {"a": True}), "period of 'a'.*got True"),
        (lambda: multi_timescale(0.1, {}), "at least one label"),
        (lambda: multi_timescale(0.1, {"": 2}, None, "last"), 'accumulate must be "mean" or "sum"'),
        (lambda: multi_timescale({"a": 0.1}, {"a": 1, "b": 2}), "must have the same labels"),
        (lambda: multi_timescale("adam", {"a": 1}), "'a' must be an optax transformation, or"),
        (lambda: multi_timescale(0.1, {"(": 1}), r"'\(' in periods must be a regular expression"),
        (lambda: multi_timescale(0.1, {"fast": 1}).init(params()), "no period for 'mid'"),
        (
            lambda: multi_timescale(0.1, {"a": 1}, {"x": {"y": "b"}}),
            "'x/y' bears the label 'b', which has no period; periods are given for .*'a'",
        ),
        (
            lambda: multi_timescale(0.1, {"a": 1}, lambda path, leaf: path).init(params()),
            "'fast' bears the label 'fast'",
        ),
        (
            lambda: multi_timescale(0.1, {"a": 1}, {"fast": "a"}).init(params()),
            r"labels must have the structure of the parameters.* lacks \['mid'\]",
        ),
        (
            lambda: multi_timescale(0.1, {"a": 1}, lambda path, leaf: leaf).init(params()),
            "'fast' bears the label .*, which has no period",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=f"multi_timescale: .*{message}"):
        call()
