"""The engine without a server: what `sfddm generate` and `sfddm models` do on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from models.catalogue import Catalogue, Entry
from service.api.generation import Generation, plan_generation, size_of
from service.api.schema import GenerationRequest
from service.api.state import Service, assemble, choose_default, open_catalogue
from service.encode import FORMATS, ImageFormat, encode, grid
from service.engine.request import Failed, Finished, UnavailableError
from service.settings import Settings

_READY_POLL_S = 0.02
_PREVIEWS = 16  # reports of progress per image; a preview costs one copy of an image


class _StepRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "", style="progress.data.speed")


class OutputError(Exception):
    """The images cannot be written there; the message says why."""


async def generate_images(
    settings: Settings, request: GenerationRequest, console: Console
) -> tuple[Generation, list[Finished]]:
    """Load the one model that is asked for, run the request with a progress bar on `console`, and shut down.

    Raises StartupError, UnknownModelError, InvalidRequestError and the engine's errors.
    """
    catalogue = open_catalogue(settings.zoos)
    entry = catalogue.resolve(request.model or choose_default(catalogue, settings.default_model)).entry
    service = assemble(settings, Catalogue({entry.id: entry}))
    generation = plan_generation(request, service)
    service.engine.start()
    try:
        with console.status(f"Loading {entry.id}"):
            while not service.engine.ready:
                status = service.engine.models[entry.id]
                if status.state == "failed":
                    raise UnavailableError(f"The model {entry.id} could not be loaded: {status.reason}")
                await asyncio.sleep(_READY_POLL_S)
        return generation, await _run(service, generation, console)
    finally:
        await service.engine.drain(0)


async def _run(service: Service, generation: Generation, console: Console) -> list[Finished]:
    """The images in request order, with a bar that counts denoise steps."""
    steps = len(generation.model.plan)
    done = [0] * len(generation.images)
    finished: list[Finished] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _StepRate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(generation.model.id, total=steps * len(done))
        ticket = service.engine.submit(generation.model, generation.images, previews=min(_PREVIEWS, steps - 1))
        async for event in ticket.events():
            if isinstance(event, Finished):
                finished.append(event)
                done[event.position] = steps
            elif isinstance(event, Failed):
                raise event.error
            else:
                done[event.position] = event.step
            progress.update(bar, completed=sum(done))
    return sorted(finished, key=lambda image: image.position)


def save_images(generation: Generation, images: Sequence[Finished], out: Path, scale: int) -> list[Path]:
    """Write the images: into the folder `out` one by one, else to the file `out` (a grid when there are several).

    Returns the files written. Raises OutputError.
    """
    try:
        if out.is_dir():
            name = generation.model.id.replace("/", "-")
            paths = [out / f"{name}-{image.spec.seed}-{image.spec.index}.png" for image in images]
            for path, image in zip(paths, images, strict=True):
                path.write_bytes(encode(image.pixels, "png", scale))
            return paths
        sheet = images[0].pixels if len(images) == 1 else grid([image.pixels for image in images])
        out.write_bytes(encode(sheet, format_of(out), scale))
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {(error.strerror or str(error)).lower()}.") from error
    return [out]


def check_output(out: Path) -> None:
    """Find out before any computing that `out` cannot be written. Raises OutputError."""
    if not out.is_dir():
        format_of(out)
        if not out.parent.is_dir():
            raise OutputError(f"Cannot write {out}: the folder {out.parent} does not exist.")


def format_of(path: Path) -> ImageFormat:
    """The format that a file name asks for. Raises OutputError for others."""
    suffix = path.suffix.lower().removeprefix(".").replace("jpg", "jpeg")
    for name in FORMATS:
        if suffix == name:
            return name
    raise OutputError(f"Cannot write {path}: the name must end in .png, .webp or .jpg, or be an existing folder.")


def models_table(entries: Sequence[Entry]) -> Table:
    """One row a model."""
    table = Table(
        Column("id", no_wrap=True),
        "kind",
        "steps",
        "image",
        "disk",
        "params",
        Column("quality", no_wrap=True),
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for entry in entries:
        manifest = entry.manifest
        table.add_row(
            entry.id,
            manifest.kind,
            str(manifest.steps),
            size_of(manifest.image),
            f"{entry.graph.stat().st_size / 1e6:.1f} MB",
            f"{manifest.parameters / 1e6:.2f} M",
            _quality(entry),
        )
    return table


def _quality(entry: Entry) -> str:
    """The ranking metric of the model's own plan, or nothing."""
    manifest = entry.manifest
    measured = manifest.quality.get(f"ddim-{manifest.steps:03d}")
    if measured is None or manifest.ranking is None or manifest.ranking.metric not in measured.metrics:
        return "-"
    return f"{manifest.ranking.metric} {measured.metrics[manifest.ranking.metric]:.4g}"
