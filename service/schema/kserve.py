"""Bodies of the Open Inference Protocol (KServe V2) beside its tensors: health and metadata."""

from __future__ import annotations

from pydantic import BaseModel

from models.catalogue import Resolved

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


def metadata_of(model: Resolved) -> ModelMetadata:
    """Return the metadata of a model: the tensors that go in and come out."""
    manifest = model.entry.manifest
    names = ["seed", "index", *(["class_label"] if manifest.classes else [])]
    return ModelMetadata(
        name=model.id,
        inputs=[TensorMetadata(name=name, datatype="INT64", shape=[-1]) for name in names],
        outputs=[TensorMetadata(name="image", datatype="UINT8", shape=[-1, *manifest.image.chw])],
    )
