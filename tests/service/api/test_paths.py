"""Paths that are almost right, and methods beside GET and POST."""

from __future__ import annotations

import httpx
import pytest

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", "/v2/models/nope", "The model 'nope' does not exist"),
        ("GET", "/v2/models/nope/ready", "The model 'nope' does not exist"),
        ("POST", "/v2/models/nope/infer", "The model 'nope' does not exist"),
        ("GET", "/v2/models/nope/versions/1", "The model 'nope' does not exist"),
        ("POST", "/v2/models/nope/versions/1/infer", "The model 'nope' does not exist"),
        ("GET", "/v2/models/tiny/nope/ready", "The model 'tiny/nope' does not exist"),
        ("GET", "/v2/models/a/b/c", "The model 'a/b/c' does not exist"),
        ("GET", "/v2/models/tiny/teacher/versions/2", "only the version 1"),
        ("GET", "/v2/models/tiny/teacher/versions", "nothing at /v2/models/tiny/teacher/versions"),
        ("GET", "/v2/models/nope/", "leave out the slash"),
        ("GET", "/v2/models/tiny/teacher/", "leave out the slash"),
        ("GET", "/v2/models", "nothing at /v2/models"),
        ("GET", "/v2/", "leave out the slash"),
        ("POST", "/v2/nope", "nothing at /v2/nope"),
    ],
)
async def test_unknown_paths_of_the_inference_protocol(client: httpx.AsyncClient, method: str, path: str, says: str) -> None:
    response = await client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == 404
    assert list(response.json()) == ["error"]
    assert says in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "says", "code"),
    [
        ("GET", "/v1/models/", "leave out the slash", "not_found"),
        ("GET", "/v1/models/nope", "The model 'nope' does not exist", "model_not_found"),
        ("GET", "/v1/models/tiny/teacher/", "leave out the slash", "not_found"),
        ("GET", "/v1/experiments/", "leave out the slash", "not_found"),
        ("POST", "/v1/images/generations/", "leave out the slash", "not_found"),
        ("GET", "/v1/jobs/", "leave out the slash", "not_found"),
        ("GET", "/v1", "nothing at /v1", "not_found"),
        ("GET", "/nope/", "leave out the slash", "not_found"),
        ("POST", "/nope", "nothing at /nope", "not_found"),
    ],
)
async def test_unknown_paths_elsewhere(client: httpx.AsyncClient, method: str, path: str, says: str, code: str) -> None:
    response = await client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert says in error["message"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
        ("/v1/models/tiny/teacher", "GET, HEAD, OPTIONS"),
        ("/v1/images/generations", "POST, OPTIONS"),
        ("/v1/jobs", "GET, POST, HEAD, OPTIONS"),
        ("/v1/jobs/" + "0" * 32, "DELETE, GET, HEAD, OPTIONS"),
        ("/v2/models/tiny/teacher", "GET, HEAD, OPTIONS"),
        ("/v2/models/tiny/teacher/infer", "POST, OPTIONS"),
    ],
)
async def test_options_and_wrong_methods_tell_the_right_ones(client: httpx.AsyncClient, path: str, allowed: str) -> None:
    options = await client.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")
    wrong = await client.patch(path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, allowed)
    assert allowed in wrong.text
    head = await client.head(path)
    expected = (await client.get(path)).status_code if "HEAD" in allowed else 405
    assert (head.status_code, head.content) == (expected, b"")


async def test_options_of_nothing_is_a_404(client: httpx.AsyncClient) -> None:
    assert (await client.options("/nope")).status_code == 404
