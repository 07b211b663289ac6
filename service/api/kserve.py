"""The Open Inference Protocol (KServe V2) under /v2, for platforms that use it. Seeds go in, image tensors come out.

Model ids are `<family>/<name>`; the slash may be sent as it is or as %2F. Every model has one version, `1`. Errors have
the protocol's shape, {"error": message}.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from models.catalogue import Resolved, UnknownModelError
from service.api.answers import admit, images_unless_client_leaves
from service.api.dependencies import ServiceOf
from service.api.outcome import recorded
from service.api.paths import V2_MODEL
from service.features.generation import RowsAsked, plan_rows
from service.features.service import Service
from service.schema.kserve import VERSION, Live, ModelMetadata, ModelReady, Ready, ServerMetadata, metadata_of
from service.schema.tensors import HEADER_LENGTH, InferRequest, InferResponse, binary_answer, json_answer, read_request

router = APIRouter(tags=["open inference protocol"], prefix="/v2")


@router.get("", summary="Server metadata")
async def server(request: Request) -> ServerMetadata:
    """Name, version and the extensions that are understood."""
    return ServerMetadata(version=request.app.version)


@router.get("/health/live", summary="Is the server alive?")
async def live() -> Live:
    """200 as long as the event loop turns."""
    return Live()


@router.get("/health/ready", summary="Would the server serve now?")
async def ready(service: ServiceOf) -> Ready:
    """200 when models are loaded and warm, 503 otherwise."""
    service.require_ready()
    return Ready()


_MODEL = f"/models/{V2_MODEL}"
_VERSIONED = _MODEL + "/versions/{version}"


@router.get(_MODEL + "/ready", summary="Is a model ready?")
async def model_ready(model_id: str, service: ServiceOf) -> ModelReady:
    """200 when the model is loaded, 503 otherwise, 404 when it does not exist."""
    return await version_ready(model_id, VERSION, service)


@router.get(_VERSIONED + "/ready", summary="Is a version of a model ready?")
async def version_ready(model_id: str, version: str, service: ServiceOf) -> ModelReady:
    """The same; every model has the one version, 1."""
    model = _model(service, model_id, version)
    service.require_ready()
    service.require_loaded(model)
    return ModelReady(name=model.id)


# Read by hand, because bytes may follow the JSON. service.api.openapi describes InferRequest.
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post(_MODEL + "/infer", summary="Generate images", response_model=InferResponse, responses=_ANSWER, openapi_extra=_BODY)
async def infer(model_id: str, request: Request, service: ServiceOf) -> InferResponse | Response:
    """One image a seed: `seed` [N] in, `image` [N,C,H,W] out, UINT8.

    `index` [N] is the image's index under its seed, 0 when absent; `class_label` [N] its class, the seed's choice when
    absent. The images are those of POST /v1/images/generations. Tensors may travel in the binary extension both ways.
    """
    return await infer_version(model_id, VERSION, request, service)


@router.post(
    _VERSIONED + "/infer",
    summary="Generate images with a version",
    response_model=InferResponse,
    responses=_ANSWER,
    openapi_extra=_BODY,
)
async def infer_version(model_id: str, version: str, request: Request, service: ServiceOf) -> InferResponse | Response:
    """The same; every model has the one version, 1."""
    model = _model(service, model_id, version)
    asked, rows = await _read(request)
    generation = plan_rows(rows, model, service)
    with recorded(service.metrics, model.id):
        finished = await images_unless_client_leaves(admit(service, request, generation), request)
    images = np.stack([image.pixels for image in finished])
    if not asked.binary_output:
        return json_answer(asked, images, model=model.id, version=VERSION)
    content, length = binary_answer(asked, images, model=model.id, version=VERSION)
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})


@router.get(_MODEL, summary="Model metadata")
async def metadata(model_id: str, service: ServiceOf) -> ModelMetadata:
    """The tensors that go in and come out."""
    return await version_metadata(model_id, VERSION, service)


@router.get(_VERSIONED, summary="Metadata of a version of a model")
async def version_metadata(model_id: str, version: str, service: ServiceOf) -> ModelMetadata:
    """The same; every model has the one version, 1."""
    return metadata_of(_model(service, model_id, version))


def _model(service: Service, model_id: str, version: str) -> Resolved:
    """Return the model of a path. Raises UnknownModelError for a model or version that does not exist."""
    model = service.resolve(model_id)
    if version != VERSION:
        raise UnknownModelError(f"{model.id} has only the version {VERSION}.")
    return model


async def _read(request: Request) -> tuple[InferRequest, RowsAsked]:
    """Read the body. Raises RequestValidationError, which names the first field that is wrong, and InvalidRequestError."""
    try:
        return read_request(await request.body(), request.headers.get(HEADER_LENGTH))
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestValidationError([{**first, "loc": ("body", *first["loc"])}]) from error
