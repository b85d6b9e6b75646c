"""Standardising activations, and the entropy of labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import information as reference

from nestax.information import label_entropy, standardize


def test_standardize():
    t = np.random.default_rng(0).normal(3.0, 7.0, size=(100, 3)).astype(np.float32)
    scaled = standardize(t)
    assert scaled.dtype == np.float32 and scaled.shape == t.shape
    np.testing.assert_allclose(scaled.mean(0, dtype=np.float64), 0, atol=1e-7)
    np.testing.assert_allclose(scaled.std(0, dtype=np.float64), 1, atol=1e-6)
    wide = t.astype(np.float64)
    np.testing.assert_allclose(standardize(wide), (wide - wide.mean(0)) / wide.std(0), atol=1e-12)
    np.testing.assert_allclose(standardize(wide * 1e-4 - 8), standardize(wide), atol=1e-9)


def test_constant_units_become_zero():
    # 0.1 is not the float32 mean of 0.1 repeated 1000 times.
    t = np.stack([np.full(1000, 0.1), np.arange(1000.0), np.full(1000, -1e20)], 1)
    for dtype in (np.float32, np.float64):
        scaled = standardize(t.astype(dtype))
        assert not scaled[:, [0, 2]].any() and scaled[:, 1].std() == pytest.approx(1, abs=1e-5)
        assert not jax.jit(standardize)(t.astype(np.float32))[:, [0, 2]].any()


def test_standardize_under_jit_and_vmap():
    ts = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    expected = np.stack([standardize(t) for t in ts])
    np.testing.assert_allclose(jax.vmap(standardize)(ts), expected, atol=1e-6)
    assert isinstance(jax.jit(standardize)(ts[0]), jax.Array)


def test_label_entropy():
    y = np.random.default_rng(0).integers(-3, 9, 1000)
    expected = reference.entropy(np.unique(y, return_counts=True)[1])
    for same in (y, jnp.asarray(y), y * 10**6, y.astype(np.int8)):
        value = label_entropy(same)
        assert isinstance(value, np.float64) and value == pytest.approx(expected, abs=1e-12)
    assert label_entropy(np.arange(16), classes=16) == 4
    assert label_entropy(np.zeros(5, int)) == 0
    assert label_entropy(np.array([True, False])) == 1
    # float32: a sum of 1000 terms of order 0.01.
    np.testing.assert_allclose(jax.jit(label_entropy)(y), expected, atol=1e-6)
    declared = jax.jit(lambda y: label_entropy(y, classes=tuple(range(-3, 9))))(y)
    np.testing.assert_allclose(declared, expected, atol=1e-6)
