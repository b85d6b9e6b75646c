"""check_gradient: right gradients pass, wrong ones fail, and what cannot be told is not passed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.flows import check_gradient

RNG = np.random.default_rng(0)


def smooth(point):
    return jnp.sum(jnp.sin(point["a"])) * jnp.exp(-jnp.sum(point["b"] ** 2)) + point["a"][0] ** 3


POINT = {"a": jnp.array([0.3, -1.2, 0.7]), "b": jnp.array([[0.2, 0.5]]), "n": jnp.int32(3)}


def test_a_right_gradient_passes_and_prints_a_table(capsys):
    check = check_gradient(smooth, POINT)
    assert check and check.passed and check.error < 1e-8
    assert check.error <= check.resolution * 1.01
    printed = capsys.readouterr().out
    assert "['a'][2]" in printed and "['b'][0,1]" in printed and "random 4" in printed
    assert "passed" in printed and str(check) in printed
    assert len(check.directions) == len(check.given) == len(check.measured) == 5 + 5


def test_the_uncertainty_bounds_the_error():
    """The point is taken in float64, so the exact derivative is too."""
    for step in (1e-1, 1e-2, 1e-3, 1e-5, 1e-7):
        check = check_gradient(smooth, POINT, step=step, verbose=False)
        assert np.all(np.abs(check.given - check.measured) <= check.uncertainty)


def test_a_wrong_gradient_fails():
    def wrong(point):
        right = jax.grad(smooth, allow_int=True)(point)
        return {**right, "b": right["b"] * 1.01}

    check = check_gradient(smooth, POINT, wrong, verbose=False)
    assert not check and check.verdict == "failed"
    assert 1e-6 < check.error < 1e-2
    assert check_gradient(smooth, POINT, wrong, tolerance=1e-2, verbose=False)


def test_a_gradient_that_stops_half_way_fails():
    def stopped(point):
        return smooth({**point, "b": jax.lax.stop_gradient(point["b"])})

    assert check_gradient(stopped, POINT, verbose=False).verdict == "failed"


def test_kinks_are_met_by_smaller_steps():
    """A kink within the first steps: differences over it say nothing of either side."""

    def bent(x):
        return jnp.sum(jax.nn.relu(x - 0.3) * 3 + x**2)

    point = jnp.array([0.3004, 0.29996, 1.0])
    assert check_gradient(bent, point, verbose=False)
    coarse = check_gradient(bent, point, step=1e-3, verbose=False)
    assert coarse.verdict == "inconclusive" and coarse.resolution > 0.1
    assert check_gradient(bent, point, step=(1e-3, 1e-6), verbose=False)
    wrong = check_gradient(bent, point, lambda x: 2 * x + 3.01 * (x > 0.3), verbose=False)
    assert wrong.verdict == "failed"


def test_what_float32_hides_is_not_passed():
    def rough(x):
        return jnp.sum(jnp.sin(x.astype(jnp.float32)))

    check = check_gradient(rough, jnp.array([0.3, 2.0]), verbose=False)
    assert check.verdict == "inconclusive" and not check.passed
    assert "another step" in str(check)


def test_float32_inside_a_float64_function_is_not_passed():
    def rough(x):
        return jnp.sum(jnp.sin(x.astype(jnp.float32))).astype(jnp.float64)

    point = jnp.asarray(RNG.normal(size=100))
    assert check_gradient(rough, point, verbose=False).verdict != "passed"


def test_nan_does_not_pass():
    assert not check_gradient(lambda x: jnp.sum(jnp.sqrt(x)), jnp.zeros(2), verbose=False)


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_a_flat_function_passes(value):
    assert check_gradient(lambda x: value + 0 * jnp.sum(x), jnp.ones(3), verbose=False)


def test_many_numbers_are_checked_along_random_directions_only():
    point = jnp.asarray(RNG.normal(size=(30, 4)))
    check = check_gradient(lambda x: jnp.sum(jnp.tanh(x) ** 2), point, directions=3, verbose=False)
    assert check and check.directions == ("random 0", "random 1", "random 2")
    other = check_gradient(
        lambda x: jnp.sum(jnp.tanh(x) ** 2), point, key=1, directions=3, verbose=False
    )
    assert not np.allclose(check.given, other.given)


def test_a_gradient_may_be_a_pytree_with_none_for_constants():
    given = jax.grad(lambda p: smooth({**POINT, **p}))({"a": POINT["a"], "b": POINT["b"]})
    assert check_gradient(smooth, POINT, {**given, "n": None}, verbose=False)


def test_refusals():
    with pytest.raises(ValueError, match="no array of an inexact dtype"):
        check_gradient(lambda x: x, 1.0)
    with pytest.raises(TypeError, match=r"scalar, got an array of shape \(3,\)"):
        check_gradient(lambda x: x, jnp.ones(3))
    with pytest.raises(
        ValueError, match=r"\['a'\] the gradient has shape \(2,\), the point \(3,\)"
    ):
        check_gradient(smooth, POINT, {**POINT, "a": jnp.ones(2)})
    with pytest.raises(ValueError, match="structure of the point"):
        check_gradient(smooth, POINT, [jnp.ones(3)])
    with pytest.raises(ValueError, match="complex"):
        check_gradient(lambda x: jnp.sum(jnp.abs(x)), jnp.ones(2, jnp.complex64))
    with pytest.raises(ValueError, match="no direction"):
        check_gradient(lambda x: jnp.sum(x), jnp.ones(100), directions=0)
