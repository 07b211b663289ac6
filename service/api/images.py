"""POST /v1/images/generations: OpenAI's JSON, a stream of its events, or the image file itself when Accept asks for one."""

from __future__ import annotations

import time
from functools import partial

from fastapi import APIRouter, Request, Response

from service.api.answers import IMAGE_FILES, file_headers, images_of
from service.api.dependencies import BaseUrl, ServiceOf
from service.api.idempotency import HEADER
from service.api.negotiate import check_stream, requested_file
from service.api.outcome import Outcome, outcome_of, recorded
from service.api.record import current_record
from service.api.stream import EVENT_STREAM, stream_generation
from service.engine.request import EngineError
from service.features.encode import FileStyle, ImageFormat, encode_all
from service.features.errors import InvalidRequestError
from service.features.experiments import Assignment
from service.features.generation import ImagesAsked, PlannedGeneration, plan
from service.features.service import Service
from service.schema.images import GenerationRequest, GenerationResponse, generation_response

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=GenerationResponse,
    responses={200: {"content": {**IMAGE_FILES, "text/event-stream": EVENT_STREAM}}},
    summary="Generate images",
)
async def generate(
    body: GenerationRequest, request: Request, service: ServiceOf, base_url: BaseUrl
) -> GenerationResponse | Response:
    """Images of one class from one model. The same seed gives the same bytes, and every model the same noise.

    With `stream` the answer is OpenAI's server-sent events; `partial_images` asks for predictions on the way.
    With `Accept: image/png` (or `image/webp`, `image/jpeg`) and `n` = 1 the body is the image file itself, and the
    headers `x-seed`, `x-index`, `x-model`, `x-steps`, `x-class`, `x-device` and `server-timing` tell the rest.

    With `max_latency_ms` the request is taken only if it is expected to be done in that time; `"model": "auto"` is then the
    best model that is, and the answer says which. An answer holds every image asked for: when one cannot be computed, the
    rest is dropped and the error names it.
    """
    started_s = time.perf_counter()
    direct = _file_format(body, request)
    planned = _plan(body.asked(), service)
    generation, assignment = planned.generation, planned.assignment
    style = FileStyle(direct or body.output_format, generation.scale, body.output_compression)
    if body.stream:
        return stream_generation(service, request, planned, style, started_s)
    async with service.experiments.measured(assignment, started_s):
        with recorded(service.metrics, generation.model.id):
            finished = await images_of(service, request, generation, fresh=planned.fresh)
            with current_record().encoding():
                files = await encode_all(finished, style)
    if direct:
        headers = file_headers(generation.model, finished, assignment)
        return Response(files[0], media_type=style.media_type, headers=headers)
    link = partial(service.links.link, base_url) if body.response_format == "url" else None
    return generation_response(generation, finished, files, style, link, assignment)


def _file_format(body: GenerationRequest, request: Request) -> ImageFormat | None:
    """Return the format when the answer is to be an image file, None for JSON and streams.

    Raises InvalidRequestError when headers and body contradict each other, and NotAcceptableError.
    """
    accept = request.headers.get("accept", "")
    if body.stream:
        if HEADER in request.headers:
            raise InvalidRequestError(
                "Idempotency-Key: a stream cannot be repeated; leave out stream or the key.", "Idempotency-Key"
            )
        check_stream(accept, body)
        return None
    if body.partial_images:
        raise InvalidRequestError(
            "partial_images: they are sent on a stream; set stream to true, or leave out partial_images.", "partial_images"
        )
    return requested_file(accept, body, body.n)


def _plan(asked: ImagesAsked, service: Service) -> PlannedGeneration:
    """Plan a request, and name its experiment in the record, even when planning fails.

    Counts a latency that cannot be promised as a request of the model that was asked for, or of the experiment's arm.
    """
    model = asked.model

    def note(assignment: Assignment) -> None:
        nonlocal model
        model, current_record().experiment = assignment.arm, assignment.experiment

    try:
        return plan(asked, service, note)
    except EngineError as error:
        Outcome(service.metrics, model or service.default_model).end(outcome_of(error))
        raise
