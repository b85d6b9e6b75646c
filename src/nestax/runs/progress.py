"""What a person watches during a run: a live bar on a terminal, plain lines when piped."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Progress of a run of `total` units; use it in a `with` statement.

    On a terminal one live line: the bar, the share done, the numbers that matter, the time left.
    Otherwise a plain line at most every `every` seconds, and one for each `note`.
    """

    def __init__(self, total: float | int, console: Console | None = None, every: float | int = 10):
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live = self.console.is_terminal
        self._total, self._every = total, every
        self._began = self._last = time.monotonic()
        self._start: float | int | None = None
        self._bar = Bar(
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self._live,
            # Steps speed up after compilation; an estimate over the last minutes follows that.
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(text, markup=False)

    def update(self, done: float | int, text: str) -> None:
        """Says how far the run is.

        Args:
            done: units done, of `total`; the first call says where a resumed run starts.
            text: the numbers that matter now.
        """
        if self._start is None:
            self._start, self._began = done, time.monotonic()
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
