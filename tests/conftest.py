"""Strict by default: two devices, rank promotion and warnings are errors, types are checked."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Everything in the test is computed in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compile_quickly():
    """Compilation is most of the time here, and speed of what is compiled does not matter."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
