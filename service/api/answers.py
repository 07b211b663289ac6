"""Compute the images of a planned request while the client waits. Build the headers of an answer that is an image file."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import Request

from models.catalogue import Resolved
from service.api.errors import ClientLeftError
from service.api.middleware import RateLimitScope
from service.api.record import current_record
from service.engine.request import Finished, Generation
from service.engine.ticket import Ticket
from service.features.encode import MEDIA_TYPES
from service.features.experiments import Assignment
from service.features.generation import recall_or_compute
from service.features.service import Service
from service.features.timing import slowest
from service.schema.images import class_name

T = TypeVar("T")

IMAGE_FILES: dict[str, Any] = {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()}


def admit(service: Service, request: Request, generation: Generation) -> Ticket:
    """Submit a request to the engine. Store it for the record and the rate-limit headers."""
    request.state.rate_limit_scope = RateLimitScope(generation.model, generation.flex)
    ticket = service.engine.submit(generation)
    record = current_record()
    record.ticket, record.images = ticket, len(generation.images)
    return ticket


async def images_of(service: Service, request: Request, generation: Generation, *, fresh: bool = False) -> list[Finished]:
    """Return the images in order. They may come from the cache, unless `fresh` is set or the client sends no-cache.

    Raises what Engine.submit and Ticket.images raise, and ClientLeftError.
    """

    async def compute(missing: Generation) -> list[Finished]:
        return await images_unless_client_leaves(admit(service, request, missing), request)

    # Set here too: images from the cache are not admitted.
    request.state.rate_limit_scope = RateLimitScope(generation.model, generation.flex)
    if fresh or "no-cache" in request.headers.get("cache-control", ""):
        return await compute(generation)
    images = await recall_or_compute(service, generation, compute)
    current_record().images = len(images)
    return images


async def images_unless_client_leaves(ticket: Ticket, request: Request) -> list[Finished]:
    """Return the finished images. Raises ClientLeftError when the client disconnects first; its rows leave the engine."""
    try:
        return await unless_client_leaves(ticket.images(), request)
    finally:
        ticket.cancel()  # does nothing when all images are finished


async def unless_client_leaves(answer: Coroutine[Any, Any, T], request: Request) -> T:
    """Return the result of `answer`. Cancels it and raises ClientLeftError when the client disconnects first."""
    working = asyncio.create_task(answer)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def file_headers(model: Resolved, images: Sequence[Finished], assignment: Assignment | None = None) -> dict[str, str]:
    """Return the facts of a JSON answer as headers of a file. Seed, index and class are those of the first image."""
    spec, timing, device = images[0].spec, slowest(images), images[0].device
    smallest = min(image.device.smallest_batch for image in images)
    largest = max(image.device.largest_batch for image in images)
    headers = {
        "x-seed": str(spec.seed),
        "x-index": str(spec.index),
        "x-model": model.id,
        "x-model-sha256": model.entry.manifest.sha256,
        "x-steps": str(len(model.plan)),
        "x-device": f"{device.provider}; precision={device.precision}; batch={smallest}-{largest}",
        "x-cache": "hit" if all(image.cached for image in images) else "miss",
        "server-timing": f"queue;dur={timing.queue_s * 1000:.1f}, compute;dur={timing.compute_s * 1000:.1f}, "
        f"total;dur={timing.total_s * 1000:.1f}",
    }
    name = class_name(model, spec)
    if name is not None:
        headers["x-class"] = quote(name, safe=" /")  # headers are ASCII
    return headers | arm_headers(assignment)


def arm_headers(assignment: Assignment | None) -> dict[str, str]:
    """Return the arm of a request as headers, for answers whose body does not contain it."""
    return {"x-experiment": assignment.experiment, "x-arm": assignment.arm} if assignment else {}
