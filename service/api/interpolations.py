"""POST /v1/images/interpolations: a walk between two seeds, as JSON or as one strip."""

from __future__ import annotations

from functools import partial

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.answers import (
    IMAGE_FILES,
    encode_all,
    file_headers,
    generation_response,
    images_of,
    recorded,
)
from service.api.negotiate import requested_file
from service.api.record import current_record
from service.features.encode import LARGEST_SIDE, FileStyle
from service.features.errors import InvalidRequestError
from service.features.generation import plan_interpolation
from service.features.service import ServiceOf
from service.schema.images import GenerationResponse, InterpolationRequest

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/interpolations",
    response_model=GenerationResponse,
    responses={200: {"content": IMAGE_FILES}},
    summary="Interpolate between two seeds",
)
async def interpolate(body: InterpolationRequest, request: Request, service: ServiceOf) -> GenerationResponse | Response:
    """`frames` images of one class, from the first seed's to the second's, along the arc between their noises.

    The first and last frame are the images that POST /v1/images/generations makes of the two seeds. With `Accept: image/png`
    (or webp, jpeg) the body is one strip, the frames side by side from left to right.
    """
    direct = requested_file(request.headers.get("accept", ""), body, 1)
    walk = plan_interpolation(body, service)
    style = FileStyle(direct or body.output_format, walk.scale, body.output_compression)
    width = walk.model.entry.manifest.image.width * walk.scale * len(walk.images)
    if direct and width > (widest := LARGEST_SIDE[direct]):
        raise InvalidRequestError(
            f"frames: a strip of {width} pixels is wider than the {widest} that {direct} can hold; accept "
            "image/png, or ask for fewer frames or a smaller size.",
            "frames",
        )
    with recorded(service.metrics, walk.model.id):
        finished = await images_of(service, request, walk)
        if direct:
            strip = np.concatenate([image.pixels for image in finished], axis=2)
            with current_record().encoding():
                file = style.encode(strip)
            return Response(file, media_type=style.media_type, headers=file_headers(walk.model, finished))
        files = await encode_all(finished, style)
    link = partial(service.links.link, service.base_url(request)) if body.response_format == "url" else None
    return generation_response(walk, finished, files, style, link)
