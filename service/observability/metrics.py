"""Prometheus metrics of one process: base units, prefix `sfddm_`, bounded labels.

The label `model` is a shipped id, a configured solver variant, or `<family>/teacher@other`. A seed, prompt, key or user never
becomes a label. Requests that end after their model was unloaded count under `unloaded`. Series of the served models exist
from the start, at 0, so that a rate includes their first event.
The engine writes what it measures. The API writes requests_total and request_seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics import MetricWrapperBase

from service.observability.exposition import Exposition
from service.observability.gpu import find_gpu

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Few bounds: each one is a series for each model and batch size.
_STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_RATIO = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OUTCOMES = ("ok", "error", "overloaded", "unavailable", "cancelled")
SHED_REASONS = ("overloaded", "latency", "starting", "draining", "stopped", "failed", "model_failed")


class Metrics:
    """Every metric of the service, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, variants: Collection[str] = (), models: Collection[str] = ()) -> None:
        """variants: solver variants (`<family>/teacher@ddim-016`) with a label of their own. models: ids that are served."""
        self.registry = CollectorRegistry()
        self._variants: frozenset[str] = frozenset()
        self._gone: set[str] = set()
        registry, others = self.registry, CollectorRegistry()
        registry.register(others)
        self.requests_total = Counter(
            "sfddm_requests_total", "Requests answered, by outcome", ["model", "outcome"], registry=registry
        )
        self.request_seconds = Histogram(
            "sfddm_request_seconds", "Request arrival to answer", ["model"], buckets=_SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "sfddm_queue_seconds", "Image submitted to its first batch", ["model"], buckets=_SECONDS, registry=registry
        )
        self.compute_seconds = Histogram(
            "sfddm_compute_seconds", "Batches one image rode in", ["model"], buckets=_SECONDS, registry=registry
        )
        self.step_seconds = Histogram(
            "sfddm_step_seconds", "One batch's step", ["model", "bucket"], buckets=_STEP_SECONDS, registry=registry
        )
        self.batch_rows = Histogram("sfddm_batch_rows", "Rows in a batch", ["model"], buckets=_ROWS, registry=registry)
        self.padded_rows_total = Counter(
            "sfddm_padded_rows_total", "Rows computed only to fill a batch", ["model"], registry=registry
        )
        self.steps_total = Counter("sfddm_steps_total", "Row steps computed", ["model"], registry=registry)
        self.wasted_steps_total = Counter(
            "sfddm_wasted_steps_total", "Row steps computed for images that were never delivered", ["model"], registry=registry
        )
        self.estimate_ratio = Histogram(
            "sfddm_estimate_ratio",
            "Time to a request's last image over its estimate at admission; le=1 is the estimates' coverage",
            ["model"],
            buckets=_RATIO,
            registry=registry,
        )
        self.deadlines_total = Counter(
            "sfddm_deadlines_total", "Requests with a latency limit, by outcome", ["model", "outcome"], registry=registry
        )
        self.shed_total = Counter("sfddm_shed_total", "Requests refused by the engine", ["reason"], registry=registry)
        self.backlog_seconds = Gauge("sfddm_backlog_seconds", "Estimated device time of admitted work", registry=others)
        self.running_rows = Gauge("sfddm_running_rows", "Images being denoised", registry=others)
        self.waiting_requests = Gauge("sfddm_waiting_requests", "Requests whose first step is still ahead", registry=others)
        self.wait_seconds = Gauge(
            "sfddm_wait_seconds",
            "Longest estimated wait of a model's lane, what admission compares with sfddm_max_backlog_seconds",
            registry=others,
        )
        self.max_backlog_seconds = Gauge(
            "sfddm_max_backlog_seconds", "Wait of a model's lane above which requests for it are refused", registry=others
        )
        self.ready = Gauge(
            "sfddm_ready", "1 while requests are accepted: models loaded, not draining, not failed", registry=others
        )
        self.reloads_total = Counter(
            "sfddm_reloads_total", "Reloads of the zoos, by whether every folder was loaded", ["outcome"], registry=registry
        )
        self.folders_refused = Gauge(
            "sfddm_folders_refused", "Model folders that were not trusted and whose models are missing", registry=others
        )
        self.model_outdated = Gauge(
            "sfddm_model_outdated",
            "1 while what is on disk cannot be loaded and what was loaded before is served",
            ["model"],
            registry=others,
        )
        self.model_loaded = Gauge("sfddm_model_loaded", "1 when the model is loaded and warm", ["model"], registry=others)
        self.model_image_seconds = Gauge(
            "sfddm_model_image_seconds", "One image on an idle device, as the model was calibrated", ["model"], registry=others
        )
        self.cache_images_total = Counter(
            "sfddm_cache_images_total", "Images looked up in the result cache", ["outcome"], registry=registry
        )
        self.experiment_request_seconds = Histogram(
            "sfddm_experiment_request_seconds",
            "Request arrival to answer, by experiment and arm",
            ["experiment", "arm"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.job_images_total = Counter("sfddm_job_images_total", "Images made for jobs", ["model"], registry=registry)
        self.store_up = Gauge("sfddm_store_up", "0 from a failed use of the store until it works again", registry=others)
        ProcessCollector(registry=others)
        PlatformCollector(registry=others)
        GCCollector(registry=others)
        if (gpu := find_gpu()) is not None:
            others.register(gpu)
        self._exposition = Exposition((made for made in vars(self).values() if isinstance(made, Counter | Histogram)), others)
        self.requests_total.labels(model="none", outcome="invalid")  # refused before a model was chosen
        for reason in SHED_REASONS:
            self.shed_total.labels(reason=reason)
        for outcome in ("ok", "failed"):
            self.reloads_total.labels(outcome=outcome)
        self.serve(models, variants)

    def serve(self, models: Iterable[str], variants: Iterable[str]) -> None:
        """Set the models that are served from now on, and the solver variants with labels of their own."""
        for variant in self._variants - set(variants):
            self._remove(variant)
        self._variants = frozenset(variants)
        for model in models:
            self._gone.discard(model)
            self.wasted_steps_total.labels(model=model)
            self.model_outdated.labels(model=model)
            self.request_seconds.labels(model=model)
            self.job_images_total.labels(model=model)
            for outcome in OUTCOMES:
                self.requests_total.labels(model=model, outcome=outcome)

    def forget(self, model: str) -> None:
        """Remove the series of a model that is gone. Count its later events under `unloaded`."""
        self._gone.add(model)
        for label in (model, f"{model}@other", *(variant for variant in self._variants if variant.startswith(f"{model}@"))):
            self._remove(label)

    def _remove(self, label: str) -> None:
        """Remove all series with this `model` label."""
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase):
                with suppress(ValueError):  # the metric has no label `model`
                    metric.remove_by_labels({"model": label})

    def watch_engine(
        self,
        *,
        backlog_s: Callable[[], float],
        wait_s: Callable[[], float],
        running_rows: Callable[[], float],
        waiting_requests: Callable[[], float],
    ) -> None:
        """Set the functions that compute the engine's gauges at each scrape. Between scrapes they cost nothing."""
        self.backlog_seconds.set_function(backlog_s)
        self.wait_seconds.set_function(wait_s)
        self.running_rows.set_function(running_rows)
        self.waiting_requests.set_function(waiting_requests)

    def observe_step(self, model: str, *, bucket: int, rows: int, padding: int, seconds: float) -> None:
        """Count a step of a batch. rows: its rows. padding: rows computed only to fill the bucket."""
        self.step_seconds.labels(model, bucket).observe(seconds)
        self.batch_rows.labels(model).observe(rows)
        self.steps_total.labels(model).inc(rows)
        self.padded_rows_total.labels(model).inc(padding)

    def model_label(self, model_id: str) -> str:
        """Return the `model` label of an id from Catalogue.resolve. Variants that are not configured share one value."""
        base, at, _ = model_id.partition("@")
        if base in self._gone:
            return "unloaded"
        return f"{base}@other" if at and model_id not in self._variants else model_id

    def exposition(self) -> bytes:
        """Return the body of /metrics, in `content_type`."""
        return self._exposition.render()
