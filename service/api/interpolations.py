"""POST /v1/images/interpolations: images between those of two seeds, as JSON or as one strip."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from service.api.answers import IMAGE_FILES, file_headers, images_of
from service.api.dependencies import BaseUrl, ServiceOf
from service.api.negotiate import requested_file
from service.api.outcome import recorded
from service.api.record import current_record
from service.features.encode import FileStyle, check_strip, encode_all, encode_strip
from service.features.generation import plan_interpolation
from service.schema.images import GenerationResponse, InterpolationRequest, generation_response

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/interpolations",
    response_model=GenerationResponse,
    responses={200: {"content": IMAGE_FILES}},
    summary="Interpolate between two seeds",
)
async def interpolate(
    body: InterpolationRequest, request: Request, service: ServiceOf, base_url: BaseUrl
) -> GenerationResponse | Response:
    """`frames` images of one class, from the first seed's to the second's, along the arc between their noises.

    The first and last frame are the images that POST /v1/images/generations makes of the two seeds. With `Accept: image/png`
    (or webp, jpeg) the body is one strip, the frames side by side from left to right.
    """
    direct = requested_file(request.headers.get("accept", ""), body, 1)
    walk = plan_interpolation(body.asked(), service)
    style = FileStyle(direct or body.output_format, walk.scale, body.output_compression)
    if direct:
        check_strip(walk.model.entry.manifest.image, len(walk.images), style)
    with recorded(service.metrics, walk.model.id):
        finished = await images_of(service, request, walk)
        with current_record().encoding():
            files = [await encode_strip(finished, style)] if direct else await encode_all(finished, style)
    if direct:
        return Response(files[0], media_type=style.media_type, headers=file_headers(walk.model, finished))
    link = partial(service.links.link, base_url) if body.response_format == "url" else None
    return generation_response(walk, finished, files, style, link)
