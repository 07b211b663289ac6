"""GET /v1/images/files/{token}: the image behind a url from `response_format: "url"`."""

from __future__ import annotations

import time
from functools import partial

from fastapi import APIRouter, Request, Response

from service.api.answers import IMAGE_FILES, images_of
from service.api.dependencies import ServiceOf
from service.api.outcome import recorded
from service.api.record import current_record
from service.features.remade import remade_file

router = APIRouter(tags=["images"])


@router.get(
    "/v1/images/files/{token}",
    response_class=Response,
    responses={200: {"content": IMAGE_FILES, "description": "The image file"}},
    summary="Fetch an image by its url",
)
async def fetch(token: str, request: Request, service: ServiceOf) -> Response:
    """The file, with the same bytes each time; made again from its seed when this replica no longer holds it.

    403 for a url that was not signed here, 410 for one that has expired or whose bytes can no longer be made.
    """
    link = service.links.read(token)
    file = service.links.file(token)
    if file is None:
        model = service.resolve(link.model)
        with recorded(service.metrics, model.id):
            file = await remade_file(link, model, partial(images_of, service, request), current_record().encoding)
    left_s = max(0, int(link.expires - time.time()))
    return Response(file, media_type=link.style.media_type, headers={"cache-control": f"private, max-age={left_s}, immutable"})
