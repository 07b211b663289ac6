"""Every field of every body with wrong values: each is a 400 whose message names the field."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from service.schema.comparisons import ComparisonRequest
from service.schema.images import GenerationRequest, InterpolationRequest
from service.schema.jobs import JobRequest

pytestmark = pytest.mark.anyio

BODIES: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/v1/images/generations": (GenerationRequest, {}),
    "/v1/images/interpolations": (InterpolationRequest, {"seeds": [1, 2]}),
    "/v1/comparisons": (ComparisonRequest, {"models": ["tiny/teacher", "tiny/student-004"]}),
    "/v1/jobs": (JobRequest, {}),
}
NUMBERS = [True, -1, 0.001, 10**30, -(10**400), float("nan"), float("inf")]
WRONG: list[Any] = [*NUMBERS, "", "x", "\0\x1b", [], [None], [""], {}, {"a": 1}]


@pytest.mark.parametrize("path", BODIES)
async def test_each_names_its_field(client: httpx.AsyncClient, path: str) -> None:
    model, valid = BODIES[path]
    refusals = 0
    for field in model.model_fields:
        for value in WRONG:
            content = json.dumps(valid | {field: value})
            response = await client.post(path, content=content, headers={"content-type": "application/json"})
            what = f"{field} = {value!r}: {response.text[:300]}"
            if response.is_success:  # free text, or a value that is a number after all
                assert isinstance(value, str | bool | int | float), what
                continue
            assert response.status_code in (400, 404), what
            error = response.json()["error"]
            assert error["type"] == "invalid_request_error", what
            assert error["param"].split(".")[0] == field, what
            assert field in error["message"].casefold() or error["code"] == "model_not_found", what
            assert "nput should" not in error["message"], what
            assert error["message"].isprintable(), what
            assert len(error["message"]) < 300, what
            refusals += 1
    assert refusals > 8 * len(model.model_fields)


@pytest.mark.parametrize("path", BODIES)
async def test_null_is_absent_and_unknown_fields_are_refused(client: httpx.AsyncClient, path: str) -> None:
    model, valid = BODIES[path]
    optional = {name: None for name, field in model.model_fields.items() if not field.is_required()}
    assert (await client.post(path, json=optional | valid)).is_success
    for name in ("frobnicate", "\0", "x" * 1000):
        error = (await client.post(path, json=valid | {name: 1})).json()["error"]
        assert error["param"] == name
        assert error["message"].startswith("Unknown field")
        assert error["message"].isprintable()
        assert len(error["message"]) < 200


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v1/images/interpolations", {"seeds": [1]}, "seeds: must have at least 2 entries, got 1."),
        ("/v1/images/interpolations", {"seeds": [1, 2**53]}, f"seeds.1: must be at most {2**53 - 1}, got {2**53}."),
        ("/v1/images/interpolations", {}, "seeds: is missing; it is required."),
        ("/v1/images/generations", {"model": ""}, "model: must not be empty; fill it in or leave it out."),
        ("/v1/comparisons", {"models": ["tiny/teacher", ""]}, "models.1: must not be empty; fill it in or leave it out."),
        (
            "/v1/comparisons",
            {"models": ["tiny/teacher", "tiny/student-004"], "reference": ""},
            "reference: must not be empty; fill it in or leave it out.",
        ),
        ("/v1/images/generations", {"n": "2"}, 'n: must be an integer, got "2".'),
        ("/v1/images/generations", {"max_latency_ms": 0}, "max_latency_ms: must be more than 0, got 0."),
        ("/v1/images/generations", {"output_format": "gif"}, "output_format: must be 'png', 'webp' or 'jpeg', got \"gif\"."),
        ("/v1/comparisons", {"models": []}, "models: must have at least 2 entries, got 0."),
    ],
)
async def test_sentences(client: httpx.AsyncClient, path: str, body: dict[str, Any], sentence: str) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == sentence


async def test_unknown_query_parameters_are_refused(client: httpx.AsyncClient) -> None:
    for method, path in [("GET", "/v1/models"), ("GET", "/v1/models/tiny/teacher"), *(("POST", path) for path in BODIES)]:
        refused = await client.request(method, f"{path}?frobnicate=1", json={} if method == "POST" else None)
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["param"] == "frobnicate"
        assert error["message"] == "Unknown query parameter 'frobnicate'; leave it out (this one has none)."
    assert (await client.get("/metrics?x=1")).status_code == 200  # a scraper may add its own parameters


async def test_too_many_images_are_sent_to_the_jobs(client: httpx.AsyncClient) -> None:
    error = (await client.post("/v1/images/generations", json={"n": 17})).json()["error"]
    assert error["message"] == "n: at most 16 images in one request, got 17; POST /v1/jobs takes more."
