"""Tensors of the Open Inference Protocol (KServe V2): as JSON, or in the binary extension that Triton's client prefers.

{"inputs": [{"name", "shape", "datatype", "data"}], ...}           everything is JSON
Inference-Header-Content-Length: N, then N bytes of that JSON       tensors with parameters.binary_data_size follow it,
and the tensors' little-endian bytes                                in order, instead of having `data`
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.features.errors import InvalidRequestError
from service.features.generation import RowsAsked

HEADER_LENGTH = "inference-header-content-length"
InputName = Literal["seed", "index", "class_label"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Part(_Strict):
    model_config = ConfigDict(extra="forbid")


class TensorParameters(_Strict):
    """Parameters of an input; others are passed over."""

    binary_data_size: int | None = Field(default=None, ge=0, description="bytes of this tensor behind the JSON")


class InputTensor(_Part):
    """One input: INT64 of shape [N] or [N, 1]."""

    name: InputName
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Literal["INT64"]
    parameters: TensorParameters | None = None
    data: list[Any] | None = Field(default=None, description="N integers, nested or flat")


class OutputParameters(_Strict):
    """Parameters of a requested output; others are passed over."""

    binary_data: bool | None = None


class RequestedOutput(_Part):
    """One output that is asked for."""

    name: Literal["image"]
    parameters: OutputParameters | None = None


class InferParameters(_Strict):
    """Parameters of a request; others (priority, timeout, ...) are passed over."""

    binary_data_output: bool | None = None


class InferRequest(_Part):
    """POST /v2/models/{id}/infer."""

    id: str | None = None
    parameters: InferParameters | None = None
    inputs: list[InputTensor] = Field(min_length=1, max_length=3)
    outputs: list[RequestedOutput] | None = Field(default=None, max_length=1)

    @property
    def binary_output(self) -> bool:
        """True when the request asks for the image tensor as bytes."""
        if self.outputs and self.outputs[0].parameters and self.outputs[0].parameters.binary_data is not None:
            return self.outputs[0].parameters.binary_data
        return bool(self.parameters and self.parameters.binary_data_output)


class OutputTensor(BaseModel):
    """One output."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[int] | None = None


class InferResponse(BaseModel):
    """The answer to an inference request."""

    id: str | None = None
    model_name: str
    model_version: str
    parameters: dict[str, Any] = {}
    outputs: list[OutputTensor]


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, RowsAsked]:
    """Read a request. Return it and the rows that its tensors ask for.

    header_length: the length of the JSON when bytes of tensors follow it; None when everything is JSON. Raises
    pydantic.ValidationError for JSON of another shape, and InvalidRequestError for everything else that is wrong.
    """
    split = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or not int(header_length) <= len(body):
            raise InvalidRequestError(f"{HEADER_LENGTH}: not a length within the body of {len(body)} bytes.", HEADER_LENGTH)
        split = int(header_length)
    try:
        request = InferRequest.model_validate_json(body[:split])
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise InvalidRequestError(f"The body is not valid JSON: {first['ctx']['error']}.", None) from error
        raise
    tensors: dict[InputName, list[int]] = {}
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise InvalidRequestError(f"inputs: {tensor.name} is given twice.", "inputs")
        size = tensor.parameters.binary_data_size if tensor.parameters else None
        tensors[tensor.name] = _values(tensor, None if size is None else body[split : split + size]).tolist()
        split += size or 0
    if split != len(body):
        raise InvalidRequestError(f"The body holds {len(body) - split} bytes that belong to no input.", "inputs")
    return request, RowsAsked(seeds=tensors.get("seed"), indices=tensors.get("index"), labels=tensors.get("class_label"))


def _values(tensor: InputTensor, binary: bytes | None) -> NDArray[np.int64]:
    """Read one input as int64 [N]. Raises InvalidRequestError where data, shape and datatype disagree."""
    name, count = tensor.name, prod(tensor.shape)
    if min(tensor.shape) < 1 or tensor.shape[1:] not in ([], [1]):
        raise InvalidRequestError(f"{name}: the shape must be [N] or [N, 1], got {tensor.shape}.", name)
    if (binary is None) == (tensor.data is None):
        raise InvalidRequestError(f"{name}: give either data or binary_data_size.", name)
    if binary is not None:
        if len(binary) != 8 * count:
            raise InvalidRequestError(f"{name}: {tensor.shape} of INT64 takes {8 * count} bytes, got {len(binary)}.", name)
        return np.frombuffer(binary, dtype="<i8").astype(np.int64)
    flat = [value for row in tensor.data or [] for value in (row if isinstance(row, list) else [row])]
    if len(flat) != count or any(type(value) is not int or not -(2**63) <= value < 2**63 for value in flat):
        raise InvalidRequestError(f"{name}: data must be {count} integers of 64 bits for the shape {tensor.shape}.", name)
    return np.array(flat, dtype=np.int64)


def json_answer(request: InferRequest, images: NDArray[np.uint8], *, model: str, version: str) -> InferResponse:
    """Return images, uint8 [N,C,H,W], as JSON."""
    tensor = OutputTensor(name="image", datatype="UINT8", shape=list(images.shape), data=images.reshape(-1).tolist())
    return InferResponse(id=request.id, model_name=model, model_version=version, outputs=[tensor])


def binary_answer(request: InferRequest, images: NDArray[np.uint8], *, model: str, version: str) -> tuple[bytes, int]:
    """Return images, uint8 [N,C,H,W], in the binary extension: the whole body, and the length of the JSON in front."""
    size = {"binary_data_size": images.nbytes}
    tensor = OutputTensor(name="image", datatype="UINT8", shape=list(images.shape), parameters=size)
    response = InferResponse(id=request.id, model_name=model, model_version=version, outputs=[tensor])
    head = json.dumps(response.model_dump(exclude_none=True)).encode()
    return head + images.tobytes(), len(head)
