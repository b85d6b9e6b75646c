"""What process 0 tells the others, in a process that is alone."""

import pytest

from nestax.levels import _processes


@pytest.mark.parametrize(
    ("error", "function"),
    [(ValueError, lambda: "x" * 5000), (KeyboardInterrupt, lambda: next(interrupted()))],
)
def test_the_others_always_hear_an_answer(monkeypatch, error, function):
    heard = []
    monkeypatch.setattr(_processes, "told", lambda text: heard.append(text) or [text])
    with pytest.raises(error):
        _processes.led(function)
    assert heard[0].startswith(f"!{error.__name__}")


def interrupted():
    raise KeyboardInterrupt
    yield
