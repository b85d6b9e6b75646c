"""Pairwise-distance bounds: naive double loop, exact cases, and the true value between them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import information as reference

from nestax.information import kde_bounds, standardize

FIELDS = ("x_lower", "x_upper", "y_lower", "y_upper")


def values(result):
    return [getattr(result, name) for name in FIELDS]


def problem(n, units, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return np.tanh(rng.normal(size=(n, units))), rng.integers(0, classes, n)


@pytest.mark.parametrize(("n", "units"), [(63, 5), (2, 1), (30, 40)])
@pytest.mark.parametrize("variance", [0.003, 0.1, 3.0])
def test_equals_the_double_loop(n, units, variance):
    t, y = problem(n, units)
    expected = reference.kde(t, y, variance)
    np.testing.assert_allclose(values(kde_bounds(t, y, variance)), expected, atol=1e-10)


@pytest.mark.parametrize("n", [255, 256, 257])
def test_blocks_of_rows_are_put_together_at_any_length(n):
    t, y = problem(n, 2)
    distance = ((t[:, None] - t[None]) ** 2).sum(-1)
    for name, factor in (("lower", 8), ("upper", 2)):
        kernel = np.exp(-distance / (factor * 0.1))
        x = -np.mean(np.log2(kernel.mean(1)))
        same = y[:, None] == y[None]
        within = -np.mean(np.log2((kernel * same).sum(1) / same.sum(1)))
        result = kde_bounds(t, y)
        assert getattr(result, "x_" + name) == pytest.approx(x, abs=1e-10)
        assert getattr(result, "y_" + name) == pytest.approx(x - within, abs=1e-10)


def test_identical_points_carry_nothing():
    """T6."""
    result = kde_bounds(np.full((300, 3), 0.7), np.arange(300) % 3)
    assert values(result) == [0, 0, 0, 0]


def test_far_points_carry_log2_n():
    """T6."""
    t = np.arange(1024.0)[:, None] * 100
    result = kde_bounds(t, np.arange(1024) % 4)
    assert values(result) == pytest.approx([10, 10, 2, 2], abs=1e-12)
    assert result.ceiling == 10 and result.at_ceiling and result.label_ceiling == 2


def test_ceiling_counts_only_if_the_lower_bound_reaches_it():
    t = np.arange(64.0)[:, None] * 1.2
    result = kde_bounds(t)
    assert result.x_upper > 6 - 0.01 and result.x_lower < 6 - 0.01 and not result.at_ceiling


def test_two_points_in_unit_noise():
    """T6b: the binary-input Gaussian channel, exact by quadrature."""
    result = kde_bounds(np.array([[-1.0], [1.0]]), noise_variance=1.0)
    exact = reference.two_points(1.0)
    assert exact == pytest.approx(0.4859, abs=1e-4)
    assert result.x_lower < exact < result.x_upper
    # d = 4: the two sums are 1 + exp(-1/2) and 1 + exp(-2).
    assert result.x_lower == pytest.approx(1 - math.log2(1 + math.exp(-0.5)), abs=1e-12)
    assert result.x_upper == pytest.approx(1 - math.log2(1 + math.exp(-2)), abs=1e-12)


def test_bracket_of_a_cloud_of_points():
    """T6c: 64 points from N(0, I4), s^2 = 0.1."""
    t = np.random.default_rng(0).normal(size=(64, 4))
    mean, error = reference.mixture_information(t, 0.1, 50000, seed=1)
    result = kde_bounds(t)
    assert error < 0.01
    assert result.x_lower < mean - 4 * error and mean + 4 * error < result.x_upper


def test_invariances():
    """T8."""
    t, y = problem(200, 3)
    rng = np.random.default_rng(1)
    expected = values(kde_bounds(t, y))
    order = rng.permutation(200)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for same_t, same_y in (
        (t[:, [2, 0, 1]], y),
        (t[order], y[order]),
        (t * np.array([1, -1, -1]), y),
        (t @ rotation + 5, y + 3),
    ):
        assert values(kde_bounds(same_t, same_y)) == pytest.approx(expected, abs=1e-10)
    smaller = kde_bounds(t / 10, y)
    assert smaller.x_upper < expected[1] - 1
    assert values(kde_bounds(t / 10, y, 0.001)) == pytest.approx(expected, abs=1e-10)
    assert kde_bounds(standardize(t / 10)).x_upper == pytest.approx(
        kde_bounds(standardize(t)).x_upper, abs=1e-10
    )


@pytest.mark.parametrize("seed", range(4))
def test_label_information_is_within_both_bounds(seed):
    """T9: exact for either kind of bound, as both use one channel."""
    t, y = problem(150, 2, seed=seed)
    for variance in (1e-4, 0.1, 10.0):
        result = kde_bounds(t + 0.2 * y[:, None], y, variance)
        assert result.y_lower <= min(result.x_lower, result.label_ceiling) + 1e-12
        assert result.y_upper <= min(result.x_upper, result.label_ceiling) + 1e-12
        assert 0 <= result.x_lower <= result.x_upper <= result.ceiling + 1e-12


def test_very_small_and_very_large_noise_stay_finite():
    t, y = problem(50, 3)
    assert values(kde_bounds(t * 1e6, y, 1e-30)) == pytest.approx(
        [math.log2(50)] * 2 + [kde_bounds(t, y).label_ceiling] * 2, abs=1e-12
    )
    assert values(kde_bounds(t, y, 1e30)) == pytest.approx([0] * 4, abs=1e-12)


def test_jit_and_vmap_equal_the_eager_result():
    y = problem(300, 3)[1]
    ts = np.stack([problem(300, 3, seed=s)[0].astype(np.float32) for s in range(2)])
    expected = np.array([values(kde_bounds(t, y)) for t in ts])
    # float32: sums of 300 numbers of order 1, then logarithms of order 10.
    close = {"atol": 1e-5, "rtol": 0}
    np.testing.assert_allclose(
        np.stack(values(jax.vmap(lambda t: kde_bounds(t, y))(ts)), 1), expected, **close
    )
    traced = jax.jit(kde_bounds)(ts[0], y, 0.1)
    np.testing.assert_allclose(values(traced), expected[0], **close)
    assert traced.x_upper.dtype == jnp.float32
    widths = jnp.array([0.03, 0.1, 0.3])
    swept = jax.vmap(lambda v: kde_bounds(ts[0], y, v).x_upper)(widths)
    np.testing.assert_allclose(
        swept, [kde_bounds(ts[0], y, v).x_upper for v in (0.03, 0.1, 0.3)], **close
    )


def test_leaves_are_float64_and_gradients_exist():
    t, y = problem(40, 2)
    result = kde_bounds(t.astype(np.float32), y)
    assert all(isinstance(leaf, np.float64) for leaf in jax.tree.leaves(result))
    assert len(jax.tree.leaves(result)) == 6 and len(jax.tree.leaves(kde_bounds(t))) == 3
    with jax.enable_x64(True):
        gradient = jax.grad(lambda t: kde_bounds(t).x_upper)(jnp.asarray(t))
        step = np.zeros_like(t)
        step[3, 1] = 1e-6
        slope = (kde_bounds(t + step).x_upper - kde_bounds(t - step).x_upper) / 2e-6
    assert gradient[3, 1] == pytest.approx(slope, abs=1e-8)
