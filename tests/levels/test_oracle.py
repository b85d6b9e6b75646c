"""Compiled nests, drawn at random, against the tick-by-tick interpreter."""

import jax
import pytest
from references.nests import agree, draw

SEEDS = range(28)


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    """Compilation is most of the time here, and speed of what is compiled does not matter."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_nest(x64, seed):
    nest, values, _ = draw(seed)
    whole_run = seed % 4 == 0
    agree(nest, values, 2, seed, whole_run, gradients=list(values)[-1:] if whole_run else ())
