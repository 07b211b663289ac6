"""GET /v1/models over ASGI."""

from __future__ import annotations

import httpx
import pytest

pytestmark = pytest.mark.anyio


async def test_the_list_has_every_model_in_openai_shape(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert {model["id"] for model in body["data"]} == {"plain/teacher", "tiny/teacher", "tiny/student-004", "tiny/student-008"}
    for model in body["data"]:
        assert model["object"] == "model"
        assert model["created"] == 1735689600  # the manifests' 2025-01-01
        assert model["status"] == "loaded"
        assert model["provider"] == "CPUExecutionProvider"
        assert model["size"] == "8x8"
        buckets = [int(rows) for rows in model["ms_per_step"]]
        assert buckets == sorted(buckets)
        assert buckets  # 1 may be missing: a size that costs hardly less than the next one is no bucket
        assert set(buckets) <= {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}
        assert all(ms > 0 for ms in model["ms_per_step"].values())
    assert [model["id"] for model in body["data"] if model["default"]] == ["tiny/student-008"]


async def test_one_model_by_its_id_with_a_slash(client: httpx.AsyncClient) -> None:
    model = (await client.get("/v1/models/tiny/student-004")).json()
    assert (model["id"], model["kind"], model["steps"], model["variants"]) == ("tiny/student-004", "student", 4, [])
    assert model["classes"] == ["cat", "dog", "bird"]
    assert model["quality"]["ddim-004"]["metrics"] == {"kid": 0.03}
    escaped = (await client.get("/v1/models/tiny%2Fstudent-004")).json()
    assert escaped == model


async def test_a_variant_is_a_model_of_its_own_steps(client: httpx.AsyncClient) -> None:
    teacher = (await client.get("/v1/models/tiny/teacher")).json()
    assert "tiny/teacher@dpmpp-NNN" in teacher["variants"]
    variant = (await client.get("/v1/models/tiny/teacher@dpmpp-016")).json()
    assert (variant["id"], variant["steps"], variant["family"]) == ("tiny/teacher@dpmpp-016", 16, "tiny")


@pytest.mark.parametrize("model_id", ["nothing", "tiny/student-005", "tiny/teacher@ddim-033", "tiny/student-004@ddim-002"])
async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient, model_id: str) -> None:
    response = await client.get(f"/v1/models/{model_id}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
