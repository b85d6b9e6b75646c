"""Many small programs: compiled without optimization, which takes half the time."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly(compile_quickly):
    return compile_quickly
