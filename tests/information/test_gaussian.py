"""The log-determinant bound: the published formula, how loose it is, and its ceiling."""

import math

import jax
import numpy as np
import pytest
from references import information as reference

from nestax.information import gaussian_upper_bound, kde_bounds, standardize


def problem(n, units, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    t = np.tanh(rng.normal(size=(n, units)) @ rng.normal(size=(units, units)))
    return t, rng.integers(0, classes, n)


@pytest.mark.parametrize(
    ("n", "units", "ddof"), [(63, 5, 0), (63, 5, 1), (2, 1, 1), (20, 30, 1), (500, 12, 1)]
)
def test_equals_the_published_formula(n, units, ddof):
    t, y = problem(n, units)
    y[0] = 77  # a class of one sample
    result = gaussian_upper_bound(t, y, 0.1, ddof=ddof)
    expected = reference.gaussian(t, y, 0.1, ddof=ddof)
    np.testing.assert_allclose([result.x, result.y], expected, atol=1e-9)


def test_two_points_exceed_one_bit():
    """T7: I(M;X) of two points is at most 1 bit; the bound passes it and keeps growing."""
    for a in (0.05, 0.1, 0.3, 1.0, 10.0):
        value = gaussian_upper_bound(np.array([[-a], [a]]), ddof=0, bound=None, epsilon=0.0).x
        assert value == pytest.approx(0.5 * math.log2(1 + a**2 / 0.01), abs=1e-12)
        assert value >= reference.two_points(0.1 / a)
        assert (value > 1) == (a**2 / 0.01 > 3)
    published = gaussian_upper_bound(np.array([[-1.0], [1.0]] * 500)).x
    assert published == pytest.approx(3.33, abs=0.005)


def test_is_above_the_kde_upper_bound_where_units_are_clustered():
    t = np.sign(np.random.default_rng(0).normal(size=(400, 6)))
    assert gaussian_upper_bound(t).x > 19 and kde_bounds(t, noise_variance=0.01).x_upper < 6.01
    assert gaussian_upper_bound(t).x > math.log2(400)


def test_ceiling_of_saturated_units():
    for units, published in ((12, 39.9), (6, 20.0), (4, 13.3)):
        t = 0.5 * np.random.default_rng(0).normal(size=(5000, units)).clip(-2, 2)
        result = gaussian_upper_bound(t)
        assert result.ceiling == pytest.approx(published, abs=0.06)
        assert result.x < result.ceiling and not result.at_ceiling
    corners = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    for ddof in (0, 1):
        result = gaussian_upper_bound(corners, ddof=ddof)
        assert result.x == pytest.approx(result.ceiling, abs=1e-12) and result.at_ceiling
    t = problem(100, 2)[0]
    assert gaussian_upper_bound(t, bound=None).ceiling == math.inf
    assert gaussian_upper_bound(3 * t).ceiling == math.inf
    assert gaussian_upper_bound(3 * t, bound=3).ceiling < math.inf
    assert not gaussian_upper_bound(3 * t).at_ceiling


def test_scale_is_what_it_measures_until_standardised():
    """T8."""
    t, y = problem(300, 4)
    value = gaussian_upper_bound(t, y)
    assert gaussian_upper_bound(0.05 * t, y).x < value.x / 4
    both = [gaussian_upper_bound(standardize(s), y, bound=None) for s in (t, 0.05 * t)]
    assert both[0].x == pytest.approx(both[1].x, abs=1e-9)
    order = np.random.default_rng(1).permutation(300)
    for same in (
        gaussian_upper_bound(t[order], y[order]),
        gaussian_upper_bound(t[:, ::-1], y),
        gaussian_upper_bound(-t, y + 4),
    ):
        assert [same.x, same.y] == pytest.approx([value.x, value.y], abs=1e-9)


def test_label_value_is_no_bound_and_keeps_below_the_input_value():
    y = np.arange(400) % 2
    t = (2.0 * y - 1)[:, None] * 0.9 + 0.01 * np.random.default_rng(0).normal(size=(400, 1))
    result = gaussian_upper_bound(t, y)
    assert result.label_ceiling == 1 and result.y > 3
    assert result.y <= result.x


def test_jit_and_vmap_equal_the_eager_result():
    y = problem(300, 5)[1]
    ts = np.stack([problem(300, 5, seed=s)[0].astype(np.float32) for s in range(2)])
    expected = np.array([[r.x, r.y, r.ceiling] for r in (gaussian_upper_bound(t, y) for t in ts)])
    batched = jax.vmap(lambda t: gaussian_upper_bound(t, y))(ts)
    # float32: relative error 1e-6 of covariances, in logarithms that sum to about 20 bits.
    close = {"atol": 5e-5, "rtol": 0}
    np.testing.assert_allclose(np.stack([batched.x, batched.y], 1), expected[:, :2], **close)
    traced = jax.jit(lambda t, y, s: gaussian_upper_bound(t, y, s, classes=4))(ts[0], y, 0.1)
    np.testing.assert_allclose([traced.x, traced.y, traced.ceiling], expected[0], **close)
    result = gaussian_upper_bound(ts[0], y)
    assert all(isinstance(leaf, np.float64) for leaf in jax.tree.leaves(result))
    assert gaussian_upper_bound(ts[0]).y is None
