"""POST /v1/images/generations: OpenAI's JSON, or the image file itself when Accept asks for one."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from service.api.errors import ClientLeftError, InvalidRequestError
from service.api.generation import Generation, plan_generation
from service.api.schema import DeviceBody, ExperimentArm, GenerationRequest, GenerationResponse, ImageBody, TimingBody
from service.api.state import ServiceOf
from service.encode import FORMATS, MEDIA_TYPES, ImageFormat, encode
from service.engine.request import Finished, ImageSpec, OverloadedError, UnavailableError
from service.engine.ticket import Ticket
from service.telemetry import Metrics

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=GenerationResponse,
    responses={200: {"content": {media: {} for media in MEDIA_TYPES.values()}}},
    summary="Generate images",
)
async def generate(body: GenerationRequest, request: Request, service: ServiceOf) -> GenerationResponse | Response:
    """Images of one class from one model. The same seed gives the same bytes, and every model the same noise.

    With `Accept: image/png` (or `image/webp`, `image/jpeg`) and `n` = 1 the body is the image file itself, and the
    headers `x-seed`, `x-index`, `x-model`, `x-steps`, `x-class`, `x-device` and `server-timing` tell the rest.

    With `max_latency_ms` the request is taken only if it is expected to be done in that time; `"model": "auto"` is then the
    best model that is, and the answer says which. An answer holds every image asked for: when one cannot be computed, the
    rest is dropped and the error names it.
    """
    started = time.perf_counter()
    direct = requested_file(request.headers.get("accept", ""), body)
    assignment = service.experiments.assign(body.model, body.user, body.seed)
    generation = plan_generation(body.model_copy(update={"model": assignment.arm}) if assignment else body, service)
    image_format = direct or body.output_format

    async def compute(specs: Sequence[ImageSpec]) -> list[Finished]:
        ticket = service.engine.submit(generation.model, specs, max_latency_s=generation.max_latency_s, flex=generation.flex)
        return await _images_unless_client_leaves(ticket, request)

    provider = service.engine.models[generation.model.entry.id].provider
    # Who names no seed wants new images; an experiment measures, and so does whoever sends Cache-Control: no-cache.
    fresh = body.seed is None or assignment is not None or "no-cache" in request.headers.get("cache-control", "")
    recall = not fresh and service.cache.serves(provider)
    with _recorded(service.metrics, generation.model.id):
        if recall:
            finished = await service.cache.images(generation.model, generation.images, compute)
        else:
            finished = await compute(generation.images)
        files = await asyncio.to_thread(_encode_all, finished, image_format, generation.scale)
    if assignment:
        await service.experiments.record(assignment, time.perf_counter() - started)
    if direct:
        headers = _headers(generation, finished[0])
        if assignment:
            headers |= {"x-experiment": assignment.experiment, "x-arm": assignment.arm}
        return Response(files[0], media_type=MEDIA_TYPES[direct], headers=headers)
    return GenerationResponse(
        created=int(time.time()),
        data=[_image_body(generation, image, file) for image, file in zip(finished, files, strict=True)],
        output_format=image_format,
        size=generation.size,
        model=generation.model.id,
        steps=len(generation.model.plan),
        seed=generation.seed,
        service_tier="flex" if generation.flex else "default",
        timing=_request_timing([image for image in finished if not image.cached] or finished),
        experiment=assignment and ExperimentArm(id=assignment.experiment, arm=assignment.arm, by=assignment.by),
    )


def requested_file(accept: str, body: GenerationRequest) -> ImageFormat | None:
    """The format when Accept wants an image file, None when it takes JSON. Raises InvalidRequestError for what cannot be."""
    types = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    wanted: list[ImageFormat] = [name for name in FORMATS if MEDIA_TYPES[name] in types]
    if "image/*" in types:
        wanted = [body.output_format]
    if not wanted or "application/json" in types:
        return None
    if body.n != 1:
        raise InvalidRequestError(
            f"n: Accept asks for one image file but n is {body.n}; set n to 1 or accept application/json.", "n"
        )
    if "output_format" not in body.model_fields_set:
        return next(name for name in FORMATS if name in wanted)
    if body.output_format not in wanted:
        raise InvalidRequestError(
            f"output_format: {body.output_format} contradicts Accept: {accept}; leave one of them out.", "output_format"
        )
    return body.output_format


@contextmanager
def _recorded(metrics: Metrics, model_id: str) -> Iterator[None]:
    """Count a request by its outcome, and time it when it was answered."""
    model, started, outcome = metrics.model_label(model_id), time.perf_counter(), "error"
    try:
        yield
        outcome = "ok"
        metrics.request_seconds.labels(model).observe(time.perf_counter() - started)
    except OverloadedError:
        outcome = "overloaded"
        raise
    except UnavailableError:
        outcome = "unavailable"
        raise
    except (ClientLeftError, asyncio.CancelledError):
        outcome = "cancelled"
        raise
    finally:
        metrics.requests_total.labels(model, outcome).inc()


async def _images_unless_client_leaves(ticket: Ticket, request: Request) -> list[Finished]:
    """The finished images. When the client disconnects first, its rows leave the engine; raises ClientLeftError."""
    images = asyncio.create_task(ticket.images())
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((images, gone), return_when=asyncio.FIRST_COMPLETED)
        if not images.done():
            raise ClientLeftError
        return images.result()
    finally:
        if not images.done():
            ticket.cancel()
        for task in (images, gone):
            task.cancel()
        await asyncio.gather(images, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode_all(images: Sequence[Finished], image_format: ImageFormat, scale: int) -> list[bytes]:
    return [encode(image.pixels, image_format, scale) for image in images]


def _image_body(generation: Generation, image: Finished, file: bytes) -> ImageBody:
    spec = image.spec
    return ImageBody(
        b64_json=base64.b64encode(file).decode("ascii"),
        seed=spec.seed,
        index=spec.index,
        class_label=spec.class_label,
        class_name=generation.class_name(spec),
        cached=image.cached,
        timing=TimingBody(**asdict(image.timing)),
        device=DeviceBody(**asdict(image.device)),
    )


def _request_timing(images: Sequence[Finished]) -> TimingBody:
    """A request lasts as long as its slowest image."""
    timings = [image.timing for image in images]
    return TimingBody(
        queue_s=max(timing.queue_s for timing in timings),
        compute_s=max(timing.compute_s for timing in timings),
        total_s=max(timing.total_s for timing in timings),
        estimated_s=timings[0].estimated_s,
        mean_batch=sum(timing.mean_batch for timing in timings) / len(timings),
    )


def _headers(generation: Generation, image: Finished) -> dict[str, str]:
    spec, timing, device = image.spec, image.timing, image.device
    headers = {
        "x-seed": str(spec.seed),
        "x-index": str(spec.index),
        "x-model": generation.model.id,
        "x-steps": str(len(generation.model.plan)),
        "x-device": f"{device.provider}; precision={device.precision}; batch={device.smallest_batch}-{device.largest_batch}",
        "x-cache": "hit" if image.cached else "miss",
        "server-timing": f"queue;dur={timing.queue_s * 1000:.1f}, compute;dur={timing.compute_s * 1000:.1f}, "
        f"total;dur={timing.total_s * 1000:.1f}",
    }
    name = generation.class_name(spec)
    if name is not None:
        headers["x-class"] = quote(name, safe=" /")  # headers are ASCII
    return headers
