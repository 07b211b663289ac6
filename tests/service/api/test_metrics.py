"""Every metric changes under traffic, and the buckets cover the latencies of requests."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from service.observability.metrics import Metrics
from service.settings.experiments import Experiment
from tests.service.api.conftest import READY_WITHIN_S, serving, tiny_app

pytestmark = pytest.mark.anyio
URL = "/v1/images/generations"
STILL = {
    "sfddm_backlog_seconds",  # gauges: tests/service/observability/test_metrics.py and tests/service/engine
    "sfddm_wait_seconds",  # tests/service/engine/test_admission.py
    "sfddm_running_rows",
    "sfddm_waiting_requests",
    "sfddm_padded_rows",  # this backend does not pad: see test_padding_is_counted
    "sfddm_reloads",  # tests/service/api/test_admin.py
    "sfddm_model_outdated",
    "sfddm_folders_refused",  # tests/service/api/test_admin.py
    "sfddm_wasted_steps",  # tests/service/engine/test_engine.py
}


def families(metrics: Metrics) -> dict[str, float]:
    """Return the sum of each metric's samples."""
    return {
        family.name: sum(sample.value for sample in family.samples if not sample.name.endswith("_created"))
        for family in metrics.registry.collect()
        if family.name.startswith("sfddm_") and not family.name.startswith("sfddm_gpu_")
    }


async def test_traffic_moves_every_metric(tiny_zoo: Path) -> None:
    experiment = Experiment(arms={"tiny/student-004": 1, "tiny/student-008": 1})
    app = tiny_app(tiny_zoo, experiments={"tiny/steps": experiment})
    metrics: Metrics = app.state.service.metrics
    before = families(metrics)
    async with serving(app) as client:
        for body in ({"seed": 1}, {"max_latency_ms": 60_000}, {"model": "tiny/steps", "user": "a"}):
            assert (await client.post(URL, json=body)).status_code == 200
        assert (await client.post(URL, json={"model": "tiny/teacher", "n": 16, "max_latency_ms": 1})).status_code == 400
        await client.post("/v1/jobs", json={"n": 1})
        with anyio.fail_after(READY_WITHIN_S):
            while not families(metrics)["sfddm_job_images"]:
                await anyio.sleep(0.01)
        after = families(metrics)
        assert after["sfddm_ready"] == 1
    unmoved = {name for name, value in after.items() if not value or value == before[name]}
    assert unmoved - STILL <= {"sfddm_max_backlog_seconds", "sfddm_store_up"}  # constant, and not 0
    assert after["sfddm_max_backlog_seconds"] == 60
    assert after["sfddm_store_up"] == 1
    assert families(metrics)["sfddm_ready"] == 0  # drained


def test_padding_is_counted() -> None:
    metrics = Metrics()
    metrics.observe_step("m", bucket=4, rows=3, padding=1, seconds=0.1)
    assert metrics.registry.get_sample_value("sfddm_padded_rows_total", {"model": "m"}) == 1


def test_series_of_models_exist_before_their_first_event() -> None:
    registry = Metrics(models=["cats/teacher"]).registry
    assert registry.get_sample_value("sfddm_requests_total", {"model": "cats/teacher", "outcome": "error"}) == 0
    assert registry.get_sample_value("sfddm_request_seconds_bucket", {"model": "cats/teacher", "le": "+Inf"}) == 0
    assert registry.get_sample_value("sfddm_job_images_total", {"model": "cats/teacher"}) == 0
    assert registry.get_sample_value("sfddm_shed_total", {"reason": "overloaded"}) == 0


@pytest.mark.parametrize("name", ["request", "queue", "compute", "experiment_request"])
def test_latency_buckets_reach_from_5_ms_to_10_minutes(name: str) -> None:
    metrics = Metrics()
    histogram = getattr(metrics, f"{name}_seconds")
    histogram.labels(*histogram._labelnames).observe(1)
    bounds = [s.labels["le"] for family in histogram.collect() for s in family.samples if s.name.endswith("_bucket")]
    assert (bounds[0], bounds[-2]) == ("0.005", "600.0")


def test_labels_are_the_bounded_ones() -> None:
    allowed = {"model", "outcome", "reason", "bucket", "experiment", "arm"}
    for collector in vars(Metrics()).values():
        assert set(getattr(collector, "_labelnames", ())) <= allowed
