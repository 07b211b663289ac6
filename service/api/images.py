"""POST /v1/images/generations: OpenAI's JSON, a stream of its events, or the image file itself when Accept asks for one."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from service.api.answers import (
    IMAGE_FILES,
    encode_all,
    file_headers,
    generation_response,
    images_unless_client_leaves,
    recorded,
    requested_file,
)
from service.api.generation import plan_generation
from service.api.schema import GenerationRequest, GenerationResponse
from service.api.state import ServiceOf
from service.api.stream import EVENT_STREAM, stream_generation
from service.encode import FileStyle

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=GenerationResponse,
    responses={200: {"content": {**IMAGE_FILES, "text/event-stream": EVENT_STREAM}}},
    summary="Generate images",
)
async def generate(body: GenerationRequest, request: Request, service: ServiceOf) -> GenerationResponse | Response:
    """Images of one class from one model. The same seed gives the same bytes, and every model the same noise.

    With `stream` the answer is OpenAI's server-sent events; `partial_images` asks for predictions on the way.
    With `Accept: image/png` (or `image/webp`, `image/jpeg`) and `n` = 1 the body is the image file itself, and the
    headers `x-seed`, `x-index`, `x-model`, `x-steps`, `x-class` and `server-timing` tell the rest.
    """
    direct = None if body.stream else requested_file(request.headers.get("accept", ""), body, body.n)
    generation = plan_generation(body, service)
    style = FileStyle(direct or body.output_format, generation.scale, body.output_compression)
    if body.stream:
        return stream_generation(service, generation, style, body.partial_images)
    with recorded(service.metrics, generation.model.id):
        ticket = service.engine.submit(generation.model, generation.images)
        finished = await images_unless_client_leaves(ticket, request)
        files = await encode_all(finished, style)
    if direct:
        return Response(files[0], media_type=style.media_type, headers=file_headers(generation.model, finished[0]))
    link = partial(service.links.link, request) if body.response_format == "url" else None
    return generation_response(generation, finished, files, style, link)
