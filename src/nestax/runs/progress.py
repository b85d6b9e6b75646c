"""What a person watches during a run: a live bar on a terminal or in a notebook, plain lines when
piped."""

import html
import sys
import time
from importlib import import_module
from types import TracebackType
from typing import Any


class Progress:
    """Shows the progress of a run; use it in a `with` statement.

    On a terminal it is one live line: a bar, the share done, a text, and the time left. Otherwise,
    or if rich is not installed, it is a plain line at most every `every` seconds, and one for each
    `note`.

    Args:
        total: number of units of the whole run, such as steps.
        console: a `rich.console.Console`; None: standard output.
        every: seconds between two plain lines, at least.
    """

    def __init__(self, total: float | int, console: Any = None, every: float | int = 10):
        try:
            from rich.console import Console
        except ModuleNotFoundError:
            self.console = None
        else:
            self.console = console or Console(highlight=False, soft_wrap=True)
        self._live = self.console is not None and self.console.is_terminal
        self._total, self._every = total, every
        self._began = self._last = time.monotonic()
        self._start: float | int | None = None
        self._bar: Any = None
        self._task: Any = None
        if self._live:  # rich before 15 prints an empty line for a bar that is not shown
            self._make_bar(total)

    def _make_bar(self, total: float | int) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            # Steps speed up after compilation; an estimate over the last minutes follows that.
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Prints a line that stays.

        Args:
            text: the line.
        """
        if self.console is None:
            print(text, flush=True)
        else:
            self.console.print(text, markup=False)

    def update(self, done: float | int, text: str) -> None:
        """Shows how far the run is.

        Args:
            done: units done, of `total`; in the first call, those done before a resumed run.
            text: shown beside the bar, such as the present loss.
        """
        if self._start is None:
            self._start, self._began = done, time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        now = time.monotonic()
        if not self._live and now - self._last >= self._every:
            self._last = now
            self.note(f"{done / self._total:4.0%}  {text}  left {self._left(done)}")

    def _left(self, done: float | int) -> str:
        made = done - (self._start or 0.0)
        if made <= 0:
            return "unknown"
        seconds = (time.monotonic() - self._began) / made * (self._total - done)
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


_QUIET = 1.0  # seconds; shorter runs in a notebook show nothing


def in_notebook() -> bool:
    """Whether this is an IPython kernel: a notebook's process. Imports nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """`Progress` in a notebook's cell: one bar for each execution of a cell, whatever runs in
    it."""

    _shown: Any = None  # (execution count of the cell, its display)

    def __init__(self, total: float | int):
        self._total, self._began, self._last = total, time.monotonic(), 0.0
        self._text, self._done = "", 0.0

    def __enter__(self) -> "NotebookBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._last:
            self._show()

    def update(self, done: float | int, text: str) -> None:
        """Says how far the run is, as `Progress.update` does."""
        self._done, self._text, now = done, text, time.monotonic()
        if now - self._began > _QUIET and now - self._last > 0.2:
            self._last = now
            self._show()

    def _show(self) -> None:
        share = f"{self._done / self._total:4.0%}  {self._text}"
        data = {
            "text/plain": share,
            "text/html": f'<progress value="{self._done}" max="{self._total}"></progress> '
            f"<code>{html.escape(share)}</code>",
        }
        cell = sys.modules["IPython"].get_ipython().execution_count
        if NotebookBar._shown is None or NotebookBar._shown[0] != cell:
            shown = import_module("IPython.display").display(data, raw=True, display_id=True)
            NotebookBar._shown = (cell, shown)
        else:
            NotebookBar._shown[1].update(data, raw=True)


def bar(total: float | int) -> "Progress | NotebookBar":
    """What shows progress here."""
    return NotebookBar(total) if in_notebook() else Progress(total)
