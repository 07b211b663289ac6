"""Metrics: the names that operators rely on, and labels with few values."""

from __future__ import annotations

import pytest

from service.observability.metrics import Metrics

NAMES = [
    "sfddm_requests_total",
    "sfddm_request_seconds",
    "sfddm_queue_seconds",
    "sfddm_compute_seconds",
    "sfddm_step_seconds",
    "sfddm_batch_rows",
    "sfddm_padded_rows_total",
    "sfddm_steps_total",
    "sfddm_wasted_steps_total",
    "sfddm_estimate_ratio",
    "sfddm_deadlines_total",
    "sfddm_shed_total",
    "sfddm_backlog_seconds",
    "sfddm_running_rows",
    "sfddm_waiting_requests",
    "sfddm_wait_seconds",
    "sfddm_max_backlog_seconds",
    "sfddm_ready",
    "sfddm_model_loaded",
    "sfddm_model_outdated",
    "sfddm_model_image_seconds",
    "sfddm_folders_refused",
    "sfddm_reloads_total",
    "sfddm_store_up",
    "sfddm_cache_images_total",
    "sfddm_experiment_request_seconds",
    "sfddm_job_images_total",
    "process_resident_memory_bytes",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_of_the_design_is_exposed(name: str) -> None:
    metrics = Metrics()
    assert f"# HELP {name} " in metrics.exposition().decode()
    assert metrics.content_type.startswith("text/plain")


def test_variants_that_are_not_configured_share_a_label() -> None:
    metrics = Metrics(variants=["cats/teacher@ddim-016"])
    labels = ["cats/teacher", "cats/student-016", "cats/teacher@ddim-016", "cats/teacher@ddim-017", "cats/teacher@dpmpp-900"]
    assert [metrics.model_label(label) for label in labels] == [*labels[:3], "cats/teacher@other", "cats/teacher@other"]


def test_two_services_in_one_process_do_not_share_counters() -> None:
    one, other = Metrics(), Metrics()
    one.shed_total.labels(reason="overloaded").inc()
    assert one.registry.get_sample_value("sfddm_shed_total", {"reason": "overloaded"}) == 1
    assert other.registry.get_sample_value("sfddm_shed_total", {"reason": "overloaded"}) == 0


def test_gauges_are_read_when_scraped() -> None:
    metrics, backlog = Metrics(), [1.5]
    metrics.watch_engine(backlog_s=lambda: backlog[0], wait_s=lambda: 0.5, running_rows=lambda: 2, waiting_requests=lambda: 3)
    assert metrics.registry.get_sample_value("sfddm_backlog_seconds") == 1.5
    backlog[0] = 7.0
    assert metrics.registry.get_sample_value("sfddm_backlog_seconds") == 7
    assert metrics.registry.get_sample_value("sfddm_wait_seconds") == 0.5
    assert metrics.registry.get_sample_value("sfddm_running_rows") == 2
    assert metrics.registry.get_sample_value("sfddm_waiting_requests") == 3
