"""Nearest-neighbour information: naive reference, Gaussian closed form, invariances."""

import math

import jax
import numpy as np
import pytest
from references import information as reference
from scipy.special import digamma

from nestax.information import ksg


def gaussian(rho, n, seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return a, rho * a + math.sqrt(1 - rho**2) * rng.normal(size=n)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_equals_the_loop(k):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(63, 3)), rng.normal(size=(63, 2))
    b[:, 0] += 2 * a[:, 1]
    assert ksg(a, b, k).x == pytest.approx(reference.ksg(a, b, k), abs=1e-12)


def test_equals_the_loop_beyond_one_block_and_at_the_largest_k():
    a, b = gaussian(0.8, 300, 0)
    assert ksg(a, b).x == pytest.approx(reference.ksg(a[:, None], b[:, None], 3), abs=1e-12)
    assert ksg(a[:9], b[:9], 8).x == pytest.approx(
        reference.ksg(a[:9, None], b[:9, None], 8), abs=1e-12
    )


def test_equals_the_loop_with_ties():
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 30, (80, 2)), axis=0) + 0.0
    a, b = rng.permutation(pairs).T[..., None]
    assert ksg(a, b).x == pytest.approx(reference.ksg(a, b, 3), abs=1e-12)


@pytest.mark.parametrize("grid", [0.01, 0.03])
def test_rounding_a_sample_hardly_changes_it(grid):
    """Where only what is strictly nearer counts, the values are 0.08 and 0.2 bits too large."""
    a, b = gaussian(0.8, 60, 0)
    rounded = [ksg(np.round(a / grid), np.round(b / grid)).x, ksg(a, b).x]
    assert rounded[0] == pytest.approx(rounded[1], abs=0.025)


def test_repeated_rows_are_refused():
    a, b = gaussian(0.8, 50, 0)
    with pytest.raises(ValueError, match=r"ksg: 50 row\(s\) of \(a, b\) repeat .* first row 0"):
        ksg(np.tile(a, 2), np.tile(b, 2))
    ksg(np.tile(a, 2), np.append(b, -b))  # of one variable alone they may


@pytest.mark.parametrize("scale", [1e3, 1e-3, 1e300, 1e-300])
def test_the_scale_and_place_of_a_unit_change_nothing(scale):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(100, 2)), rng.normal(size=100)
    b = b + a[:, 0]
    value = ksg(a, b).x
    assert ksg(a * [1, scale], b).x == pytest.approx(value, abs=1e-9)
    assert ksg(a, b * scale).x == pytest.approx(value, abs=1e-9)
    assert ksg(a, 3 - b).x == pytest.approx(value, abs=1e-9)
    # Without standardizing, a common scale.
    value = ksg(a, b, standardize=False).x
    assert value == pytest.approx(reference.ksg(a, b[:, None], 3, False), abs=1e-12)
    assert ksg(a * scale, b * scale, standardize=False).x == pytest.approx(value, abs=1e-9)


def test_large_integers_keep_their_digits():
    rng = np.random.default_rng(0)
    a = rng.permutation(10_000)[:200]
    b = a + rng.permutation(500)[:200]
    value = ksg(a, b).x
    assert ksg(2**60 + a, -(2**62) + b).x == pytest.approx(value, abs=1e-12)
    far = np.uint64(2**63) + a.astype(np.uint64)
    assert ksg(far, b).x == pytest.approx(value, abs=1e-12)
    traced = jax.jit(lambda a, b: ksg(a, b).x)(np.int32(2**30) + a.astype(np.int32), b)
    assert traced == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("rho", [0.9, 0.99])
def test_bivariate_gaussian(rho):
    """T5: -log2(1 - rho^2) / 2."""
    exact = -0.5 * math.log2(1 - rho**2)
    assert exact == pytest.approx({0.9: 1.198, 0.99: 2.826}[rho], abs=1e-3)
    estimates = [ksg(*gaussian(rho, 2000, seed)).x for seed in range(8)]
    assert np.mean(estimates) == pytest.approx(exact, abs=0.03)
    assert max(abs(estimate - exact) for estimate in estimates) < 0.1


def test_independent_variables():
    rng = np.random.default_rng(0)
    assert abs(ksg(rng.normal(size=(2000, 2)), rng.normal(size=2000)).x) < 0.05


def test_symmetric_and_invariant_to_order_sign_and_common_scale():
    a, b = gaussian(0.7, 200, 0)
    value = ksg(a, b).x
    order = np.random.default_rng(1).permutation(200)
    for other in (ksg(b, a), ksg(a[order], b[order]), ksg(-a, b), ksg(4 * a, 4 * b)):
        assert other.x == pytest.approx(value, abs=1e-12)


def test_ceiling():
    a = np.random.default_rng(0).normal(size=400)
    result = ksg(a, a, 1)
    assert result.ceiling == pytest.approx((digamma(400) - digamma(1)) / math.log(2), abs=1e-12)
    # One variable twice: both counts are k - 1 and the ceiling is reached, whatever the density.
    assert result.x == pytest.approx(result.ceiling, abs=1e-12) and result.at_ceiling
    assert not ksg(*gaussian(0.9, 400, 0)).at_ceiling


def test_jit_and_vmap_equal_the_eager_result():
    pairs = np.stack([np.stack(gaussian(0.9, 300, s)) for s in range(2)]).astype(np.float32)
    expected = [ksg(a, b).x for a, b in pairs]
    assert all(isinstance(value, np.float64) for value in expected)
    # float32: digammas of order 10, averaged; distances are the same numbers in either.
    batched = jax.vmap(lambda p: ksg(p[0], p[1]).x)(pairs)
    np.testing.assert_allclose(batched, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        jax.jit(ksg, static_argnames="k")(*pairs[0]).x, expected[0], atol=1e-5, rtol=0
    )
