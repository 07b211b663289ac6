"""The progress bar of long operations: rate, time left, and named values such as the loss.

On a terminal it is a live bar. Elsewhere (a log file, CI) it prints a line every half minute.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LINE_EVERY_S = 30.0


class Progress:
    """A progress bar: `with Progress("teacher", total) as p: p.advance(64); p.report(loss=0.1)`."""

    def __init__(self, title: str, total: int, done: int = 0, *, unit: str = "images", enabled: bool = True) -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self._first, self._started, self._values = done, time.monotonic(), ""
        self._console = Console(file=sys.stderr)
        self._live = enabled and self._console.is_terminal
        self._lines = enabled and not self._live
        self._last_line = self._started
        self._bar = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[extra]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self._console, disable=not self._live,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=total, completed=done, extra="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        if self._lines and kind is None:
            self._line()

    @property
    def first(self) -> bool:
        """True until the first call of `report`."""
        return not self._values

    @property
    def rate(self) -> float:
        """Units per second since this bar started."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.done += count
        self._bar.update(self._task, completed=self.done, extra=f"{self.rate:.1f} {self.unit}/s {self._values}")
        if self._lines and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._line()

    def report(self, **values: float) -> None:
        """Show named values beside the bar."""
        self._values = " ".join(f"{name} {value:.4g}" for name, value in values.items())

    def _line(self) -> None:
        self._last_line = time.monotonic()
        remaining = self.total - self.done
        left = remaining / self.rate if self.rate > 0 else float("inf") if remaining else 0.0
        done = f"{self.title}: {self.done:,}/{self.total:,} {self.unit}"
        values = f" {self._values}," if self._values else ""
        print(f"{done}, {self.rate:.1f}/s,{values} {left / 60:.1f} min left", file=sys.stderr, flush=True)
