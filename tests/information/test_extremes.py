"""Integers of any size, and activations of any scale: the same values as of moderate ones."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from references import information as reference

from nestax.information import binned, gaussian_upper_bound, kde_bounds, standardize

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 3
WIDTHS = [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64]


def exact_cells(t, bins, low, high):
    """Cells of integers, in rational numbers."""
    width = Fraction(high - low, bins)
    cells = [[math.floor((int(v) - low) / width) for v in row] for row in t]
    return np.clip(cells, 0, bins - 1)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_integers_of_every_type_are_sorted_into_cells_exactly(dtype):
    """Seven cells, so that no edge of theirs is an integer."""
    info = np.iinfo(dtype)
    values = [int(info.min) + (int(info.max) - int(info.min)) * i // 23 for i in range(24)]
    t = np.array(values, dtype)[np.random.default_rng(0).permutation(24).reshape(12, 2)]
    low, high = int(info.min), int(info.max)
    cells = exact_cells(t, 7, low, high)
    expected = reference.binned(cells)[0]
    assert binned(t, bins=7, low=low, high=high).x == pytest.approx(expected, abs=1e-12)
    assert binned(t, bins=7, edges="adaptive").x == pytest.approx(expected, abs=1e-12)
    ranks = np.argsort(np.argsort(t.astype(object), axis=0), axis=0)
    ranked = reference.binned(reference.quantile_cells(ranks + 0.0, 7))[0]
    assert binned(t, bins=7, edges="quantile").x == pytest.approx(ranked, abs=1e-12)
    if np.dtype(dtype).itemsize < 8:  # no wider ones are traced
        fixed = jax.jit(lambda t: binned(t, bins=7, low=low, high=high).x)
        assert fixed(t) == pytest.approx(expected, abs=1e-5)
        quantile = jax.jit(lambda t: binned(t, bins=7, edges="quantile").x)
        assert quantile(t) == pytest.approx(ranked, abs=1e-5)


@pytest.mark.parametrize("edges", ["fixed", "adaptive", "quantile"])
def test_shifted_integers_keep_their_digits(edges):
    t = np.random.default_rng(0).permutation(100).reshape(50, 2)
    value = binned(t, Y[np.arange(50) % 40], low=0, high=100, edges=edges)
    shift = 2**60
    far = binned(t + shift, Y[np.arange(50) % 40], low=shift, high=shift + 100, edges=edges)
    assert (far.x, far.y, far.cells) == (value.x, value.y, value.cells)
    near = jax.jit(lambda t: binned(t, low=2**30, high=2**30 + 100, edges=edges).x)(
        (t + 2**30).astype(np.int32)
    )
    assert near == pytest.approx(value.x, abs=1e-5)


def test_strict_ends_of_large_integers_are_exact():
    t = np.array([[2**60], [2**60 + 1]])
    binned(t, low=2.0**60, high=2**60 + 1, strict=True)
    with pytest.raises(ValueError, match=r"t holds 1 value\(s\) outside .* row 1, unit 0"):
        binned(t, low=0.5, high=2.0**60, strict=True)


def test_cells_of_integers_inside_wider_ends():
    t = np.array([[-128], [0], [127], [3]], np.int8)
    for low, high in ((-1000, 1000), (-1000.5, 200.25), (0.5, 2.0)):
        cells = exact_cells(t, 5, Fraction(low), Fraction(high))
        for f in (binned, jax.jit(binned, static_argnums=(1, 2, 3, 4))):
            assert f(t, None, 5, low, high).x == pytest.approx(reference.binned(cells)[0], abs=1e-6)


@pytest.mark.parametrize("estimator", [kde_bounds, gaussian_upper_bound, standardize])
def test_what_does_not_change_by_a_shift_does_not_by_a_large_one(estimator):
    t = np.random.default_rng(0).integers(-5, 5, (30, 2))
    noise = {kde_bounds: {"noise_variance": 4.0}, gaussian_upper_bound: {"bound": None}}
    values, far = (estimator(s, **noise.get(estimator, {})) for s in (t + 0.0, t + 2**60))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), values, far)


@pytest.mark.parametrize("power", [-1040, -900, 900, 1020])
def test_powers_of_two_change_nothing(power):
    t = np.ldexp(X, power)
    if power > -1000:  # below, what is left of the digits
        np.testing.assert_allclose(standardize(t), standardize(X), atol=1e-14)
    else:
        np.testing.assert_allclose(standardize(t), standardize(X), atol=1e-8)
    for edges in ("adaptive", "quantile"):
        assert binned(t, edges=edges).x == binned(X, edges=edges).x
    if abs(power) < 1000:
        std = 0.1 * 2.0**power
        scaled = gaussian_upper_bound(t, Y, std, epsilon=0.0, bound=3 * 2.0**power)
        plain = gaussian_upper_bound(X, Y, 0.1, epsilon=0.0, bound=3.0)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), scaled, plain)


@pytest.mark.parametrize("power", [-500, 500])
def test_noise_of_the_same_scale_gives_the_same_bounds(power):
    scaled = kde_bounds(np.ldexp(X, power), Y, 0.5 * 4.0**power)
    plain = kde_bounds(X, Y, 0.5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), scaled, plain)


@pytest.mark.parametrize("power", [-90, 100, 125])
def test_traced_scales_agree_with_concrete_ones(power):
    t = np.ldexp(X, power).astype(np.float32)
    np.testing.assert_allclose(jax.jit(standardize)(t), standardize(t), atol=1e-5)
    for edges in ("adaptive", "quantile"):
        traced = jax.jit(lambda t, edges=edges: binned(t, bins=4, edges=edges).x)(t)
        assert traced == pytest.approx(binned(t, bins=4, edges=edges).x, abs=1e-5)


def test_far_above_the_noise_a_dependent_unit_adds_nothing_but_its_length():
    """One unit twice: the eigenvalues are 1 and 1 + 2 var / noise^2."""
    t = np.repeat(X[:, :1], 2, axis=1)
    for scale in (1e3, 1e6, 1e9):
        expected = 0.5 * math.log2(1 + 2 * np.var(scale * X[:, 0], ddof=1))
        found = gaussian_upper_bound(scale * t, noise_std=1.0, epsilon=0.0).x
        assert found == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"gaussian_upper_bound: t spreads over .*at most 1e12"):
        gaussian_upper_bound(1e14 * t, noise_std=1.0)
    lone = gaussian_upper_bound(1e200 * X[:, :1], noise_std=1.0, epsilon=0.0).x
    assert lone == pytest.approx(math.log2(1e200) + 0.5 * math.log2(np.var(X[:, 0], ddof=1)))


def test_noise_that_the_traced_precision_cannot_hold_is_refused():
    t = X.astype(np.float32)
    for estimator, noise in ((kde_bounds, 1e-90), (gaussian_upper_bound, 1e-45)):
        kept = {"epsilon": 0.0} if estimator is gaussian_upper_bound else {}
        estimator(noise * X, None, noise, **kept)
        with pytest.raises(ValueError, match=r"out of the range of float32; rescale"):
            jax.jit(lambda t, e=estimator, n=noise, k=kept: e(t, None, n, **k))(t)


def test_cells_too_narrow_for_the_dtype_are_refused():
    t = X.astype(np.float32)
    for low, high in ((0.0, 1e-300), (1.0, 1.0 + 1e-7), (-1e300, 1e300)):
        with pytest.raises(ValueError, match="no 29 different edges of float32"):
            binned(t, low=low, high=high)
        binned(X, low=low, high=max(high, low + 1e-9))
    with pytest.raises(ValueError, match="bins is 2147483647; expected between 2 and 16777216"):
        binned(t, bins=2**31 - 1)
