"""One comparison from its first image to its summary, event by event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass

from models.catalogue import Resolved
from service.engine.request import Finished
from service.features.comparison.numbers import ComparisonSummary, summarise
from service.features.comparison.run import Arrived, ComparisonRun, Measured


@dataclass(frozen=True)
class ImageMade:
    """An image of the warm-up and its file. done: events so far, of `total` before the summary."""

    model: Resolved
    image: Finished
    file: bytes
    done: int
    total: int


@dataclass(frozen=True)
class RequestTimed:
    """A measured request. done: events so far, of `total` before the summary."""

    measured: Measured
    done: int
    total: int


Progress = ImageMade | RequestTimed | ComparisonSummary


async def progress_of(
    run: ComparisonRun, encoding: Callable[[], AbstractContextManager[None]] = nullcontext
) -> AsyncGenerator[Progress, None]:
    """Yield the events of a comparison, the summary last.

    encoding: a context in which each file is encoded, so that the caller can measure it. Raises RowFailedError,
    UnavailableError, and InvalidRequestError when an isolated comparison had too little time for one round.
    """
    comparison = run.comparison
    images: dict[str, list[tuple[Finished, bytes]]] = {model.id: [] for model in comparison.models}
    measured: list[Measured] = []
    total, done = len(comparison.models) * (len(comparison.images) + comparison.repeats), 0
    async with aclosing(run.events()) as happening:
        async for event in happening:
            done += 1
            if isinstance(event, Arrived):
                with encoding():
                    file = await asyncio.to_thread(comparison.style.encode, event.image.pixels)
                images[event.model.id].append((event.image, file))
                yield ImageMade(event.model, event.image, file, done, total)
            else:
                measured.append(event)
                yield RequestTimed(event, done, total)
    yield await asyncio.to_thread(summarise, comparison, images, measured, alone_s=run.isolation.seconds)


async def summary_of(
    run: ComparisonRun, encoding: Callable[[], AbstractContextManager[None]] = nullcontext
) -> ComparisonSummary:
    """Run a comparison to its end. Raises what progress_of raises."""
    async with aclosing(progress_of(run, encoding)) as events:
        async for event in events:
            if isinstance(event, ComparisonSummary):
                return event
    raise AssertionError("a comparison ends by completing or raising")
