"""Associative memories that are meta-trained: equations, members, derivatives, isolation."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.learned_memories import Memory, over_rms

from nestax import learned

SHAPES = {"vector": (5,), "scalar": (), "kernel": (3, 3, 2, 4), "matrix": (4, 3)}
RULES = {
    "delta": learned.delta_momentum(5, 3, 4),
    "deep": learned.deep_momentum(5, 3, 6, 4),
}
every_rule = pytest.mark.parametrize("name", RULES)


def drawn(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def arrays(tree, dtype=jnp.float64):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def random_theta(name, seed=0):
    """All weights away from zero, so that everything is felt."""
    rng = np.random.default_rng(seed)
    theta = jax.eval_shape(RULES[name].init, jax.random.key(0))
    return jax.tree.map(lambda a: np.asarray(rng.normal(size=a.shape)), theta)


@functools.cache
def updated(name):
    """An update compiled for theta."""

    @jax.jit
    def update(theta, gradients, state, params):
        return RULES[name](theta).update(gradients, state, params)

    return update


@every_rule
def test_updates_are_those_of_the_equations(x64, name):
    theta, params = random_theta(name), drawn(1)
    references = {key: Memory(theta, shape) for key, shape in SHAPES.items()}
    state = RULES[name](arrays(theta)).init(arrays(params))
    for step in range(4):
        # Zeros, a whole tensor of them, and large and small ones.
        gradients = {key: 10.0 ** (2 * step - 3) * g for key, g in drawn(step + 2).items()}
        gradients["matrix"][0] = 0
        gradients["vector"] *= step != 1
        found, state = updated(name)(arrays(theta), arrays(gradients), state, arrays(params))
        for key, reference in references.items():
            expected = reference.step(gradients[key], params[key])
            np.testing.assert_allclose(found[key], expected, rtol=1e-6, atol=1e-9)
            params[key] = params[key] + 0.1 * expected
    for key, memory in zip(sorted(SHAPES), state.rule, strict=True):
        layers = jax.tree.leaves(memory["memory"])
        for layer, expected in zip(layers, references[key].layers, strict=True):
            np.testing.assert_allclose(layer, expected, rtol=1e-6, atol=1e-9)


@every_rule
@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_a_member_is_the_optimizer_normalized(name, kind):
    rule = RULES[name]
    known = optax.sgd(1.0, 0.8) if kind == "momentum" else optax.adam(1.0, 0.8, 0.9, eps=0)
    theta = rule.member(kind, 0.8, 0.9)
    params = arrays(drawn(0), jnp.float32)
    state, other = rule(theta).init(params), known.init(params)
    for step in range(5):
        gradients = arrays(drawn(step + 1), jnp.float32)
        found, state = updated(name)(theta, gradients, state, params)
        expected, other = known.update(gradients, other, params)
        for key in SHAPES:
            np.testing.assert_allclose(found[key], over_rms(expected[key]), rtol=2e-5, atol=2e-6)


@every_rule
def test_the_derivative_of_theta_is_that_of_differences(x64, name):
    """Through updates that begin at a gradient of zero; theta is also a batch of a vmap."""
    shapes = {"vector": (3,), "matrix": (2, 3)}
    theta = random_theta(name, 3)
    params = arrays(drawn(1, shapes))
    rng = np.random.default_rng(5)
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), theta)

    def loss(p):
        return jnp.sum(jnp.sin(2 * p["matrix"]) @ p["vector"]) + jnp.sum(p["vector"] ** 4)

    def trained(shift):
        moved = jax.tree.map(lambda a, d: a + shift * d, theta, direction)
        tx = RULES[name](moved, 0.1)

        def step(carry, on):
            p, state = carry
            gradients = jax.tree.map(lambda g: on * g, jax.grad(loss)(p))
            found, state = tx.update(gradients, state, p)
            return (optax.apply_updates(p, found), state), None

        on = jnp.array([0.0, 1, 1, 1])
        (p, _), _ = jax.lax.scan(step, (params, tx.init(params)), on)
        return loss(p)

    step = 1e-5
    slope = jax.jit(jax.grad(trained))(0.0)
    below, above = jax.jit(jax.vmap(trained))(jnp.array([-step, step]))
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6)
    assert abs(slope) > 1e-3


@every_rule
def test_memories_are_of_one_tensor_and_of_one_theta(name):
    """The others' gradients are not felt; nor are the weights of the other kind of tensors."""
    theta = arrays(random_theta(name), jnp.float32)
    params = arrays(drawn(0), jnp.float32)

    def last(change, theta):
        state = RULES[name](theta).init(params)
        for step in range(3):
            gradients = arrays(drawn(step + 1), jnp.float32)
            gradients["vector"] = gradients["vector"] * change
            found, state = updated(name)(theta, gradients, state, params)
        return found

    plain, changed = last(1.0, theta), last(jnp.array([1.0, -1, 1, 1, 1]), theta)
    assert np.max(np.abs(plain["vector"] - changed["vector"])) > 0.01
    other = last(1.0, theta | {"vectors": jax.tree.map(lambda a: a + 0.1, theta["vectors"])})
    for key in ("kernel", "matrix", "scalar"):
        np.testing.assert_array_equal(plain[key], changed[key])
        if key != "scalar":
            np.testing.assert_array_equal(plain[key], other[key])
    assert np.max(np.abs(plain["vector"] - other["vector"])) > 1e-3


@every_rule
def test_the_memory_learns_to_foresee(x64, name):
    """On a stream that follows from its past the error of what is foreseen falls."""
    rule = RULES[name]
    theta = arrays(random_theta(name, 2))
    theta["matrices"]["memory"]["retention"] += 20
    theta["matrices"]["memory"]["rate"] += 20
    weights, shape = theta["matrices"]["memory"], (40, 3)
    rng = np.random.default_rng(0)
    key = jnp.asarray(over_rms(rng.normal(size=(5, *shape))))
    value = jnp.tanh(jnp.tensordot(jnp.asarray(rng.normal(size=(3, 5))), key, 1) / 3)
    memory, errors = weights["initial"], []
    write = jax.jit(rule.write)
    for _ in range(60):
        memory, error = write(weights, memory, key, value)
        errors.append(float(jnp.mean(error**2)))
    assert errors[-1] < 0.2 * errors[0]
    assert all(b <= a for a, b in itertools.pairwise(errors))


def test_numbers_are_checked_at_once():
    for make in (learned.delta_momentum, learned.deep_momentum):
        with pytest.raises(ValueError, match=f"{make.__name__}: keys must be an int"):
            make(keys=0)
    rule = RULES["delta"]
    with pytest.raises(ValueError, match="delta_momentum: kind"):
        rule.member("sgd")
    with pytest.raises(ValueError, match="delta_momentum: decay must be above 0"):
        rule.member(decay=0)
