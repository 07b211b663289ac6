"""Experiments over ASGI: assignment, the arm in answers, the figures of arms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.features.service import StartupError
from service.settings.experiments import Experiment
from tests.service.api.conftest import serving, tiny_app
from tests.service.api.test_stream import events_of

pytestmark = pytest.mark.anyio
ARMS = {"tiny/student-004": 1.0, "tiny/teacher": 1.0}
URL = "/v1/images/generations"


@pytest.fixture(scope="module")
async def trial(tiny_zoo: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(tiny_app(tiny_zoo, experiments={"steps": Experiment(arms=ARMS)})) as client:
        yield client


async def generate(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json={"model": "steps"} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["experiment"]["arm"] == answer["model"]
    return answer


async def test_an_experiment_is_a_model(trial: httpx.AsyncClient) -> None:
    listed = (await trial.get("/v1/models")).json()["data"]
    body = next(model for model in listed if model["id"] == "steps")
    assert (body["object"], body["owned_by"], body["arms"]) == ("model", "experiment", ARMS)
    assert (await trial.get("/v1/models/steps")).json() == body


async def test_a_user_stays_with_an_arm_and_users_are_spread(trial: httpx.AsyncClient) -> None:
    models: dict[str, set[str]] = {}
    for _ in range(2):
        for number in range(20):
            answer = await generate(trial, user=f"user {number}")
            assert answer["experiment"]["by"] == "user"
            models.setdefault(f"user {number}", set()).add(answer["model"])
    assert all(len(arms) == 1 for arms in models.values())
    assert set().union(*models.values()) == set(ARMS)


async def test_without_a_user_the_seed_decides_and_without_a_seed_chance(trial: httpx.AsyncClient) -> None:
    first, second = await generate(trial, seed=4), await generate(trial, seed=4)
    assert first["experiment"] == second["experiment"]
    assert first["experiment"]["by"] == "seed"
    assert not second["data"][0]["cached"]  # an experiment measures computed images, never recalled ones
    assert (await generate(trial))["experiment"]["by"] == "chance"
    direct = await trial.post(URL, json={"model": "steps", "user": "u"}, headers={"accept": "image/png"})
    assert (direct.headers["x-experiment"], direct.headers["x-arm"]) == ("steps", direct.headers["x-model"])


async def test_other_models_belong_to_no_experiment(trial: httpx.AsyncClient) -> None:
    answer = (await trial.post(URL, json={"model": "tiny/teacher", "user": "u"})).json()
    assert answer["experiment"] is None


async def test_a_job_of_an_experiment_has_an_arm(trial: httpx.AsyncClient) -> None:
    posted = await trial.post("/v1/jobs", json={"model": "steps", "user": "user 3"})
    job = posted.json()
    assert (posted.headers["x-experiment"], posted.headers["x-arm"]) == ("steps", job["model"])
    assert job["model"] == (await generate(trial, user="user 3"))["model"]


async def test_the_comparison(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, experiments={"steps": Experiment(arms=ARMS)})) as client:
        empty = (await client.get("/v1/experiments/steps")).json()
        assert [(arm["requests"], arm["latency_s"], arm["against_reference"]) for arm in empty["arms"]] == [(0, {}, {})] * 2
        assert "no answers yet" in empty["arms"][1]["note"]
        few = [(await generate(client, user=f"user {number}"))["model"] for number in range(6)]
        assert len(set(few)) == 2
        little = (await client.get("/v1/experiments/steps")).json()["arms"][1]
        for difference in little["against_reference"].values():
            assert (difference["low_s"], difference["high_s"]) == (None, None)
        reference_units, units = (few.count(arm) for arm in ARMS)
        assert f"this one has {units} and the reference {reference_units}" in little["note"]
        made = few + [(await generate(client, user=f"user {number}"))["model"] for number in range(6, 40)]
        body = (await client.get("/v1/experiments/steps")).json()
        assert (body["id"], body["reference"], body["shared"]) == ("steps", "tiny/student-004", False)
        for arm in body["arms"]:
            assert arm["requests"] == arm["sampled"] == made.count(arm["model"])
            assert list(arm["latency_s"]) == ["p50", "p90", "p95", "p99"]
            assert 0 < arm["latency_s"]["p50"] <= arm["latency_s"]["p99"]
            assert arm["units"] == made.count(arm["model"]) >= 10
        reference, teacher = body["arms"]
        assert reference["against_reference"] == {}
        assert ("reference" in reference["note"], teacher["note"]) == (True, None)
        for difference in teacher["against_reference"].values():
            assert difference["low_s"] <= difference["difference_s"] <= difference["high_s"]
        assert (await client.get("/v1/experiments")).json()["data"] == [body]
        metrics = (await client.get("/metrics")).text
        for arm in ARMS:
            line = f'sfddm_experiment_request_seconds_count{{arm="{arm}",experiment="steps"}} {float(made.count(arm))}'
            assert line in metrics


async def test_a_stream_has_an_arm_and_counts(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, experiments={"steps": Experiment(arms=ARMS)})) as client:
        found = events_of((await client.post(URL, json={"model": "steps", "user": "a", "n": 2, "stream": True})).text)
        arm = found[0][1]["model"]
        assert [data["experiment"] for _, data in found] == [{"id": "steps", "arm": arm, "by": "user"}] * 2
        assert {data["model"] for _, data in found} == {arm}
        arms = (await client.get("/v1/experiments/steps")).json()["arms"]
        assert {body["model"]: body["requests"] for body in arms} == {name: int(name == arm) for name in ARMS}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/interpolations", {"model": "steps", "seeds": [1, 2]}),
        ("/v1/comparisons", {"models": ["steps", "tiny/teacher"]}),
    ],
)
async def test_what_takes_no_experiment_names_its_arms(trial: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    response = await trial.post(path, json=body)
    assert response.status_code == 404
    assert all(arm in response.json()["error"]["message"] for arm in ARMS)


async def test_an_unknown_experiment_is_a_404(trial: httpx.AsyncClient) -> None:
    response = await trial.get("/v1/experiments/other/one")
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "experiment_not_found"
    assert "steps" in error["message"]


@pytest.mark.parametrize(
    ("name", "arms", "says"),
    [
        ("steps", {"tiny/student-004": 1, "tiny/none": 1}, "tiny/none"),
        ("tiny/teacher", ARMS, "has the name of a model"),
        ("steps", {"tiny/student-004": 1, "tiny/teacher@ddim-4": 1}, "tiny/teacher@ddim-004"),
    ],
)
def test_what_cannot_run_is_one_sentence_at_the_start(tiny_zoo: Path, name: str, arms: dict[str, float], says: str) -> None:
    with pytest.raises(StartupError, match=says):
        tiny_app(tiny_zoo, experiments={name: Experiment(arms=arms)})
