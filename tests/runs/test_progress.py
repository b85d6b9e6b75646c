"""What is printed when nobody watches, and when somebody does."""

import io

from rich.console import Console

from nestax.runs import Progress


def test_plain_lines_when_piped():
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, soft_wrap=True)
    with Progress(100, console, every=0) as progress:
        progress.note("digits [not markup]")
        progress.update(0, "SGD  epoch 0/100  loss 2.3026")
        progress.update(50, "SGD  epoch 50/100  loss 0.5000")
    lines = out.getvalue().splitlines()
    assert lines[0] == "digits [not markup]"
    assert lines[1].startswith("  0%  SGD  epoch 0/100  loss 2.3026")
    assert lines[2].startswith(" 50%  SGD  epoch 50/100  loss 0.5000  left 0 s")
    assert "\x1b" not in out.getvalue()


def test_lines_are_rare():
    out = io.StringIO()
    with Progress(100, Console(file=out, force_terminal=False), every=3600) as progress:
        for done in range(100):
            progress.update(done, "text")
    assert out.getvalue() == ""


def test_a_live_line_on_a_terminal():
    out = io.StringIO()
    with Progress(100, Console(file=out, force_terminal=True, width=120)) as progress:
        progress.update(40, "AdamW  epoch 40/100  loss 0.1234  test accuracy 0.951")
    assert "40%" in out.getvalue()
    assert "AdamW  epoch 40/100  loss 0.1234  test accuracy 0.951" in out.getvalue()
