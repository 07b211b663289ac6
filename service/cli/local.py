"""The engine without a server: what `sfddm generate`, `compare` and `models` do on this machine, and how images are saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from models.catalogue import Catalogue, Refusal
from service.engine.request import Failed, Finished, Generation, ModelFailedError
from service.features.comparison.plan import begin_comparison, plan_comparison
from service.features.comparison.progress import progress_of
from service.features.config import ServiceConfig
from service.features.encode import FORMATS, ImageFormat, encode, grid
from service.features.generation import plan_generation
from service.features.models import known_models
from service.features.service import Service, assemble, choose_default, open_catalogue
from service.schema.comparisons import ComparisonEvent, ComparisonRequest, comparison_event
from service.schema.images import GenerationRequest
from service.schema.models import ModelBody, model_body
from service.settings.model import Settings

_READY_POLL_S = 0.02
_PREVIEWS = 16  # reports of progress per image; a preview costs one copy of an image


class _StepRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "", style="progress.data.speed")


@dataclass(frozen=True)
class Picture:
    """One image to save: uint8 [C,H,W], and what its file is named after."""

    seed: int
    index: int
    pixels: NDArray[np.uint8]


class OutputError(Exception):
    """The images cannot be written there; the message says why."""


async def generate_images(
    settings: Settings, request: GenerationRequest, console: Console
) -> tuple[Generation, list[Finished]]:
    """Load the one model that is asked for, run the request with a progress bar on `console`, and shut down.

    Raises StartupError, UnknownModelError, InvalidRequestError and the engine's errors.
    """
    config = settings.service_config()
    catalogue = open_catalogue(config.zoos)
    model = request.model or choose_default(catalogue, config.default_model)
    async with _ready(config, catalogue, [model], console) as service:
        generation = plan_generation(replace(request.asked(), model=model), service)
        return generation, await _run(service, generation, console)


async def compare_models(
    settings: Settings, body: ComparisonRequest, console: Console
) -> AsyncGenerator[ComparisonEvent, None]:
    """Load the models that are compared, run the comparison, and shut down. Raises what generate_images raises."""
    config = settings.service_config()
    catalogue = open_catalogue(config.zoos)
    async with _ready(config, catalogue, body.models, console) as service:
        run = begin_comparison(plan_comparison(body.asked(), service), service)
        async with aclosing(progress_of(run)) as events:
            async for event in events:
                yield comparison_event(event)


@asynccontextmanager
async def _ready(
    config: ServiceConfig, catalogue: Catalogue, models: Sequence[str], console: Console
) -> AsyncIterator[Service]:
    """A service of these models only, loaded. Raises UnknownModelError, and ModelFailedError when one does not load."""
    entries = {entry.id: entry for entry in (catalogue.resolve(name).entry for name in models)}
    service = assemble(replace(config, default_model=None), Catalogue(entries))
    service.engine.start()
    try:
        with console.status(f"Loading {', '.join(entries)}"):
            while not service.engine.ready:
                _raise_failed(service)
                await asyncio.sleep(_READY_POLL_S)
            _raise_failed(service)
        yield service
    finally:
        await service.engine.drain(0)


def _raise_failed(service: Service) -> None:
    for name, status in service.engine.models.items():
        if status.state == "failed":
            raise ModelFailedError(name, status.reason)


def measured_models(settings: Settings, console: Console) -> tuple[list[ModelBody], tuple[Refusal, ...]]:
    """The models of the zoos as GET /v1/models has them, with the time of a step of one image measured here and now."""
    config = settings.service_config()
    catalogue = open_catalogue(config.zoos)

    async def listed() -> list[ModelBody]:
        names = list(catalogue.entries)
        one_image = replace(config, engine=replace(config.engine, max_batch=1))
        async with _ready(one_image, catalogue, names, console) as service:
            return [model_body(known) for known in known_models(service)]

    return asyncio.run(listed()), catalogue.refusals


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
        ticket = service.engine.submit(replace(generation, previews=min(_PREVIEWS, steps - 1)))
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


def save_images(model: str, pictures: Sequence[Picture], out: Path, scale: int) -> list[Path]:
    """Write the images: into the folder `out` one by one, else to the file `out` (a grid when there are several).

    Returns the files written. Raises OutputError.
    """
    if out.is_dir():
        name = model.replace("/", "-")
        return [write(out / f"{name}-{p.seed}-{p.index}.png", encode(p.pixels, "png", scale)) for p in pictures]
    sheet = pictures[0].pixels if len(pictures) == 1 else grid([picture.pixels for picture in pictures])
    return [write(out, encode(sheet, format_of(out), scale))]


def write(path: Path, content: bytes) -> Path:
    """Write a file and return its path. Raises OutputError."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {(error.strerror or str(error)).lower()}.") from error
    return path


def check_output(out: Path, *, any_name: bool = False) -> None:
    """Find out before any computing that `out` cannot be written, or, unless any_name, is no image. Raises OutputError."""
    if not out.is_dir():
        if not any_name:
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
