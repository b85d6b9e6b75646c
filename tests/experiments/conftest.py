"""What the tests of the studies share."""

import dataclasses
import json

import jax
import pytest

from nestax.runs import RunFolder


@pytest.fixture(scope="module")
def compile_quickly():
    """Compilation is most of the time here, and speed of what is compiled does not matter."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def folder():
    """(path, settings) -> a new run's folder, with settings as they come back from it."""

    def create(path, settings):
        asked = json.loads(json.dumps(dataclasses.asdict(settings)))
        return RunFolder.create(path, "study", asked)

    return create
