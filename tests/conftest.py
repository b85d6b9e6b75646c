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
