"""POST /v1/comparisons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.catalogue import Catalogue
from service.features.comparison.plan import check_work
from service.features.errors import InvalidRequestError
from service.schema.comparisons import ComparisonRequest
from tests.service.api.conftest import serving, tiny_app
from tests.service.api.test_stream import events_of

pytestmark = pytest.mark.anyio
URL = "/v1/comparisons"
MODELS = ["tiny/student-004", "tiny/teacher", "tiny/teacher@ddim-032", "tiny/student-008"]


async def compare(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json={"models": MODELS, "seed": 3, "n": 2, "repeats": 6, "prompt": "dog", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_an_answer_has_what_one_needs_to_believe_it(client: httpx.AsyncClient) -> None:
    answer = await compare(client)
    assert (answer["reference"], answer["rounds"], answer["mode"]) == ("tiny/teacher", 6, "concurrent")
    assert answer["note"] is None
    assert [result["model"] for result in answer["results"]] == MODELS
    for result in answer["results"]:
        body = {"model": result["model"], "prompt": "dog", "seed": 3, "n": 2}
        made = (await client.post("/v1/images/generations", json=body)).json()["data"]
        assert [image["b64_json"] for image in result["images"]] == [image["b64_json"] for image in made]
        assert len(result["samples"]) == 6
        for name in ("queue_s", "compute_s", "total_s"):
            samples = sorted(sample[name] for sample in result["samples"])
            assert result[name]["median"] == pytest.approx((samples[2] + samples[3]) / 2)
            assert samples[4] <= result[name]["p95"] <= samples[5]
        if result["model"] != "tiny/teacher":
            low, value, high = (result["speed_up"][name] for name in ("low", "value", "high"))
            assert low <= value <= high
    four, teacher, same, _ = answer["results"]
    assert (teacher["speed_up"], teacher["agreement"]) == (None, None)
    assert same["agreement"]["psnr_db"] == pytest.approx(58.92, abs=0.01)  # all of the teacher's steps: the teacher's images
    assert same["agreement"]["ssim"] == pytest.approx(1)
    assert four["agreement"]["psnr_db"] < 30
    assert four["quality"]["metrics"] == {"kid": 0.03}
    assert same["quality"] is not None


async def test_a_stream_tells_how_far_it_is(client: httpx.AsyncClient) -> None:
    body = {"models": MODELS[:2], "seed": 3, "n": 2, "repeats": 2, "stream": True, "reference": "tiny/student-004"}
    response = await client.post(URL, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    names = [name for name, _ in events]
    assert names == ["comparison.image"] * 4 + ["comparison.measured"] * 4 + ["comparison.completed"]
    assert [data["done"] for _, data in events[:-1]] == list(range(1, 9))
    assert {data["total"] for _, data in events[:-1]} == {8}
    assert events[-1][1]["reference"] == "tiny/student-004"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"models": ["tiny/teacher"]}, "models"),
        ({"models": ["tiny/teacher"] * 2}, "models"),
        ({"models": ["tiny/teacher@ddim-8", "tiny/teacher@ddim-008"]}, "models"),
        ({"models": ["tiny/teacher", "plain/teacher"]}, "models"),
        ({"reference": "tiny/teacher@ddim-004"}, "reference"),
        ({"n": 17}, "n"),
        ({"repeats": 0}, "repeats"),
        ({"prompt": "a house"}, "prompt"),
        ({"mode": "isolated"}, "mode"),
        ({"mode": "alone"}, "mode"),
    ],
)
async def test_a_refusal_names_the_field(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post(URL, json={"models": MODELS} | body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("body", "param"), [({"models": ["tiny/teacher", "tiny/none"]}, "models"), ({"reference": "tiny/none"}, "reference")]
)
async def test_an_unknown_model_is_a_404_that_names_the_field(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    response = await client.post(URL, json={"models": MODELS} | body)
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, "model_not_found")
    assert "tiny/none" in error["message"]


@pytest.mark.parametrize("repeats", [1, 5])
async def test_few_rounds_have_no_interval_and_say_why(client: httpx.AsyncClient, repeats: int) -> None:
    answer = await compare(client, repeats=repeats)
    assert answer["note"].startswith(f"{repeats} round(s) are too few for an interval")
    for result in answer["results"]:
        if result["speed_up"]:
            assert result["speed_up"]["value"] > 0
            assert (result["speed_up"]["low"], result["speed_up"]["high"]) == (None, None)


async def test_the_work_of_a_comparison_is_bounded(tiny_zoo: Path) -> None:
    """The refusal names a field whose remedy helps: the comparison that follows it is accepted."""
    app = tiny_app(tiny_zoo, max_batch=1)
    pair = ["tiny/teacher", "tiny/student-004"]
    async with serving(app) as client:
        ms = {model["id"]: model["ms_per_step"]["1"] for model in (await client.get("/v1/models")).json()["data"]}
        round_s = (32 * ms[pair[0]] + 4 * ms[pair[1]]) / 1000

        def limit(seconds: float) -> None:
            service = app.state.service
            app.state.service = replace(service, config=replace(service.config, max_comparison_s=seconds))

        async def refusal(**body: Any) -> dict[str, Any]:
            response = await client.post(URL, json={"models": pair, **body})
            assert response.status_code == 400, response.text
            error: dict[str, Any] = response.json()["error"]
            assert error["code"] == "too_much_work"
            assert error["message"].startswith(f"{error['param']}: ")
            return error

        limit(4.5 * round_s)
        repeats = await refusal(repeats=50)
        assert (repeats["param"], "send at most 3" in repeats["message"]) == ("repeats", True)
        assert (await client.post(URL, json={"models": pair, "repeats": 3})).status_code == 200
        assert (await refusal(repeats=4))["param"] == "repeats"
        assert (await refusal(n=16, repeats=1))["param"] == "n"
        limit(round_s)
        models = await refusal(repeats=1)
        assert (models["param"], "leave out the slowest, tiny/teacher" in models["message"]) == ("models", True)


async def test_isolated_where_it_is_allowed(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, isolated_s=20)) as client:
        answer = await compare(client, mode="isolated", repeats=2)
        assert (answer["mode"], answer["rounds"]) == ("isolated", 2)
        assert answer["note"].startswith("2 round(s)")
    async with serving(tiny_app(tiny_zoo, isolated_s=1e-9)) as client:
        response = await client.post(URL, json={"models": MODELS, "mode": "isolated"})
        assert response.status_code == 400
        assert "alone" in response.json()["error"]["message"]
        streamed = await client.post(URL, json={"models": MODELS, "mode": "concurrent", "repeats": 1, "stream": True})
        assert events_of(streamed.text)[-1][0] == "comparison.completed"


async def test_seconds_are_written_out(tiny_catalogue: Catalogue) -> None:
    body = ComparisonRequest(models=["tiny/teacher", "tiny/student-004"], repeats=49)
    models = [tiny_catalogue.resolve(name) for name in body.models]
    with pytest.raises(InvalidRequestError, match="take about 2850 s of the device"):
        check_work(body.asked(), models, round_s=lambda _: 57.0, limit_s=60.0)
