"""Deep momentum against its identities, a naive loop, and what it must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.deep_momentum import naive_deep_momentum

from nestax import optim

SHAPES = {"weight": (5, 7), "bias": (3,), "scalar": ()}


def gradients(steps, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [
        {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
        for _ in range(steps)
    ]


def trajectory(tx, stream):
    """The updates and the last state along a stream of gradients."""
    state, updates, update = tx.init(stream[0]), [], jax.jit(tx.update)
    for g in stream:
        u, state = update(g, state)
        updates.append(u)
    return updates, state


@pytest.mark.parametrize("objective", ["dot", "l2"])
@pytest.mark.parametrize("memory_input", ["gradient", "average"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("normalize", ["memory", "update", "none"])
def test_first_step_is_plain_or_normalized_descent(x64, objective, memory_input, shared, normalize):
    tx = optim.deep_momentum(
        0.3, objective=objective, memory_input=memory_input, shared=shared, normalize=normalize
    )
    stream = gradients(1)
    (update,), _ = trajectory(tx, stream)
    for name, g in stream[0].items():
        rms = jnp.sqrt(jnp.mean(g**2)) if normalize == "update" else 1
        np.testing.assert_allclose(update[name], -0.3 * g / rms, rtol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 1.0])
def test_linear_memory_of_a_constant_key_is_heavy_ball(x64, beta):
    memory = optim.deep_momentum(
        0.1,
        memory_input="constant",
        hidden=(),
        skip=False,
        normalize="none",
        inner_learning_rate=1.0,
        retention=beta,
    )
    stream = gradients(12)
    ours, _ = trajectory(memory, stream)
    heavy_ball, _ = trajectory(optax.sgd(0.1, momentum=beta), stream)
    for a, b in zip(ours, heavy_ball, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), a, b)


def test_linear_memory_keyed_by_the_gradient_is_quadratic_in_it_not_heavy_ball(x64):
    """Writing and reading with u are two factors: twice the gradient, four times the answer."""
    memory = optim.deep_momentum(
        1.0,
        memory_input="gradient",
        hidden=(),
        skip=False,
        normalize="none",
        retention=1.0,
    )
    g = {"w": jnp.array([1.0, -2.0, 0.5])}
    once, _ = trajectory(memory, [g, g])
    twice, _ = trajectory(memory, [jax.tree.map(lambda x: 2 * x, g)] * 2)
    np.testing.assert_allclose(twice[1]["w"], 8 * once[1]["w"], rtol=1e-10)


@pytest.mark.parametrize("objective", ["dot", "l2"])
@pytest.mark.parametrize("memory_input", ["gradient", "average"])
@pytest.mark.parametrize("hidden", [(), (3,), (4, 2)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("normalize", ["memory", "update", "none"])
def test_equals_the_naive_loop(x64, objective, memory_input, hidden, shared, normalize):
    options = dict(
        objective=objective,
        memory_input=memory_input,
        hidden=hidden,
        shared=shared,
        retention=0.9,
        inner_learning_rate=0.2,
        average_decay=0.8,
        normalize=normalize,
        readout=0.4,
    )
    tx = optim.deep_momentum(0.1, **options)
    stream = gradients(6)
    updates, _ = trajectory(tx, stream)
    initial = tx.init(stream[0])[0].initial
    memories = [initial] * 3 if shared else [initial[name] for name in sorted(SHAPES)]
    expected = naive_deep_momentum(
        [[np.asarray(g[name]) for name in sorted(SHAPES)] for g in stream],
        [[np.asarray(layer) for layer in memory] for memory in memories],
        learning_rate=0.1,
        **{k: v for k, v in options.items() if k not in ("hidden", "readout")},
    )
    for update, reference in zip(updates, expected, strict=True):
        for name, value in zip(sorted(SHAPES), reference, strict=True):
            np.testing.assert_allclose(update[name], value, rtol=1e-9, atol=1e-13)


def test_the_memory_is_trained_on_what_it_can_learn(x64):
    """On noise around a steady gradient, answers turn toward the steady part with training."""
    rng = np.random.default_rng(0)
    steady = rng.normal(size=400)
    stream = [{"w": jnp.asarray(steady + 3 * rng.normal(size=400))} for _ in range(600)]

    def alignment(tx):
        updates, _ = trajectory(tx, stream)
        late = [np.asarray(u["w"]) for u in updates[-100:]]
        return np.mean([-u @ steady / np.linalg.norm(u) / np.linalg.norm(steady) for u in late])

    plain = alignment(optim.gradient_descent(1.0))
    for objective, retention in (("dot", 0.99), ("l2", 0.999)):
        options = {"objective": objective, "retention": retention}
        trained = alignment(optim.deep_momentum(1.0, inner_learning_rate=0.01, **options))
        untrained = alignment(optim.deep_momentum(1.0, inner_learning_rate=0.0, **options))
        assert untrained == pytest.approx(plain, rel=1e-9)
        assert trained > 1.2 * plain, (objective, plain, trained)


def test_dot_objective_is_the_outer_losss_own_gradient(x64):
    """The write follows d/dm L(W_{t-1} + lr m(key_{t-1})), divided by lr and coordinates."""
    curvature = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)))
    loss = lambda w: 0.5 * w @ curvature @ curvature.T @ w  # noqa: E731
    rate, eta = 1e-2, 0.05
    tx = optim.deep_momentum(
        rate,
        objective="dot",
        normalize="none",
        retention=1.0,
        inner_learning_rate=eta,
        readout=0.3,
        memory_input="gradient",
    )
    w = jnp.asarray(np.random.default_rng(2).normal(size=6))
    state = tx.init(w)
    u, state = tx.update(jax.grad(loss)(w), state, w)
    memory, key = state[0].memory, jax.grad(loss)(w)

    def after(memory):
        hidden, readout = memory
        said = (readout @ jnp.tanh(hidden @ key.reshape(1, -1)))[0] - key
        return loss(w + rate * said)

    expected = jax.tree.map(
        lambda m, g: m - eta * g / (rate * w.size), memory, jax.grad(after)(memory)
    )
    w = optax.apply_updates(w, u)
    _, state = tx.update(jax.grad(loss)(w), state, w)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), state[0].memory, expected
    )


@pytest.mark.parametrize("objective", ["dot", "l2"])
def test_bounded_over_a_long_adversarial_stream(objective):
    """Steady gradients push a dot-product read-out hardest; the docstring's bound holds."""
    tx = optim.deep_momentum(1.0, objective=objective)
    g = {"w": jnp.ones((3, 4))}

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: tx.update(g, s)[::-1], state, length=20_000)

    state, updates = run(tx.init(g))
    readout = state[0].memory["w"][-1]
    assert np.all(np.isfinite(updates["w"]))
    assert np.max(np.abs(readout)) <= 0.0025 / (1 - 0.99) + 1e-4
    assert np.all(updates["w"] < 0)


@pytest.mark.parametrize("normalize", ["memory", "update"])
def test_the_memory_learns_alike_at_every_scale_of_the_loss(x64, normalize):
    """With "update" steps do not depend on the scale, with "memory" they are proportional to it."""
    stream = gradients(20, shapes={"w": (4, 5)})
    updates = {}
    for scale in (1e-4, 1.0, 1e4):
        scaled = [jax.tree.map(lambda x, s=scale: s * x, g) for g in stream]
        tx = optim.deep_momentum(1.0, normalize=normalize)
        updates[scale] = np.stack([u["w"] for u in trajectory(tx, scaled)[0]])
    for scale in (1e-4, 1e4):
        expected = updates[1.0] * (scale if normalize == "memory" else 1)
        np.testing.assert_allclose(updates[scale], expected, rtol=1e-9)


def test_every_tensor_has_its_own_memory():
    """Changing one tensor's gradients changes nothing of another's; unless the memory is shared."""
    stream, other = gradients(5), gradients(5)
    for g in other:
        g["bias"] = -2 * g["bias"] + 1
    for shared in (False, True):
        tx = optim.deep_momentum(0.1, shared=shared)
        a, b = trajectory(tx, stream)[0][-1], trajectory(tx, other)[0][-1]
        assert np.array_equal(a["weight"], b["weight"]) is not shared


def test_a_zero_gradient_is_answered_by_zero():
    updates, state = trajectory(optim.deep_momentum(0.1), [{"w": jnp.zeros((2, 3))}] * 3)
    for leaf in jax.tree.leaves((updates, state)):
        assert np.all(np.isfinite(leaf))
    assert not np.any(updates[-1]["w"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "huber"}, "objective must be one of"),
        ({"memory_input": "past"}, "memory_input must be one of"),
        ({"normalize": "yes"}, "normalize must be one of"),
        ({"memory_input": "constant"}, "pass hidden=\\(\\) and skip=False"),
        ({"hidden": (8, 0)}, "hidden sizes must be at least 1"),
        ({"retention": 1.1}, "retention must be in"),
        ({"inner_learning_rate": -1.0}, "inner_learning_rate must be in"),
        ({"average_decay": 2.0}, "average_decay must be in"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optim.deep_momentum(0.1, **options)
