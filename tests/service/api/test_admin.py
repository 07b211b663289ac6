"""/admin/models: the zoo changes on disk. The service follows, or says why it does not."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from models.catalogue import discover
from models.manifest import read_manifest
from service.engine.request import ImageSpec
from service.settings.experiments import Experiment
from tests.service.api.conftest import serving, tiny_app
from tests.service.engine.support import reference
from tests.tiny import CLASSES, make_model, make_tiny_zoo

pytestmark = pytest.mark.anyio

TOKEN = "a token of tests"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
NAME = "tiny/student-004"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return make_tiny_zoo(tmp_path / "zoo")


@asynccontextmanager
async def admin(zoo: Path, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(tiny_app(zoo, admin_token=TOKEN, **changes)) as client:
        client.headers.update(ADMIN)
        yield client


def retrain(zoo: Path, seed: int, name: str = "student-004", steps: int = 4) -> None:
    """Write other weights into a model's folder."""
    shutil.rmtree(zoo / "tiny" / name, ignore_errors=True)
    make_model(zoo, "tiny", name, teacher_steps=32, steps=steps, schedule="cosine", classes=CLASSES, seed=seed)


def break_graph(zoo: Path, name: str = "student-004") -> None:
    (zoo / "tiny" / name / "model.onnx").write_bytes(b"spoilt")


async def reload(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.post("/admin/models/reload")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert body.pop("object") == "reload"
    return body


async def generate(client: httpx.AsyncClient, model: str = NAME, **fields: Any) -> httpx.Response:
    return await client.post("/v1/images/generations", json={"model": model, "seed": 3, "class_label": 0} | fields)


async def assert_served(client: httpx.AsyncClient, zoo: Path) -> None:
    """Assert that an answer has the bytes and the sha256 of the folder."""
    model = discover([zoo]).resolve(NAME)
    body = (await generate(client)).json()
    with Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))) as image:
        assert np.array_equal(np.asarray(image), reference(model, ImageSpec(3, 0, 0))[0])
    assert (body["model_sha256"], body["steps"]) == (model.entry.manifest.sha256, len(model.plan))
    listed = (await client.get(f"/v1/models/{NAME}")).json()
    assert (listed["sha256"], listed["steps"], listed["reason"]) == (body["model_sha256"], body["steps"], None)


async def test_a_reload_follows_the_zoo(zoo: Path) -> None:
    async with admin(zoo) as client:
        assert await reload(client) == {
            "loaded": [],
            "replaced": [],
            "removed": [],
            "kept": ["plain/teacher", NAME, "tiny/student-008", "tiny/teacher"],
            "failed": [],
        }
        await assert_served(client, zoo)
        retrain(zoo, 50, steps=3)
        assert (await reload(client))["replaced"] == [NAME]
        await assert_served(client, zoo)
        retrain(zoo, 51, name="student-002", steps=2)
        assert (await reload(client))["loaded"] == ["tiny/student-002"]
        assert (await generate(client, "tiny/student-002")).status_code == 200
        shutil.rmtree(zoo / "tiny" / "student-002")
        assert (await reload(client))["removed"] == ["tiny/student-002"]
        refused = await generate(client, "tiny/student-002")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert (await client.get("/v2/models/tiny/student-002/ready")).status_code == 404
        for _ in range(100):
            text = (await client.get("/metrics")).text
            if "student-002" not in text:
                break
            await anyio.sleep(0.01)
        assert "student-002" not in text
        assert 'sfddm_reloads_total{outcome="ok"} 4.0' in text


async def test_a_broken_folder_leaves_the_old_version_serving(zoo: Path) -> None:
    async with admin(zoo) as client:
        before = (await generate(client)).json()
        break_graph(zoo)
        (failed,) = (await reload(client))["failed"]
        assert (failed["model"], failed["serving"]) == (NAME, True)
        assert "does not match its manifest" in failed["reason"]
        after = (await generate(client)).json()
        assert after["data"][0]["b64_json"] == before["data"][0]["b64_json"]
        listed = (await client.get(f"/v1/models/{NAME}")).json()
        assert (listed["status"], listed["reason"]) == ("loaded", failed["reason"])
        assert (await client.get("/readyz")).status_code == 200
        text = (await client.get("/metrics")).text
        assert f'sfddm_model_outdated{{model="{NAME}"}} 1.0' in text
        assert 'sfddm_reloads_total{outcome="failed"} 1.0' in text
        assert "sfddm_folders_refused 0.0" in text, "the model is there, outdated"
        put = await client.put(f"/admin/models/{NAME}")
        assert (put.status_code, put.json()["error"]["code"]) == (422, "model_not_loaded")
        retrain(zoo, 52)
        assert (await client.put(f"/admin/models/{NAME}")).json()["replaced"] == [NAME]
        await assert_served(client, zoo)
        assert f'sfddm_model_outdated{{model="{NAME}"}} 0.0' in (await client.get("/metrics")).text


async def test_a_folder_refused_at_start_is_listed_and_counted_until_it_is_mended(zoo: Path) -> None:
    break_graph(zoo)
    (zoo / "plain" / "teacher" / "manifest.json").write_text("{")
    async with admin(zoo) as client:
        listed = (await client.get("/v1/models")).json()
        assert NAME not in [model["id"] for model in listed["data"]]
        reasons = {refused["id"]: refused["reason"] for refused in listed["refused"]}
        assert list(reasons) == ["plain/teacher", NAME]
        assert reasons[NAME].startswith(f"{NAME}/model.onnx does not match its manifest")
        assert str(zoo.parent) not in str(listed), "clients learn nothing of this machine's folders"
        assert "sfddm_folders_refused 2.0" in (await client.get("/metrics")).text
        retrain(zoo, 55)
        with capture_logs() as logs:
            assert (await reload(client))["loaded"] == [NAME]
        closing = [line for line in logs if line["event"] == "reloaded"]
        assert [(line["log_level"], line["failed"]) for line in closing] == [("warning", ["plain/teacher"])]
        assert "sfddm_folders_refused 1.0" in (await client.get("/metrics")).text
        shutil.rmtree(zoo / "plain")
        with capture_logs() as logs:
            await reload(client)
        assert [line["log_level"] for line in logs if line["event"] == "reloaded"] == ["info"]
        assert "sfddm_folders_refused 0.0" in (await client.get("/metrics")).text
        assert (await client.get("/v1/models")).json()["refused"] == []


async def test_a_zoo_that_is_away_is_refused(zoo: Path) -> None:
    away = zoo.parent / "away"
    async with serving(tiny_app(zoo, zoos=(zoo, away))) as client:
        assert (await client.get("/v1/models")).json()["refused"] == [{"id": "away", "reason": "the zoo away is not a folder"}]
        assert "sfddm_folders_refused 1.0" in (await client.get("/metrics")).text


async def test_a_graph_that_does_not_run_is_reported_and_mended(zoo: Path) -> None:
    """A new model is listed as failed, as at start. A changed model is served in its old version."""
    async with admin(zoo) as client:
        for name, serving in (("student-004", True), ("student-001", False)):
            retrain(zoo, 53, name=name, steps=1 if name == "student-001" else 4)
            wrong = zoo / "tiny" / name / "model.onnx"
            shutil.copyfile(zoo / "plain" / "teacher" / "model.onnx", wrong)
            manifest = zoo / "tiny" / name / "manifest.json"
            ours, theirs = (read_manifest(folder).sha256 for folder in (wrong.parent, zoo / "plain" / "teacher"))
            manifest.write_text(manifest.read_text().replace(ours, theirs))
            (failed,) = (await reload(client))["failed"]
            assert (failed["model"], failed["serving"]) == (f"tiny/{name}", serving)
            assert "step graph contract" in failed["reason"]
            assert (await generate(client, f"tiny/{name}")).status_code == (200 if serving else 503)
            retrain(zoo, 54, name=name, steps=1 if name == "student-001" else 4)
            assert (await reload(client))["replaced"] == [f"tiny/{name}"]
            assert (await generate(client, f"tiny/{name}")).status_code == 200


async def test_unload_and_load_again(zoo: Path) -> None:
    async with admin(zoo) as client:
        assert (await client.delete(f"/admin/models/{NAME}")).json()["removed"] == [NAME]
        assert (await generate(client)).status_code == 404
        assert NAME not in [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert (await client.delete(f"/admin/models/{NAME}")).status_code == 404
        assert (await client.put(f"/admin/models/{NAME}")).json()["loaded"] == [NAME]
        await assert_served(client, zoo)
        assert (await client.put("/admin/models/tiny/none")).status_code == 404


async def test_what_is_needed_stays(zoo: Path) -> None:
    arms = {"trial": {"arms": {NAME: 1, "plain/teacher": 1}}}
    async with admin(zoo, experiments=arms) as client:
        for name, why in ((NAME, "experiment"), ("tiny/student-008", "default model")):
            refused = await client.delete(f"/admin/models/{name}")
            assert refused.status_code == 409
            assert why in refused.json()["error"]["message"]
        shutil.rmtree(zoo / "tiny" / "student-004")
        (failed,) = (await reload(client))["failed"]
        assert (failed["model"], failed["serving"]) == (NAME, True)
        assert (await generate(client, "trial")).status_code == 200
        (zoo / "tiny").rename(zoo / "away")
        shutil.move(zoo, zoo.with_name("gone"))
        assert len((await reload(client))["failed"]) == 5, "the zoo itself, and every model"
        assert (await generate(client)).status_code == 200


async def test_the_last_model_and_a_default_that_nobody_chose(zoo: Path) -> None:
    async def default(client: httpx.AsyncClient) -> str:
        (found,) = [model["id"] for model in (await client.get("/v1/models")).json()["data"] if model["default"]]
        return str(found)

    async with admin(zoo, default_model=None) as client:
        implied = await default(client)
        needed = await client.delete(f"/admin/models/{implied}")
        assert (needed.status_code, needed.json()["error"]["code"]) == (409, "model_needed")
        assert "SFDDM_DEFAULT_MODEL" in needed.json()["error"]["message"]
        assert await default(client) == implied
        shutil.rmtree(zoo / implied)  # a default whose folder is gone is removed, and another model takes its place
        assert (await reload(client))["removed"] == [implied]
        for _ in range(2):
            assert (await client.get("/openapi.json")).status_code == 200
            assert (await generate(client, await default(client), class_label=None)).status_code == 200
            other = next(m["id"] for m in (await client.get("/v1/models")).json()["data"] if not m["default"])
            assert (await client.delete(f"/admin/models/{other}")).status_code == 200
        last = await client.delete(f"/admin/models/{await default(client)}")
        assert (last.status_code, last.json()["error"]["code"]) == (409, "model_needed")


async def test_a_url_never_shows_an_image_of_other_weights(zoo: Path) -> None:
    async with (
        admin(zoo, url_secret="the same everywhere") as client,
        serving(tiny_app(zoo, url_secret="the same everywhere")) as other,
    ):
        url = (await generate(client, response_format="url")).json()["data"][0]["url"]
        made_again = await other.get(url)
        assert made_again.content == (await client.get(url)).content
        retrain(zoo, 62)
        await reload(client)
        assert (await client.get(url)).content == made_again.content, "its file is kept"
    async with serving(tiny_app(zoo, url_secret="the same everywhere")) as fresh:
        gone = await fresh.get(url)
        assert (gone.status_code, gone.json()["error"]["code"]) == (410, "url_expired")


async def test_auto_chooses_among_what_is_served_now(zoo: Path) -> None:
    async with admin(zoo) as client:
        auto = {"model": "auto", "max_latency_ms": 60_000}
        assert (await generate(client, **auto)).json()["model"] == "tiny/teacher"
        await client.delete("/admin/models/tiny/teacher")
        assert (await generate(client, **auto)).json()["model"] == "tiny/student-008"


async def test_a_job_whose_model_is_unloaded_fails_with_the_reason(zoo: Path) -> None:
    async with admin(zoo, job_chunk=1, max_job_images=100_000) as client:
        job = (await client.post("/v1/jobs", json={"model": NAME, "n": 5000})).json()
        await client.delete(f"/admin/models/{NAME}")
        with anyio.fail_after(30):
            while (now := (await client.get(f"/v1/jobs/{job['id']}")).json())["status"] in ("queued", "running"):
                await anyio.sleep(0.01)
        assert now["status"] == "failed"
        assert NAME in now["error"]
        assert "does not exist" in now["error"]


async def test_a_comparison_is_of_one_version_of_each_model(zoo: Path) -> None:
    body = {"models": [NAME, "tiny/teacher"], "seed": 1, "repeats": 20, "n": 2}
    async with admin(zoo, cache_bytes=0) as client:
        before = (await client.post("/v1/comparisons", json=body)).json()
        answers: list[dict[str, Any]] = []

        async def compare() -> None:
            answers.append((await client.post("/v1/comparisons", json=body)).json())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(compare)
            await anyio.sleep(0.01)
            retrain(zoo, 60)
            assert (await reload(client))["replaced"] == [NAME]
        (during,) = answers
        for old, new in zip(before["results"], during["results"], strict=True):
            assert [image["b64_json"] for image in old["images"]] == [image["b64_json"] for image in new["images"]]
        await assert_served(client, zoo)


async def test_reloads_wait_for_each_other(zoo: Path) -> None:
    async with admin(zoo) as client:
        retrain(zoo, 61)
        bodies: list[dict[str, Any]] = []

        async def once() -> None:
            bodies.append(await reload(client))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(once)
        assert sorted(len(body["replaced"]) for body in bodies) == [0, 0, 0, 1]
        await assert_served(client, zoo)


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer \xfcber\xdf", TOKEN])
async def test_nothing_happens_without_the_token(zoo: Path, given: str | None) -> None:
    async with serving(tiny_app(zoo, admin_token=TOKEN)) as client:
        raw = {} if given is None else {"authorization": given.encode("latin-1")}
        for method, path in (("POST", "reload"), ("PUT", NAME), ("DELETE", NAME)):
            response = await client.request(method, f"/admin/models/{path}", headers=raw)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert response.json()["error"]["code"] == "invalid_admin_token"
        assert (await generate(client)).status_code == 200


async def test_there_is_no_admin_unless_it_is_switched_on(client: httpx.AsyncClient) -> None:
    response = await client.post("/admin/models/reload", headers=ADMIN)
    assert response.status_code == 404
    assert "SFDDM_ADMIN_TOKEN" in response.json()["error"]["message"]
    assert not [path for path in (await client.get("/openapi.json")).json()["paths"] if "admin" in path]


async def test_what_needs_a_model_is_named(zoo: Path) -> None:
    arms = {NAME: 1.0, "tiny/teacher@ddim-004": 1.0}
    async with admin(zoo, experiments={"steps": Experiment(arms=arms)}) as client:
        for model in (NAME, "tiny/teacher"):
            refused = await client.delete(f"/admin/models/{model}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_needed")
            assert f"The experiment 'steps' needs {model}" in refused.json()["error"]["message"]
        default = await client.delete("/admin/models/tiny/student-008")
        assert (default.status_code, "is the default model" in default.json()["error"]["message"]) == (409, True)
        shutil.rmtree(zoo / NAME)
        (failed,) = (await reload(client))["failed"]
        assert (failed["model"], failed["serving"], "'steps' needs" in failed["reason"]) == (NAME, True, True)
