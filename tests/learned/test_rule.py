"""What every rule does with theta, states and numbers of steps that are not as usual."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx


def updated(rule, theta, steps=3):
    optimizer, params = rule(theta, 1.0, 10), jnp.array([[0.5, -1.0]])
    state = optimizer.init(params)
    for _ in range(steps):
        found, state = optimizer.update(0.1 * params + 0.01, state, params)
    return found


def test_theta_in_half_precision_is_computed_with_in_single():
    rule = nx.learned.small_fc()  # its decays are near 1
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), rule.init(jax.random.key(0)))
    single = jax.tree.map(lambda a: a.astype(jnp.float32), half)
    run = jax.jit(lambda theta: updated(rule, theta))
    np.testing.assert_allclose(run(half), run(single), rtol=1e-6)


def test_theta_of_numpy_or_python_numbers():
    rule = nx.learned.adam_like()
    theta = rule.init(jax.random.key(0))
    for number in (float, np.float64):
        given = jax.tree.map(number, theta)
        np.testing.assert_array_equal(updated(rule, given), updated(rule, theta))


def test_a_state_of_other_shapes_is_refused():
    rule = nx.learned.adam_like()
    optimizer = rule(rule.init(jax.random.key(0)))
    state, other = optimizer.init(jnp.ones((3, 2))), jnp.ones((1, 2))
    with pytest.raises(ValueError, match="other shapes"):
        optimizer.update(other, state, other)


@pytest.mark.parametrize("steps", [0, -3, float("nan"), "ten"])
def test_a_number_of_steps_that_cannot_be_is_refused(steps: Any):
    rule = nx.learned.adam_like()
    with pytest.raises(ValueError, match="num_steps"):
        rule(rule.init(jax.random.key(0)), num_steps=steps)
