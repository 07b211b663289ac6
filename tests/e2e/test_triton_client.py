"""Triton's own HTTP client, unmodified, against a real server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Server

MODEL = "tiny/student-008"


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    opened = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield opened
    opened.close()


def tensor(name: str, values: list[int], *, binary: bool = True, column: bool = False) -> triton.InferInput:
    array = np.array(values, dtype=np.int64)
    array = array[:, None] if column else array
    made = triton.InferInput(name, list(array.shape), "INT64")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("tiny/none")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    model = client.get_model_metadata(MODEL, "1")
    assert model["name"] == MODEL
    assert model["outputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}]
    assert {tensor["name"] for tensor in model["inputs"]} == {"seed", "index", "class_label"}


@pytest.mark.parametrize("binary", [True, False])
def test_seeds_in_images_out(server: Server, client: triton.InferenceServerClient, binary: bool) -> None:
    inputs = [tensor("seed", [5, 6], binary=binary, column=True), tensor("class_label", [1, 0], binary=binary)]
    outputs = [triton.InferRequestedOutput("image", binary_data=binary)]
    images = client.infer(MODEL, inputs, outputs=outputs, request_id="mine").as_numpy("image")
    assert (images.shape, images.dtype) == ((2, 1, 8, 8), np.uint8)
    for image, seed, label in zip(images, (5, 6), (1, 0), strict=True):
        body = {"model": MODEL, "seed": seed, "class_label": label}
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body).json()
        file = io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))
        assert np.array_equal(np.asarray(Image.open(file)), image[0])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_compressed_request_is_answered_as_a_plain_one(
    client: triton.InferenceServerClient, coding: str, binary: bool
) -> None:
    inputs = [tensor("seed", [5, 6], binary=binary)]
    plain = client.infer(MODEL, inputs).as_numpy("image")
    packed = client.infer(MODEL, inputs, request_compression_algorithm=coding).as_numpy("image")
    assert np.array_equal(plain, packed)


def test_what_is_left_out_has_defaults(client: triton.InferenceServerClient) -> None:
    plain = client.infer("plain/teacher", [tensor("seed", [3])], model_version="1")
    assert plain.get_response()["model_name"] == "plain/teacher"
    assert plain.as_numpy("image").shape == (1, 1, 8, 8)
    variant = client.infer("tiny/teacher@dpmpp-004", [tensor("seed", [3]), tensor("index", [7])])
    assert variant.as_numpy("image").shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("model", "version", "inputs", "says"),
    [
        ("tiny/none", "", [("seed", [1])], "does not exist"),
        (MODEL, "2", [("seed", [1])], "only the version 1"),
        (MODEL, "", [("index", [1])], "seed is missing"),
        (MODEL, "", [("seed", [-1])], "seed"),
        (MODEL, "", [("seed", [1, 2]), ("class_label", [1])], "class_label"),
        (MODEL, "", [("seed", [1]), ("class_label", [3])], "between 0 and 2"),
        ("plain/teacher", "", [("seed", [1]), ("class_label", [0])], "unconditional"),
        (MODEL, "", [("seed", list(range(65)))], "at most 64"),
        (MODEL, "", [("noise", [1])], "inputs.0.name"),
    ],
)
def test_a_mistake_is_one_sentence(
    client: triton.InferenceServerClient, model: str, version: str, inputs: list[tuple[str, list[int]]], says: str
) -> None:
    with pytest.raises(InferenceServerException, match=says):
        client.infer(model, [tensor(name, values) for name, values in inputs], model_version=version)
