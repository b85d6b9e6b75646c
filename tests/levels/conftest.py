"""What the tests of levels share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FACTORS = np.array([0x9E3779B1, 0x85EBCA6B], np.uint32)
fold_in = jax.random.fold_in


def short_fold_in(key, number):
    number = np.uint32(number) if isinstance(number, int) else number.astype(jnp.uint32)
    return jax.random.wrap_key_data((jax.random.key_data(key) ^ number) * FACTORS)


@pytest.fixture(scope="module", autouse=True)
def short_keys():
    """Keys are folded by two operations in place of threefry, whose loops are the longer part of
    the program of a small nest. Which numbers are folded, and in which order, is the nest's own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "fold_in", short_fold_in)
        yield


@pytest.fixture
def threefry(monkeypatch):
    """Keys are folded as users have it: where numbers are recorded, or the draws tested."""
    monkeypatch.setattr(jax.random, "fold_in", fold_in)
