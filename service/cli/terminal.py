"""What the sfddm command shows: the table of models, and a comparison's progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from service.cli import remote
from service.cli.local import compare_models
from service.schema.comparisons import ComparisonCompleted, ComparisonEvent, ComparisonRequest
from service.schema.models import ModelBody
from service.settings.model import Settings


async def watch(settings: Settings, body: ComparisonRequest, console: Console) -> ComparisonCompleted:
    """Run a comparison on this machine under a progress bar. Raises what compare_models raises."""
    with _progress(console) as tell:
        async with aclosing(compare_models(settings, body, console)) as events:
            async for event in events:
                if tell(event):
                    assert isinstance(event, ComparisonCompleted)
                    return event
    raise AssertionError("a comparison ends by completing or raising")


def watch_remote(url: str, body: ComparisonRequest, console: Console) -> ComparisonCompleted:
    """Run a comparison on a server under a progress bar. Raises RemoteError."""
    with _progress(console) as tell:
        for event in remote.compare(url, body):
            if tell(event):
                assert isinstance(event, ComparisonCompleted)
                return event
    raise remote.RemoteError(f"{url} ended the comparison before it was complete.")


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[ComparisonEvent], bool]]:
    """A bar, and the function that moves it; it returns whether the event is the last."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("comparing", total=None)

        def tell(event: ComparisonEvent) -> bool:
            if isinstance(event, ComparisonCompleted):
                return True
            progress.update(bar, completed=event.done, total=event.total, description=event.model)
            return False

        yield tell


def models_table(models: Sequence[ModelBody]) -> Table:
    """One row a model; fits 80 columns while ids have up to 25 letters, and folds longer ones."""
    table = Table(Column("id", overflow="fold"), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("steps", "image", "MB", "latency", "img/s", "PSNR"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("quality", no_wrap=True)
    for model in models:
        table.add_row(
            model.id,
            str(model.steps),
            model.size,
            f"{model.bytes / 1e6:.1f}",
            _latency(model),
            _throughput(model),
            _psnr(model),
            _quality(model),
        )
    return table


def _latency(model: ModelBody) -> str:
    """One image alone: every step at what the smallest batch was measured to take."""
    if not model.ms_per_step:
        return model.status
    return f"{model.steps * model.ms_per_step[min(model.ms_per_step)]:.0f} ms"


def _throughput(model: ModelBody) -> str:
    """Images a second of a device that makes nothing else, at the best of the measured batch sizes."""
    if not model.ms_per_step:
        return "-"
    rate = max(rows / ms for rows, ms in model.ms_per_step.items()) * 1000 / model.steps
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _quality(model: ModelBody) -> str:
    """The ranking metric of the model's own plan, or nothing; a teacher that it is measured against is the reference."""
    metrics = _metrics(model)
    if model.ranking is None or model.ranking.metric not in metrics:
        return "-"
    value = metrics[model.ranking.metric]
    if value == 0 and model.ranking.metric == "rmse" and model.kind == "teacher":
        return "reference"
    if model.ranking.metric == "kid":
        return f"KID {1000 * value:.3g}"  # times 1000, as on the page and in the tables
    return f"{model.ranking.metric} {value:.3g}"


def _psnr(model: ModelBody) -> str:
    """PSNR to the teacher in dB, where it was measured."""
    psnr_db = _metrics(model).get("psnr_db")
    return "-" if psnr_db is None else f"{psnr_db:.1f}"


def _metrics(model: ModelBody) -> Mapping[str, float]:
    """What was measured of the model's own plan."""
    measured = model.quality.get(f"{model.sampler}-{model.steps:03d}")
    return measured.metrics if measured else {}
