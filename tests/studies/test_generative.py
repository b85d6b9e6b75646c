"""Measures of samples against plain numpy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from nestax_studies import generative


def compiled(measure, *more):
    return jax.jit(lambda *arrays: measure(*arrays, *more))


def naive_lies_among(points, others, k):
    """The share of points that lie within some other's distance to its k-th neighbour."""
    inside = 0
    for point in points:
        for place, other in enumerate(others):
            rest = np.delete(others, place, axis=0)
            reach = np.sort(np.linalg.norm(rest - other, axis=1))[k - 1]
            if np.linalg.norm(point - other) <= reach:
                inside += 1
                break
    return inside / len(points)


def test_precision_and_recall_equal_a_loop_over_all_points(x64):
    random = np.random.default_rng(0)
    real, made = random.normal(size=(23, 3)), random.normal(1.2, 0.9, (17, 3))
    real[4] = real[5]  # a neighbour at distance 0, which counts as one
    for k in (1, 3):
        found = compiled(generative.precision_recall, k)(real, made)
        expected = [naive_lies_among(made, real, k), naive_lies_among(real, made, k)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert min(expected) > 0 and max(expected) < 1
    far = generative.precision_recall(jnp.asarray(real[:8]), jnp.asarray(real[:8] + 100))
    assert [float(one) for one in far] == [0, 0]


def test_near_points_far_from_the_origin_are_told_apart():
    real = np.float32(3000) + np.arange(6, dtype=np.float32)[:, None] / 64
    made = real + np.float32(1 / 16)
    precision, recall = generative.precision_recall(jnp.asarray(real), jnp.asarray(made), 1)
    assert (float(precision), float(recall)) == (0.5, 0.5)


def test_the_frechet_distance_is_that_of_the_matrix_root_of_scipy(x64):
    random = np.random.default_rng(1)
    real, made = (
        random.normal(size=(40, 4)),
        random.normal(1, 2, (30, 4)) @ random.normal(size=(4, 4)),
    )
    first, second = np.cov(real.T), np.cov(made.T)
    root = scipy.linalg.sqrtm(first @ second)
    gap = np.sum((real.mean(0) - made.mean(0)) ** 2)
    expected = gap + np.trace(first + second - 2 * root.real)
    found = compiled(generative.frechet)
    np.testing.assert_allclose(found(real, made), expected, rtol=1e-10)
    np.testing.assert_allclose(found(real, real), 0, atol=1e-12)
    a, b = real[:, :1], 3 * real[:, :1] + 1  # in one dimension: (mean - mean)² + (std - std)²
    by_hand = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    np.testing.assert_allclose(found(a, b), by_hand, rtol=1e-10)


def test_modes_are_counted_where_enough_samples_are_near(x64):
    random = np.random.default_rng(2)
    centres = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    samples = np.concatenate(
        [random.normal(0, 0.2, (49, 2)), [[1.0, 0.1]], random.normal(5, 1, (50, 2))]
    )
    counts = np.zeros(4)
    for sample in samples:
        apart = [np.hypot(*(sample - centre)) for centre in centres]
        counts[int(np.argmin(apart)) if min(apart) <= 0.3 else 3] += 1
    shares = compiled(generative.mode_shares, 0.3)(samples, centres)
    np.testing.assert_allclose(shares, counts / 100, rtol=1e-12)
    assert counts[0] > 20 and counts[3] > 50
    assert [int(generative.modes_covered(shares, least)) for least in (0.005, 0.02)] == [2, 1]
    assert int(generative.modes_covered(jnp.array([0.02, 0.0199, 0.9, 0.06]))) == 2
    wanted = jnp.array([0.5, 0.25, 0.25, 0.0])
    for share, expected in (([0.5, 0.25, 0.25, 0], 1), ([1, 0, 0, 0], 0.5), ([0, 0, 0, 1], 0)):
        assert float(generative.matched(jnp.array(share, float), wanted)) == expected


def test_too_few_samples_are_refused():
    few, many = jnp.zeros((3, 2)), jnp.zeros((5, 2))
    with pytest.raises(ValueError, match="less than the 3 samples, got 3"):
        generative.precision_recall(many, few, 3)
    with pytest.raises(ValueError, match="got 5 and 1"):
        generative.frechet(many, few[:1])
