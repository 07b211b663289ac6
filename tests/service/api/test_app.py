"""Everything around the routes: ids, errors, limits, health, the page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest

from service.engine.lifecycle import LOAD_S
from service.features.service import StartupError
from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio


async def test_unknown_routes_and_methods_have_openai_errors(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v3/nothing")
    assert missing.status_code == 404
    assert "/v3/nothing" in missing.json()["error"]["message"]
    wrong = await client.delete("/v1/models")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET, HEAD, OPTIONS"
    assert "GET" in wrong.json()["error"]["message"]
    inference = await client.get("/v2/nothing")  # the Open Inference Protocol has a shape of its own
    assert inference.status_code == 404
    assert "/v2/nothing" in inference.json()["error"]


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    for path in ("/", "/livez", "/v1/models", "/v1/models/tiny/teacher", "/metrics", "/openapi.json"):
        got, headed = await client.get(path), await client.head(path)
        assert headed.status_code == 200
        assert headed.content == b""
        assert headed.headers["content-type"] == got.headers["content-type"]
    assert (await client.head("/v1/models/tiny/none")).status_code == 404
    assert (await client.head("/v1/images/generations")).status_code == 405


async def test_every_response_has_a_request_id(client: httpx.AsyncClient) -> None:
    assert re.fullmatch("[0-9a-f]{32}", (await client.get("/livez")).headers["x-request-id"])
    assert re.fullmatch("[0-9a-f]{32}", (await client.get("/nowhere")).headers["x-request-id"])
    kept = await client.get("/livez", headers={"x-request-id": "trace-1:a.b_c"})
    assert kept.headers["x-request-id"] == "trace-1:a.b_c"
    for insane in ("a b", "x" * 129, "<script>"):
        replaced = await client.get("/livez", headers={"x-request-id": insane})
        assert replaced.headers["x-request-id"] != insane


async def test_large_bodies_are_refused_announced_or_not(client: httpx.AsyncClient) -> None:
    body = json.dumps({"prompt": "x" * (1 << 20)}).encode()

    async def unannounced() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    for content in (body, unannounced()):
        response = await client.post("/v1/images/generations", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 413
        assert "1048576 bytes" in response.json()["error"]["message"]
        assert "x-request-id" in response.headers


async def test_a_bug_is_a_500_without_its_traceback(tiny_zoo: Path) -> None:
    app = tiny_app(tiny_zoo)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("secret detail")

    async with serving(app) as client:
        response = await client.get("/boom")
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["type"] == "server_error"
    assert response.headers["x-request-id"] in error["message"]
    assert "secret" not in response.text


async def test_readiness_follows_the_engine(tiny_zoo: Path) -> None:
    app = tiny_app(tiny_zoo)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as outside:
        starting = await outside.get("/readyz")
        assert starting.status_code == 503
        assert int(starting.headers["retry-after"]) >= LOAD_S * len(app.state.service.engine.models)
        assert (await outside.get("/livez")).status_code == 200
        async with serving(app) as client:
            assert (await client.get("/readyz")).json() == {"status": "ok"}
        drained = await outside.get("/readyz")
        assert drained.status_code == 503
        assert drained.json()["error"]["code"] == "not_ready"


async def test_metrics_count_answers(client: httpx.AsyncClient) -> None:
    sample = 'sfddm_requests_total{model="tiny/teacher@ddim-008",outcome="ok"}'
    other = 'sfddm_requests_total{model="tiny/teacher@other",outcome="ok"}'
    for model in ("tiny/teacher@ddim-008", "tiny/teacher@ddim-005"):
        assert (await client.post("/v1/images/generations", json={"model": model})).status_code == 200
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert f"{sample} 1.0" in response.text
    assert f"{other} 1.0" in response.text


async def test_metrics_count_refusals(client: httpx.AsyncClient) -> None:
    async def refusals() -> float:
        found = re.search(r'sfddm_requests_total\{model="none",outcome="invalid"\} (\S+)', (await client.get("/metrics")).text)
        return float(found[1]) if found else 0.0

    before = await refusals()
    for body in (b'{"n": 0}', b"{", b'{"prompt": "a house"}', b'{"model": "tiny/none"}', b"x" * (1 << 21)):
        headers = {"content-type": "application/json"}
        assert (await client.post("/v1/images/generations", content=body, headers=headers)).status_code >= 400
    assert await refusals() == before + 5


async def test_a_post_tells_what_is_left_of_the_backlog(client: httpx.AsyncClient) -> None:
    headers = (await client.post("/v1/images/generations", json={"seed": 1})).headers
    limit, remaining = (float(headers[f"x-ratelimit-{name}-seconds"]) for name in ("limit", "remaining"))
    assert 0 <= remaining <= limit == 60
    assert headers["x-ratelimit-reset-seconds"] == "0.000"
    assert "x-ratelimit-limit-seconds" not in (await client.get("/v1/models")).headers


async def test_the_room_told_is_that_of_the_models_own_lane(tiny_zoo: Path) -> None:
    """Requests for a teacher whose lane is full are refused with Retry-After, while a student's lane is empty."""
    answers: list[httpx.Response] = []
    async with serving(tiny_app(tiny_zoo, max_backlog_s=1e-6)) as client:

        async def post(model: str, n: int) -> None:
            answers.append(await client.post("/v1/images/generations", json={"model": model, "n": n}))

        async with anyio.create_task_group() as tasks:
            for model, n in (("tiny/teacher", 16), ("tiny/teacher", 16), ("tiny/student-004", 1)):
                tasks.start_soon(post, model, n)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    for answer in answers:
        assert (float(answer.headers["x-ratelimit-reset-seconds"]) > 0) == (answer.status_code == 429)


async def test_the_pages_and_their_parts_come_from_here(client: httpx.AsyncClient) -> None:
    for path, script in (("/", "page/app.js"), ("/docs", "page/docs.js")):
        page = await client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        wanted = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        assert {script, "page/style.css", "page/icon.svg"} == set(wanted)
        for name in wanted:  # grows by what modules import
            part = await client.get(f"/{name}")
            assert part.status_code == 200
            assert not re.search(r"https?://(?!www\.w3\.org/)", part.text)
            imported = [f"page/{module}" for module in re.findall(r'^import .*?"\./([^"]+)"', part.text, re.MULTILINE)]
            wanted += [name for name in imported if name not in wanted]
    assert (await client.get("/page/cli.py")).status_code == 404


async def test_openapi_describes_the_generation_body(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    fields = schema["components"]["schemas"]["GenerationRequest"]["properties"]
    assert {"prompt", "model", "n", "size", "seed", "class_label", "output_format"} <= set(fields)


async def test_a_broken_model_folder_does_not_stop_the_rest(tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(tiny_zoo, zoo)
    (zoo / "tiny" / "student-004" / "model.onnx").write_bytes(b"not the graph")
    async with serving(tiny_app(zoo)) as client:
        ids = {model["id"] for model in (await client.get("/v1/models")).json()["data"]}
    assert ids == {"plain/teacher", "tiny/teacher", "tiny/student-008"}


async def test_nothing_to_serve_is_one_sentence(tmp_path: Path, tiny_zoo: Path) -> None:
    with pytest.raises(StartupError, match="No model to serve"):
        tiny_app(tmp_path)
    with pytest.raises(StartupError, match=r"default model.*tiny/none"):
        tiny_app(tiny_zoo, default_model="tiny/none")
