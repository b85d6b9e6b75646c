"""Contexts that see values and remember."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import agree, draw, experienced, noise

import nestax as nx


def walk(values, memory, task, key):
    """A point that is drawn to the policy and kicked; the batch is where it was."""
    after = 0.9 * memory["at"] + 0.1 * values["policy"] + 0.1 * noise(key, 2)
    return {"at": memory["at"], "count": memory["count"]}, {
        "at": after,
        "count": memory["count"] + 1,
    }


def begin(values, task, key):
    return {"at": values["policy"] + noise(key, 2), "count": 0}


def chase(values, batch):
    return jnp.sum((values["policy"] - batch["at"]) ** 2) / 2, batch


def walking(**more):
    process = nx.Process(walk, init=begin)
    return nx.Nest([nx.Level("policy", chase, optax.sgd(0.1), process, **more)])


def test_it_is_a_loop(x64):
    """Drawn before the update, from the values there; the memory goes on from step to step."""
    nest = walking()
    state = nest.init({"policy": jnp.array([1.0, -1.0])}, jax.random.key(0))
    policy, memory = jnp.array([1.0, -1.0]), dict(state.contexts["policy"])
    after, info = nest.run(state, 5)
    for t in range(5):
        batch = info["policy"].user
        np.testing.assert_allclose(batch["at"][t], memory["at"], rtol=1e-12)
        assert batch["count"][t] == t
        kick = batch["at"][t + 1] - (0.9 * memory["at"] + 0.1 * policy) if t < 4 else None
        policy = policy - 0.1 * (policy - memory["at"])
        memory["at"] = batch["at"][t + 1] if t < 4 else after.contexts["policy"]["at"]
        assert kick is None or ((np.abs(kick) < 0.5).all() and (kick != 0).all())
    np.testing.assert_allclose(after.values["policy"], policy, rtol=1e-12)


def test_it_is_resumed_bit_for_bit(tmp_path):
    nest = walking()
    state = nest.init({"policy": jnp.zeros(2)}, jax.random.key(1))
    nest.run(state, 4, watch=tmp_path / "run")
    resumed = nest.run(state, 9, watch=tmp_path / "run")[0]
    whole = nest.run(state, 9)[0]
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_flows_differentiate_what_is_drawn_from_values(x64):
    """Under Unroll a batch depends on values; under Implicit it is a constant. Both levels share
    one draw, which copies do not."""
    target = nx.Process(lambda values, task, key: values["goal"] + jax.random.normal(key, ()), 4)
    follow = lambda v, batch: ((v["w"] - batch) ** 2 / 2, batch)  # noqa: E731

    def nest(flow, **options):
        start = {"start": lambda values, task, key: jnp.zeros(())} if options else {}
        w = nx.Level("w", follow, optax.sgd(0.5), target, **start)
        loss = lambda v, batch: (v["w"] ** 2 / 2, batch)  # noqa: E731
        goal = nx.Level("goal", loss, optax.sgd(0.0), target, every=4, flow=flow)
        return nx.Nest([w, goal], **options)

    unrolled = nest(nx.Unroll())
    state = unrolled.init({"w": 0.0, "goal": 1.0}, jax.random.key(0))
    _, info = unrolled.step(state)
    batch = info["goal"].user[0]
    np.testing.assert_array_equal(info["w"].user, jnp.full(4, batch))
    share = 1 - 0.5**4
    np.testing.assert_allclose(unrolled.gradient(state, "goal"), share**2 * batch, rtol=1e-12)
    assert nx.check_gradient(unrolled, state, "goal", verbose=False)

    copied = nest(nx.Unroll(), copies=3)
    _, info = copied.step(copied.init({"goal": 1.0}, jax.random.key(0)))
    assert info["goal"].user.shape == (1, 3) and len(set(info["goal"].user[0].tolist())) == 3


def test_it_begins_anew_with_its_episode(x64):
    process = nx.Process(walk, init=begin)
    inner = lambda v, batch: (jnp.sum((v["w"] - batch["at"]) ** 2) / 2, batch["count"])  # noqa: E731
    start = lambda values, task, key: jnp.zeros(2)  # noqa: E731
    w = nx.Level("w", inner, optax.sgd(0.1), process, start=start, horizon=4)
    policy = nx.Level("policy", lambda v, b: jnp.sum(v["w"] * v["policy"]), optax.sgd(0.1), every=2)
    nest = nx.Nest([w, policy], copies=2, stagger=True)
    _, info = nest.run(nest.init({"policy": jnp.ones(2)}, jax.random.key(0)), 4)
    np.testing.assert_array_equal(info["w"].user[:, 0], [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(info["w"].user[:, 1], [0, 1, 0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize(
    "process, message",
    [
        (lambda: nx.Process(3), "Process: draw is a function"),
        (lambda: nx.Process(walk), "Process: the draw is called as draw.values, task, key"),
        (lambda: nx.Process(walk, 0, begin), "every is a number of ticks, at least 1, got 0"),
        (lambda: nx.Process(walk, 3, begin), "draws every 3 ticks, where no level.*one of 1"),
        (
            lambda: nx.Process(lambda v, m, t, k: (m, m["at"]), init=begin),
            "the process of level 'policy' changes its memory",
        ),
        (lambda: nx.Process(lambda v, m, t, k: m["at"], init=begin), r"returns \(batch, memory\)"),
        (
            lambda: nx.Process(walk, init=lambda v, t, k: {"at": k}),
            r"its leaf \['at'\] is .*, a typed key",
        ),
        (
            lambda: nx.Process(lambda v, t, k: v["polcy"]),
            "process's draw reads values.'polcy'.*did you mean 'policy'",
        ),
        (
            lambda: nx.Process(walk, init=lambda v, t, k: v["polcy"]),
            "process's init reads values.'polcy'.*did you mean 'policy'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(process, message):
    with pytest.raises(ValueError, match=message):
        nest = nx.Nest([nx.Level("policy", chase, optax.sgd(0.1), process())])
        nest.init({"policy": jnp.zeros(2)}, jax.random.key(0))


def test_what_is_drawn_is_a_constant_under_direct():
    """An objective that follows nothing but its batch, as log-probabilities drawn there."""
    process = nx.Process(lambda values, task, key: jax.nn.log_sigmoid(values["policy"]))
    policy = nx.Level("policy", lambda values, batch: -batch, optax.sgd(0.1), process)
    with pytest.raises(ValueError, match="Process, whose batch is a constant under Direct"):
        nx.Nest([policy]).init({"policy": 0.0}, jax.random.key(0))


def test_memories_are_replaced():
    process = nx.Process(lambda v, m, t, k: (m, m + 1), init=lambda v, t, k: 0)
    level = nx.Level("w", lambda v, batch: (v["w"] ** 2, batch), optax.sgd(0.1), process)
    nest, keys = nx.Nest([level]), jax.random.split(jax.random.key(0))
    state = nest.init({"w": 1.0}, keys).replace(contexts={"w": jnp.array([3, 7])})
    after, info = nest.run(state, 2)
    np.testing.assert_array_equal(info["w"].user, [[3, 7], [4, 8]])
    np.testing.assert_array_equal(after.contexts["w"], [5, 9])
    with pytest.raises(ValueError, match=r"the memory of 'w': expected int32\[2\], got int32\[3\]"):
        state.replace(contexts={"w": jnp.arange(3)})
    with pytest.raises(ValueError, match="remembers anything under the name 'v'; there are 'w'"):
        state.replace(contexts={"v": 0})


# Forward over Unroll with copies, an Implicit over copies, gathered and staggered ones.
@pytest.mark.parametrize("seed", (0, 1, 9, 14))
def test_random_nests_with_a_process(x64, seed):
    nest, values, _ = draw(seed)
    nest = experienced(nest, values)
    assert nest is not None
    agree(nest, values, 2, seed, whole_run=False)


def test_the_gradient_of_a_fast_level_sees_what_slower_clocks_begin(x64):
    """Draws of slower processes and starts that are due at the tick."""
    process = nx.Process(lambda values, task, key: jnp.asarray(3.0), every=4)
    w = nx.Level("w", lambda v, b: v["w"] * b, optax.sgd(0.1), process)
    d = nx.Level("d", lambda v, b: (v["d"] - v["w"]) ** 2, optax.sgd(0.1), every=4)
    nest = nx.Nest([w, d])
    state = nest.init({"w": 1.0, "d": 0.0}, jax.random.key(0))
    assert nest.gradient(state, "w") == 3 == nest.step(state)[1]["w"].gradient_norm[0]
    assert nx.check_gradient(nest, state, "w", verbose=False)
    fresh = lambda values, task, key: values["d"] - 1  # noqa: E731
    w = nx.Level("w", lambda v, b: (v["w"] - v["d"]) ** 2, optax.sgd(0.1), start=fresh)
    nest = nx.Nest([w, d])
    state, _ = nest.run(nest.init({"d": 2.0}, jax.random.key(0)), 1)
    np.testing.assert_allclose(nest.gradient(state, "w"), -2.0)
    assert nest.gradient(state, "w") == nest.gradient(state, ("w", "d"))["w"]
