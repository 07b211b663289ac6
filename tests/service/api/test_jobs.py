"""/v1/jobs over ASGI, with the store in this process."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio


async def post(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/jobs", json=body)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


async def finished(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    with anyio.fail_after(60):
        while True:
            job: dict[str, Any] = (await client.get(f"/v1/jobs/{job_id}")).json()
            if job["status"] not in ("queued", "running"):
                return job
            await anyio.sleep(0.02)


async def result(client: httpx.AsyncClient, job: dict[str, Any]) -> zipfile.ZipFile:
    response = await client.get(job["result_url"])
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.testzip() is None
    return archive


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return body


async def test_a_job_makes_the_images_that_requests_make(client: httpx.AsyncClient) -> None:
    job = await post(client, model="tiny/student-004", seed=3, first_index=5, n=70, output_format="webp", size="16x16")
    assert (job["status"], job["n"], job["done"], job["result_url"]) == ("queued", 70, 0, None)
    done = await finished(client, job["id"])
    assert (done["status"], done["done"], done["progress"], done["error"]) == ("succeeded", 70, 1.0, None)
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    archive = await result(client, done)
    manifest = json.loads(archive.read("manifest.json"))
    assert (manifest["model"], manifest["steps"], manifest["seed"], manifest["n"]) == ("tiny/student-004", 4, 3, 70)
    assert [image["index"] for image in manifest["images"]] == list(range(5, 75))
    assert archive.namelist() == [*(image["file"] for image in manifest["images"]), "manifest.json"]
    for image in manifest["images"]:
        assert hashlib.sha256(archive.read(image["file"])).hexdigest() == image["sha256"]

    few = {"model": "tiny/student-004", "seed": 3, "first_index": 60, "n": 4, "output_format": "webp", "size": "16x16"}
    answer = (await client.post("/v1/images/generations", json=few)).json()
    for image, listed in zip(answer["data"], manifest["images"][55:59], strict=True):
        assert base64.b64decode(image["b64_json"]) == archive.read(listed["file"])
        assert {name: image[name] for name in ("index", "class_label", "class_name")} == {
            name: listed[name] for name in ("index", "class_label", "class_name")
        }


@pytest.mark.parametrize(
    "body",
    [
        {"model": "tiny/student-004", "prompt": "dog"},
        {"model": "tiny/teacher@ddpm-4", "class_label": 2},
        {"model": "plain/teacher"},
    ],
)
async def test_equal_jobs_give_equal_archives(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    archives = []
    for _ in range(2):
        done = await finished(client, (await post(client, seed=1, n=5, **body))["id"])
        archives.append((await client.get(done["result_url"])).content)
    assert archives[0] == archives[1]


async def test_a_seed_is_drawn_when_absent(client: httpx.AsyncClient) -> None:
    first, second = await post(client, n=1), await post(client, n=1)
    assert first["seed"] != second["seed"]
    assert first["model"] == "tiny/student-008"


async def test_a_cancelled_job_has_no_result_and_can_be_forgotten(client: httpx.AsyncClient) -> None:
    job = await post(client, model="tiny/teacher", n=100_000)
    url = f"/v1/jobs/{job['id']}"
    unfinished = error(await client.get(f"{url}/result"), 409)
    assert unfinished["code"] == "job_not_succeeded"
    cancelled = (await client.delete(url)).json()
    assert (cancelled["status"], cancelled["result_url"], cancelled["eta_s"]) == ("cancelled", None, None)
    assert (await client.get(url)).json()["status"] == "cancelled"
    assert "has no result" in error(await client.get(f"{url}/result"), 409)["message"]
    assert job["id"] in [listed["id"] for listed in (await client.get("/v1/jobs")).json()["data"]]
    assert (await client.delete(url)).json()["status"] == "cancelled"
    assert error(await client.get(url), 404)["code"] == "job_not_found"
    assert job["id"] not in [listed["id"] for listed in (await client.get("/v1/jobs")).json()["data"]]
    with anyio.fail_after(60):  # its rows leave the engine
        while "sfddm_running_rows 0.0" not in (await client.get("/metrics")).text:
            await anyio.sleep(0.05)


@pytest.mark.parametrize("job_id", ["nothing", "0" * 32, "%2e%2e", f"{'0' * 32}:images"])
async def test_an_unknown_job_is_a_404(client: httpx.AsyncClient, job_id: str) -> None:
    for url, method in ((f"/v1/jobs/{job_id}", "GET"), (f"/v1/jobs/{job_id}", "DELETE"), (f"/v1/jobs/{job_id}/result", "GET")):
        assert error(await client.request(method, url), 404)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 100_001}, "n"),
        ({"n": "many"}, "n"),
        ({"seed": -1}, "seed"),
        ({"size": "9x9"}, "size"),
        ({"prompt": "castle"}, "prompt"),
        ({"class_label": 9}, "class_label"),
        ({"output_format": "gif"}, "output_format"),
        ({"stream": True}, "stream"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
)
async def test_a_refusal_names_the_field(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    refused = error(await client.post("/v1/jobs", json=body), 400)
    assert refused["param"] == param
    assert param in refused["message"]


async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient) -> None:
    assert error(await client.post("/v1/jobs", json={"model": "tiny/none"}), 404)["code"] == "model_not_found"


async def test_jobs_are_bounded(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, max_jobs=1)) as client:
        job = await post(client, n=1)
        response = await client.post("/v1/jobs", json={"n": 1})
        assert error(response, 429)["code"] == "too_many_jobs"
        assert 1 <= int(response.headers["retry-after"]) <= 120
        await finished(client, job["id"])
        await client.delete(f"/v1/jobs/{job['id']}")
        await post(client, n=1)


async def test_requests_are_answered_while_a_job_runs(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo)) as client:
        job = await post(client, model="tiny/teacher", n=50_000)
        for seed in range(3):
            assert (await client.post("/v1/images/generations", json={"seed": seed})).status_code == 200
        running = (await client.get(f"/v1/jobs/{job['id']}")).json()
        assert running["status"] in ("queued", "running")
        await client.delete(f"/v1/jobs/{job['id']}")


async def test_the_list_has_pages(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo)) as client:
        made = [(await post(client, n=1, seed=seed))["id"] for seed in range(3)]
        whole = (await client.get("/v1/jobs")).json()
        assert ({job["id"] for job in whole["data"]}, whole["has_more"]) == (set(made), False)
        ids = [job["id"] for job in whole["data"]]
        first = (await client.get("/v1/jobs", params={"limit": 2})).json()
        assert ([job["id"] for job in first["data"]], first["has_more"]) == (ids[:2], True)
        second = (await client.get("/v1/jobs", params={"limit": 2, "after": ids[1]})).json()
        assert ([job["id"] for job in second["data"]], second["has_more"]) == (ids[2:], False)


@pytest.mark.parametrize(
    ("query", "param", "says"),
    [
        ("limit=x", "limit", "must be an integer"),
        ("limit=0", "limit", "at least 1"),
        ("after=nobody", "after", "no job"),
        ("state=running", "state", "Unknown query parameter 'state'; leave it out (this one has after, limit)."),
    ],
)
async def test_a_wrong_query_names_its_parameter(client: httpx.AsyncClient, query: str, param: str, says: str) -> None:
    refused = error(await client.get(f"/v1/jobs?{query}"), 400)
    assert refused["param"] == param
    assert says in refused["message"]


async def test_a_forgotten_job_has_no_result_any_more(client: httpx.AsyncClient) -> None:
    job = await finished(client, (await post(client, n=1))["id"])
    assert job["result_url"] is not None
    forgotten = (await client.delete(f"/v1/jobs/{job['id']}")).json()
    assert (forgotten["status"], forgotten["result_url"]) == ("succeeded", None)
    error(await client.get(job["result_url"]), 404)
