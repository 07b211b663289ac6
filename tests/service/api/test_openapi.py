"""/openapi.json: every operation has examples, they agree with their schemas, and the requests work."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from PIL import Image

from service.settings.experiments import Experiment
from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio
NOT_JSON = {"/metrics", "/v1/images/files/{token}", "/v1/jobs/{job_id}/result"}
TOKEN = "a token of tests"


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def check(schema: dict[str, Any], media: dict[str, Any], what: str) -> None:
    assert "example" in media, what
    wanted = {**media["schema"], "components": schema["components"]}
    jsonschema.validate(media["example"], wanted, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "changes",
    [{}, {"default_model": "plain/teacher", "max_n": 2, "experiments": {"steps": {"tiny/teacher": 2, "tiny/student-004": 1}}}],
    ids=["plain", "other"],
)
async def test_every_operation_has_examples_of_its_schemas(tiny_zoo: Path, changes: dict[str, Any]) -> None:
    experiments = {name: Experiment(arms=arms) for name, arms in changes.pop("experiments", {}).items()}
    async with serving(tiny_app(tiny_zoo, admin_token=TOKEN, experiments=experiments, **changes)) as client:
        schema = (await client.get("/openapi.json")).json()
    assert {"/admin/models/reload", "/admin/models/{model_id}"} <= set(schema["paths"])
    for method, path, operation in operations(schema):
        what = f"{method} {path}"
        assert "422" not in operation["responses"], what
        assert "default" in operation["responses"], what
        for parameter in operation.get("parameters", []):
            assert parameter["in"] != "path" or "example" in parameter, what
        if "requestBody" in operation:
            check(schema, operation["requestBody"]["content"]["application/json"], what)
        (success,) = (answer for status, answer in operation["responses"].items() if status.startswith("2"))
        if path in NOT_JSON:
            assert "application/json" not in success["content"], what
        else:
            check(schema, success["content"]["application/json"], what)


async def test_what_is_sent_works(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    for method, path, operation in operations(schema):
        parameters = {parameter["name"]: parameter.get("example") for parameter in operation.get("parameters", [])}
        media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        answer = await client.request(method, path.format(**parameters), json=media.get("example"))
        # Signatures and job ids in the examples are invented.
        unknown = {"job_id", "token", "experiment_id"} & parameters.keys()
        assert answer.is_success or (unknown and answer.status_code in (403, 404)), f"{method} {path}: {answer.text}"


async def test_the_images_of_examples_can_be_seen(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    answer = schema["paths"]["/v1/images/generations"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    for image in answer["data"]:
        with Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))) as opened:
            assert f"{opened.width}x{opened.height}" == answer["size"]
