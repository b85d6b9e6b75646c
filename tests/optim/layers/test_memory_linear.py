"""A layer whose weight moves by what a memory of its errors says: against a loop, and in use."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax.optim import memory_linear

OUT, IN, ROWS = 2, 4, 6


def problem(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (OUT, IN), "x": (ROWS, IN), "t": (ROWS, OUT)}
    return (jnp.asarray(rng.normal(size=s)) for s in shapes.values())


def mlp(seed=1, hidden=8):
    rng = np.random.default_rng(seed)
    return {
        "in": jnp.asarray(rng.normal(size=(hidden, IN)) / 2),
        "out": jnp.asarray(rng.normal(size=(OUT, hidden)) / 4),
    }


def apply(memory, x):
    return memory["out"] @ jnp.tanh(memory["in"] @ x)


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), a, b)


def batched(w, memory, x, t, reduction):
    reduce = jnp.mean if reduction == "mean" else jnp.sum
    return reduce(jnp.sum(jnp.square(memory_linear(w, memory, apply, x, reduction) - t), 1))


def vmapped(w, memory, x, t, reduction):
    def one(x, t):
        return jnp.sum(jnp.square(memory_linear(w, memory, apply, x, reduction) - t))

    return (jnp.mean if reduction == "mean" else jnp.sum)(jax.vmap(one)(x, t))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("form", [batched, vmapped])
def test_gradients_are_the_naive_loops(x64, form, reduction):
    w, x, t = problem()
    memory = mlp()
    found = jax.jit(jax.grad(form, (0, 1, 2)), static_argnums=4)(w, memory, x, t, reduction)

    moved, written = jnp.zeros_like(w), jax.tree.map(jnp.zeros_like, memory)
    for i in range(ROWS):
        d = 2 * (w @ x[i] - t[i])  # of the row's own loss
        inner = lambda m, i=i, d=d: jnp.sum(jnp.square(apply(m, x[i]) + d)) / 2  # noqa: E731
        moved += jnp.outer(apply(memory, x[i]), x[i]) / (ROWS if reduction == "mean" else 1)
        written = jax.tree.map(lambda a, g: a + g / ROWS, written, jax.grad(inner)(memory))
    by_input = jax.grad(lambda x: jnp.sum(jnp.square(x @ w.T - t)))(x)
    close(found, (-moved, written, by_input / (ROWS if reduction == "mean" else 1)))


def test_a_memory_that_knows_the_errors_is_gradient_descent(x64):
    w, x, t = problem()
    x = x[:IN]  # as many rows as inputs: a linear memory can hold them all
    t = t[:IN]
    errors = 2 * (x @ w.T - t)
    memory = -jnp.linalg.solve(x, errors).T

    def loss(w, memory):
        y = memory_linear(w, memory, lambda m, x: m @ x, x)
        return jnp.mean(jnp.sum(jnp.square(y - t), 1))

    by_weight, by_memory = jax.grad(loss, (0, 1))(w, memory)
    close(by_weight, errors.T @ x / IN)
    np.testing.assert_allclose(by_memory, 0, atol=1e-10)


def test_copies_have_memories_of_their_own(x64):
    w, x, t = problem()
    memories = jax.tree.map(lambda a: jnp.stack([a, -a]), mlp())
    gradient = jax.grad(batched, (0, 1))
    together = jax.vmap(gradient, (None, 0, None, None, None))(w, memories, x, t, "mean")
    for i in range(2):
        alone = gradient(w, jax.tree.map(lambda a, i=i: a[i], memories), x, t, "mean")
        close(jax.tree.map(lambda a, i=i: a[i], together), alone)


def test_a_regression_is_learned_by_the_memory_and_its_own_optimizer():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, IN)))
    t = x @ jnp.asarray(rng.normal(size=(OUT, IN))).T
    params = {"weight": jnp.zeros((OUT, IN)), "memory": mlp()}
    tx = optax.partition(
        {"outer": optax.sgd(0.03), "inner": optax.adam(0.03)},
        {"weight": "outer", "memory": "inner"},
    )

    def loss(params, x, t):
        y = jax.vmap(lambda x: memory_linear(params["weight"], params["memory"], apply, x))(x)
        return jnp.mean(jnp.sum(jnp.square(y - t), 1)) / 2

    def step(carry, key):
        params, state = carry
        rows = jax.random.choice(key, 64, (16,))
        value, g = jax.value_and_grad(loss)(params, x[rows], t[rows])
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(0), 500)
    (after, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(params)
    assert loss(after, x, t) < 0.01 * loss(params, x, t)
    # Without the memory's learning nothing is learned: its answers are all that moves W.
    frozen = optax.partition(
        {"outer": optax.sgd(0.03), "inner": optax.set_to_zero()},
        {"weight": "outer", "memory": "inner"},
    )
    tx = frozen
    (after, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(params)
    assert not loss(after, x, t) < 0.5 * loss(params, x, t)


def test_wrong_arguments_are_refused_by_name():
    w, x, _ = problem()
    with pytest.raises(ValueError, match=r"memory_linear: apply\(memory, x\) must answer"):
        memory_linear(w, mlp(), lambda m, x: x, x)
    with pytest.raises(ValueError, match="pytree of inexact arrays"):
        memory_linear(w, {"in": jnp.arange(3)}, lambda m, x: jnp.zeros(OUT), x)
    with pytest.raises(ValueError, match=r"memory_linear: apply\(memory, x\) failed .* \(4,\)"):
        memory_linear(w, jnp.ones((OUT, 7)), lambda m, x: m @ x, x)
    with pytest.raises(ValueError, match="memory_linear: reduction"):
        memory_linear(w, mlp(), apply, x, "median")
    with pytest.raises(ValueError, match=r"inputs \(..., in\) are expected"):
        memory_linear(w.T, mlp(), apply, x)
