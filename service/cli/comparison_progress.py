"""A comparison under a progress bar, on this machine or on a server."""

from __future__ import annotations

from contextlib import aclosing

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.cli import local, remote
from service.schema.comparisons import ComparisonCompleted, ComparisonRequest, ImageArrived, RequestMeasured
from service.settings.model import Settings


class _Bar(Progress):
    """Shows the progress of a comparison: the events so far, of all its events."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=console, transient=True)
        self._task = self.add_task("comparing", total=None)

    def show(self, event: ImageArrived | RequestMeasured) -> None:
        self.update(self._task, completed=event.done, total=event.total, description=event.model)


async def compare_here(settings: Settings, body: ComparisonRequest, console: Console) -> ComparisonCompleted:
    """Run a comparison on this machine under a progress bar. Raises the errors of local.compare."""
    with _Bar(console) as bar:
        async with aclosing(local.compare(settings, body, console)) as events:
            async for event in events:
                if isinstance(event, ComparisonCompleted):
                    return event
                bar.show(event)
    raise AssertionError("a comparison ends by completing or raising")


def compare_on_server(url: str, body: ComparisonRequest, console: Console) -> ComparisonCompleted:
    """Run a comparison on a server under a progress bar. Raises RemoteError."""
    with _Bar(console) as bar:
        for event in remote.compare(url, body):
            if isinstance(event, ComparisonCompleted):
                return event
            bar.show(event)
    raise remote.RemoteError(f"{url} ended the comparison before it was complete.")
