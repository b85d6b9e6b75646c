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
    a, b = rng.integers(0, 30, (80, 1)) + 0.0, rng.integers(0, 30, (80, 1)) + 0.0
    assert ksg(a, b).x == pytest.approx(reference.ksg(a, b, 3), abs=1e-12)


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
