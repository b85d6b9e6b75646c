"""Loops as compilation likes them: it is most of the time these tests take."""

import pytest

from nestax.memory import _loop, _scan


@pytest.fixture
def usual_loops():
    """For tests that are to have loops as users have them."""


@pytest.fixture(autouse=True)
def short_programs(request, monkeypatch):
    """Loops that keep less for the backward pass, or do several rounds at once for speed, compile
    their body several times; what they compute is the same."""
    if "usual_loops" not in request.fixturenames:
        monkeypatch.setattr(_loop, "_SHORT", 10_000)
        monkeypatch.setattr(_scan, "_UNROLLED", 1)
