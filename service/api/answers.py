"""From an admitted request to its answer: counted by outcome, given up when the client leaves, dressed as JSON or a file."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from fastapi import Request

from models.catalogue import Resolved
from service.api.errors import ClientLeftError
from service.api.record import current_record
from service.engine.request import Device, Finished, Generation, ImageSpec, OverloadedError, Timing, UnavailableError
from service.engine.ticket import Ticket
from service.features.comparison import slowest
from service.features.encode import MEDIA_TYPES, FileStyle
from service.features.errors import InvalidRequestError
from service.features.experiments import Assignment
from service.features.service import Lane, Service
from service.observability.metrics import Metrics
from service.schema.images import DeviceBody, ExperimentArm, GenerationResponse, ImageBody, TimingBody

T = TypeVar("T")

IMAGE_FILES: dict[str, Any] = {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()}


class Outcome:
    """One request in the metrics and its record: counted once, by the first end that is told; timed when it was answered."""

    def __init__(self, metrics: Metrics, model_id: str) -> None:
        self._metrics = metrics
        self._model = metrics.model_label(model_id)
        self._record = current_record()
        self._record.model = model_id
        self._open = True

    def end(self, outcome: str) -> None:
        """Count the request as `outcome`, unless it has been counted."""
        if not self._open:
            return
        self._open = False
        self._record.outcome = outcome
        if outcome == "ok":
            self._metrics.request_seconds.labels(self._model).observe(time.perf_counter() - self._record.started_s)
        self._metrics.requests_total.labels(self._model, outcome).inc()


def outcome_of(error: BaseException) -> str:
    """The `outcome` label of an exception."""
    match error:
        case OverloadedError():
            return "overloaded"
        case UnavailableError():
            return "unavailable"
        case ClientLeftError() | asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
        case InvalidRequestError():
            return "invalid"
        case _:
            return "error"


@contextmanager
def recorded(metrics: Metrics, model_id: str) -> Iterator[None]:
    """Count what happens inside as one request."""
    outcome = Outcome(metrics, model_id)
    try:
        yield
    except BaseException as error:
        outcome.end(outcome_of(error))
        raise
    outcome.end("ok")


def admit(service: Service, request: Request, generation: Generation) -> Ticket:
    """Engine.submit, for a request whose answer tells how much more its lane would take."""
    request.state.lane = Lane(generation.model, generation.flex)
    ticket = service.engine.submit(generation)
    record = current_record()
    record.ticket, record.images = ticket, len(generation.images)
    return ticket


async def images_of(service: Service, request: Request, generation: Generation, *, fresh: bool = False) -> list[Finished]:
    """The images in order, recalled where that gives the same bytes unless they are to be `fresh`, else computed.

    Raises what Engine.submit and Ticket.images raise, and ClientLeftError.
    """

    async def compute(missing: Sequence[ImageSpec]) -> list[Finished]:
        ticket = admit(service, request, replace(generation, images=missing))
        return await images_unless_client_leaves(ticket, request)

    model, images = generation.model, generation.images
    request.state.lane = Lane(model, generation.flex)  # for what is recalled as well
    no_cache = "no-cache" in request.headers.get("cache-control", "")
    if fresh or no_cache or not service.cache.serves(service.engine.models[model.entry.id].provider):
        return await compute(images)
    with service.engine.hold([model]):  # a reload may come while the cache is asked
        recalled = await service.cache.images(model, images, compute)
    current_record().images = len(images)
    return recalled


async def images_unless_client_leaves(ticket: Ticket, request: Request) -> list[Finished]:
    """The finished images. When the client disconnects first, its rows leave the engine; raises ClientLeftError."""
    try:
        return await unless_client_leaves(ticket.images(), request)
    finally:
        ticket.cancel()  # nothing is left to cancel when all went well


async def unless_client_leaves(answer: Coroutine[Any, Any, T], request: Request) -> T:
    """What `answer` returns. It is cancelled when the client disconnects first; raises ClientLeftError."""
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


async def encode_all(images: Sequence[Finished], style: FileStyle) -> list[bytes]:
    """The images' files, made in a thread so that the event loop goes on."""
    with current_record().encoding():
        return await asyncio.to_thread(lambda: [style.encode(image.pixels) for image in images])


def base64_of(file: bytes) -> str:
    """The file as OpenAI's b64_json."""
    return base64.b64encode(file).decode("ascii")


def facts(model: Resolved, spec: ImageSpec) -> dict[str, Any]:
    """The fields of ImageFacts."""
    other, fraction = spec.blend or (None, None)
    return {
        "seed": spec.seed,
        "index": spec.index,
        "class_label": spec.class_label,
        "class_name": class_name(model, spec),
        "other_seed": other,
        "fraction": fraction,
    }


def class_name(model: Resolved, spec: ImageSpec) -> str | None:
    """The name of an image's class; None for unconditional models."""
    return None if spec.class_label is None else model.entry.manifest.classes[spec.class_label]


def timing_body(timing: Timing) -> TimingBody:
    """A timing as JSON."""
    return TimingBody(**vars(timing))


def device_body(device: Device) -> DeviceBody:
    """What made an image, as JSON."""
    return DeviceBody(**vars(device))


def arm_body(assignment: Assignment | None) -> ExperimentArm | None:
    """Where an experiment sent a request, as JSON."""
    if assignment is None:
        return None
    return ExperimentArm(id=assignment.experiment, arm=assignment.arm, by=assignment.by)


def file_headers(model: Resolved, images: Sequence[Finished], assignment: Assignment | None = None) -> dict[str, str]:
    """What JSON would have said, as headers of the file that the images became; seed, index and class are the first one's."""
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
    """Where an experiment sent a request, as headers of an answer whose body does not say so."""
    return {"x-experiment": assignment.experiment, "x-arm": assignment.arm} if assignment else {}


def generation_response(
    generation: Generation,
    finished: Sequence[Finished],
    files: Sequence[bytes],
    style: FileStyle,
    link: Callable[[Resolved, Finished, FileStyle, bytes], str] | None,
    assignment: Assignment | None = None,
) -> GenerationResponse:
    """OpenAI's JSON for finished images and their files, inline unless `link` makes urls of them."""
    model = generation.model
    data = []
    for image, file in zip(finished, files, strict=True):
        url = link(model, image, style, file) if link else None
        inline = None if link else base64_of(file)
        data.append(image_body(model, image, b64_json=inline, url=url))
    return GenerationResponse(
        created=int(time.time()),
        data=data,
        output_format=style.image_format,
        size=generation.size,
        model=model.id,
        model_sha256=model.entry.manifest.sha256,
        steps=len(model.plan),
        seed=generation.seed,
        service_tier=service_tier(generation),
        timing=timing_body(slowest(finished)),
        experiment=arm_body(assignment),
    )


def image_body(model: Resolved, image: Finished, *, b64_json: str | None, url: str | None = None) -> ImageBody:
    """One finished image as JSON, its file inline or behind a url."""
    return ImageBody(
        b64_json=b64_json,
        url=url,
        cached=image.cached,
        timing=timing_body(image.timing),
        device=device_body(image.device),
        **facts(model, image.spec),
    )


def service_tier(generation: Generation) -> Literal["default", "flex"]:
    """The tier that a request got."""
    return "flex" if generation.flex else "default"
