"""What the tests of levels share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def threefry():
    """Keys are folded as users have it: where numbers are recorded, or the draws tested."""


@pytest.fixture(autouse=True)
def short_keys(request, monkeypatch):
    """Keys are folded by two operations in place of threefry, whose loops are the longer part of
    the program of a small nest. Which numbers are folded, and in which order, is the nest's own.
    """
    if "threefry" in request.fixturenames:
        return
    factors = np.array([0x9E3779B1, 0x85EBCA6B], np.uint32)

    def fold_in(key, number):
        number = np.uint32(number) if isinstance(number, int) else number.astype(jnp.uint32)
        return jax.random.wrap_key_data((jax.random.key_data(key) ^ number) * factors)

    monkeypatch.setattr(jax.random, "fold_in", fold_in)
