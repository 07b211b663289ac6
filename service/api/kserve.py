"""The Open Inference Protocol (KServe V2) under /v2, for platforms that speak it: seeds in, image tensors out.

Model ids are `<family>/<name>`; the slash may be sent as it is or as %2F. Every model has one version, `1`. Errors have
the protocol's shape, {"error": message}.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from models.catalogue import Resolved, UnknownModelError
from models.noise import MAX_SEED
from service.api.answers import admit, images_unless_client_leaves, recorded
from service.api.health import ready_or_raise
from service.api.paths import V2_MODEL
from service.api.tensors import HEADER_LENGTH, InferResponse, InputName, answer, read_request
from service.engine.request import Generation, ImageSpec
from service.features.errors import InvalidRequestError
from service.features.prompts import default_class
from service.features.service import Service, ServiceOf
from service.schema.images import MAX_FIRST_INDEX

router = APIRouter(tags=["open inference protocol"], prefix="/v2")

VERSION = "1"


class ServerMetadata(BaseModel):
    """GET /v2."""

    name: str = "sfddm-serve"
    version: str
    extensions: list[str] = ["binary_tensor_data"]


class TensorMetadata(BaseModel):
    """A tensor of a model; -1 is the number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """GET /v2/models/{id}."""

    name: str
    versions: list[str] = [VERSION]
    platform: str = "sfddm"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Live(BaseModel):
    """GET /v2/health/live."""

    live: bool = True


class Ready(BaseModel):
    """GET /v2/health/ready."""

    ready: bool = True


class ModelReady(BaseModel):
    """GET /v2/models/{id}/ready."""

    name: str
    ready: bool = True


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
    ready_or_raise(service)
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
    ready_or_raise(service)
    service.require_loaded(model)
    return ModelReady(name=model.id)


# Read by hand, as bytes may follow the JSON; service.api.openapi describes InferRequest.
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
    asked, tensors = read_request(await request.body(), request.headers.get(HEADER_LENGTH))
    specs = _specs(model, {name: values.tolist() for name, values in tensors.items()}, service.settings.max_n)
    with recorded(service.metrics, model.id):
        finished = await images_unless_client_leaves(admit(service, request, Generation(model, specs)), request)
    return answer(asked, model.id, VERSION, np.stack([image.pixels for image in finished]))


@router.get(_MODEL, summary="Model metadata")
async def metadata(model_id: str, service: ServiceOf) -> ModelMetadata:
    """The tensors that go in and come out."""
    return await version_metadata(model_id, VERSION, service)


@router.get(_VERSIONED, summary="Metadata of a version of a model")
async def version_metadata(model_id: str, version: str, service: ServiceOf) -> ModelMetadata:
    """The same; every model has the one version, 1."""
    return metadata_of(_model(service, model_id, version))


def metadata_of(model: Resolved) -> ModelMetadata:
    """The tensors of a model."""
    manifest = model.entry.manifest
    names = ["seed", "index", *(["class_label"] if manifest.classes else [])]
    return ModelMetadata(
        name=model.id,
        inputs=[TensorMetadata(name=name, datatype="INT64", shape=[-1]) for name in names],
        outputs=[TensorMetadata(name="image", datatype="UINT8", shape=[-1, *manifest.image.chw])],
    )


def _model(service: Service, model_id: str, version: str) -> Resolved:
    """Raises UnknownModelError for a model or version that does not exist."""
    model = service.resolve(model_id)
    if version != VERSION:
        raise UnknownModelError(f"{model.id} has only the version {VERSION}.")
    return model


def _specs(model: Resolved, tensors: dict[InputName, list[int]], most: int) -> list[ImageSpec]:
    """The images that the tensors describe. Raises InvalidRequestError, naming the input."""
    manifest = model.entry.manifest
    seeds = tensors.get("seed")
    if seeds is None:
        raise InvalidRequestError("inputs: the input seed is missing.", "inputs")
    indices, labels = tensors.get("index", [0] * len(seeds)), tensors.get("class_label")
    if len(seeds) > most:
        raise InvalidRequestError(f"seed: at most {most} images in one request, got {len(seeds)}.", "seed")
    _check("seed", seeds, len(seeds), MAX_SEED)
    _check("index", indices, len(seeds), MAX_FIRST_INDEX)
    if labels is None:
        chosen = [default_class(seed, index, manifest) for seed, index in zip(seeds, indices, strict=True)]
    elif not manifest.classes:
        raise InvalidRequestError(f"class_label: {manifest.id} is unconditional; leave class_label out.", "class_label")
    else:
        _check("class_label", labels, len(seeds), len(manifest.classes) - 1)
        chosen = [*labels]
    return [ImageSpec(*fields) for fields in zip(seeds, indices, chosen, strict=True)]


def _check(name: str, values: list[int], count: int, largest: int) -> None:
    if len(values) != count:
        raise InvalidRequestError(f"{name}: {len(values)} values for {count} seeds; send one each.", name)
    if not all(0 <= value <= largest for value in values):
        raise InvalidRequestError(f"{name}: values must be between 0 and {largest}.", name)
