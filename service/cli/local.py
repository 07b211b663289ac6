"""Run the engine without a server, for `sfddm generate`, `compare` and `models` on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from models.catalogue import Catalogue, Refusal
from service.engine.request import Failed, Finished, Generation, ModelFailedError
from service.features.comparison.plan import begin_comparison, plan_comparison
from service.features.comparison.progress import progress_of
from service.features.config import ServiceConfig
from service.features.generation import plan
from service.features.models import known_models
from service.features.service import Service, assemble, choose_default, open_catalogue
from service.schema.comparisons import ComparisonEvent, ComparisonRequest, comparison_event
from service.schema.images import GenerationRequest
from service.schema.models import ModelBody, model_body
from service.settings.model import Settings

_READY_POLL_S = 0.02
_MAX_PREVIEWS = 16  # of an image, to update the progress bar; each costs one copy of the image


class _StepRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "", style="progress.data.speed")


async def generate(settings: Settings, request: GenerationRequest, console: Console) -> tuple[Generation, list[Finished]]:
    """Load the requested model, generate the images under a progress bar, and shut down.

    Raises StartupError, UnknownModelError, InvalidRequestError and the engine's errors.
    """
    config = settings.service_config()
    catalogue = open_catalogue(config.zoos)
    model = request.model or choose_default(catalogue, config.default_model)
    async with _ready(config, catalogue, [model], console) as service:
        generation = plan(replace(request.asked(), model=model), service).generation
        return generation, await _run(service, generation, console)


async def compare(settings: Settings, body: ComparisonRequest, console: Console) -> AsyncGenerator[ComparisonEvent, None]:
    """Load the models to compare, run the comparison, and shut down. Raises the errors of generate."""
    config = settings.service_config()
    catalogue = open_catalogue(config.zoos)
    async with _ready(config, catalogue, body.models, console) as service:
        run = begin_comparison(plan_comparison(body.asked(), service), service)
        async with aclosing(progress_of(run)) as events:
            async for event in events:
                yield comparison_event(event)


async def measured_models(settings: Settings, console: Console) -> tuple[list[ModelBody], tuple[Refusal, ...]]:
    """Return the models of the zoos as GET /v1/models lists them, and the folders that were refused.

    A step of one image is measured on this machine, now. Raises the errors of generate.
    """
    config = settings.service_config()
    catalogue = open_catalogue(config.zoos)
    names = list(catalogue.entries)
    one_image = replace(config, engine=replace(config.engine, max_batch=1))
    async with _ready(one_image, catalogue, names, console) as service:
        return [model_body(known) for known in known_models(service)], catalogue.refusals


@asynccontextmanager
async def _ready(
    config: ServiceConfig, catalogue: Catalogue, models: Sequence[str], console: Console
) -> AsyncIterator[Service]:
    """Load these models only, and yield their service. Raises UnknownModelError, and ModelFailedError if one does not load."""
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


async def _run(service: Service, generation: Generation, console: Console) -> list[Finished]:
    """Return the images in request order. The progress bar counts their denoising steps."""
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
        ticket = service.engine.submit(replace(generation, previews=min(_MAX_PREVIEWS, steps - 1)))
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
