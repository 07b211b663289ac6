"""The engine: a thread that owns the device and repeats schedule -> execute -> deliver.

    schedule   choose the rows of the next step (scheduler.py: pure decisions)
    execute    one network evaluation for them (execute.py)
    deliver    advance the rows; hand finished images and previews to the event loops that wait for them

`submit` and `cancel` run in the event loop and only change what the next `schedule` sees, under a lock that is never held
while the device works. So rows join and leave at step boundaries, and the event loop never waits for the device.

A row that fails takes nothing with it. When the device itself is gone (DEVICE_LOST batches in a row in which the runtime
raised for every single row) or the thread meets a bug, the engine fails what it holds, stays down and says so in `failure`:
a broken device context does not heal within its process, so /livez turns red and the orchestrator restarts the replica.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import structlog

from models.catalogue import Catalogue, Resolved
from service.backend.base import Backend
from service.engine import admission
from service.engine.config import EngineConfig
from service.engine.execute import Evaluation, evaluate
from service.engine.load import Loaded, ModelStatus, load
from service.engine.request import (
    EngineError,
    Failed,
    Finished,
    ImageSpec,
    LatencyError,
    OverloadedError,
    RequestCancelledError,
    Timing,
    UnavailableError,
    check_request,
)
from service.engine.row import Row, preview_steps
from service.engine.scheduler import Batch, Scheduler
from service.engine.ticket import Ticket, hand_over
from service.telemetry import Metrics

log = structlog.get_logger(__name__)

DEVICE_LOST = 32

_STARTING = "The service is still loading its models; try again in a moment."
_DRAINING = "The service is shutting down; send the request to another replica or try again later."
_FAILED = "The engine of this replica has failed; send the request to another replica or try again later."


class DeviceLostError(Exception):
    """Nothing runs on the device any more."""


class Engine:
    """Serves every model of a catalogue on one device."""

    def __init__(self, catalogue: Catalogue, backend: Backend, config: EngineConfig, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._backend = backend
        self._config = config
        self._metrics = metrics
        self._loaded: dict[str, Loaded] = {}  # engine thread only
        self._dead_batches = 0  # engine thread only: in a row
        self._boundary_s = 0.0  # engine thread only: when the last step ended or waiting for work did
        self._changed = threading.Condition()  # guards everything below
        self._scheduler = Scheduler()
        self._rows: dict[int, Row] = {}  # not finished
        self._next_number = 0
        self._running_rows = 0
        self._waiting_requests = 0
        self._models = {entry_id: ModelStatus("loading") for entry_id in catalogue.entries}
        self._state: Literal["starting", "serving", "draining", "stopped"] = "starting"
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.watch_engine(
            backlog_s=self._backlog_s,
            running_rows=lambda: self._running_rows,
            waiting_requests=lambda: self._waiting_requests,
        )

    def start(self) -> None:
        """Load and warm every model in the engine thread; returns at once. Watch `ready`."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Every model has been tried, at least one is loaded, and requests are accepted."""
        return self._state == "serving" and any(status.state == "loaded" for status in self._models.values())

    @property
    def failure(self) -> str | None:
        """Why the engine has failed and needs its process restarted; None while it has not."""
        return self._failure

    @property
    def models(self) -> Mapping[str, ModelStatus]:
        """Status by entry id."""
        return MappingProxyType(self._models)

    def wait_s(self, model: Resolved, *, flex: bool = False) -> float | None:
        """Estimated seconds until the model's lane has done what it holds now; None unless the model is loaded.

        A request is refused while this is more than max_backlog_s, see admission.py.
        """
        with self._changed:
            loaded = self._models[model.entry.id].state == "loaded"
            return self._scheduler.wait_s(model.entry.id, flex=flex) if loaded else None

    def choose(self, models: Sequence[Resolved], images: int, max_latency_s: float, *, flex: bool = False) -> Resolved:
        """The first of `models`, best first, that is estimated to make `images` images within max_latency_s.

        Submit to it before the event loop turns, and what was estimated still holds. Raises UnavailableError,
        OverloadedError when none is fast enough now, and LatencyError when none ever is.
        """
        with self._changed:
            loaded = [model for model in models if self._models[model.entry.id].state == "loaded"]
            self._check_serving(loaded[0] if loaded else models[0])
            try:
                return admission.choose(
                    self._scheduler, loaded, images, max_latency_s, self._config.max_backlog_s, time.perf_counter(), flex=flex
                )
            except (OverloadedError, LatencyError) as error:
                self._shed("overloaded" if isinstance(error, OverloadedError) else "latency")
                raise

    def submit(
        self,
        model: Resolved,
        images: Sequence[ImageSpec],
        *,
        previews: int = 0,
        max_latency_s: float | None = None,
        flex: bool = False,
        exclusive_s: float = 0.0,
    ) -> Ticket:
        """Queue one row per image; call it in the event loop that will read the ticket.

        previews: mid-denoise predictions per image, evenly spaced before the end.
        max_latency_s: deadline of the rows, which orders them within their lane; `choose` is what promises it.
        flex: work that can wait, see scheduler.py.
        exclusive_s: device seconds in which nothing else runs, from the next step boundary until the request is done; when
        they are spent, what is left shares the device as ever. OverloadedError while that would break a promise.
        Raises UnavailableError (starting, draining, failed, or the model failed to load), OverloadedError (see
        admission.py) and ValueError for images that do not fit the model.
        """
        check_request(model.entry.manifest, images, previews)
        entry_id, steps = model.entry.id, len(model.plan)
        due = preview_steps(steps, previews)
        loop = asyncio.get_running_loop()
        longest_s = self._config.max_backlog_s
        with self._changed:
            self._check_serving(model)
            try:
                admission.check_backlog(self._scheduler, model, longest_s, flex=flex)
            except OverloadedError:
                self._shed("overloaded")
                raise
            now_s = time.perf_counter()
            if exclusive_s:
                admission.check_exclusive(self._scheduler, model, len(images), exclusive_s, now_s)
            ticket = Ticket(
                images,
                loop,
                self._cancel,
                first=self._next_number,
                estimated_s=self._scheduler.completion_s(entry_id, len(images), steps, flex=flex),
                max_latency_s=max_latency_s,
            )
            self._next_number += len(images)
            for position, (number, spec) in enumerate(zip(ticket.numbers, ticket.specs, strict=True)):
                self._rows[number] = Row(number, ticket, position, spec, model, due, now_s)
            self._waiting_requests += 1
            deadline_s = now_s + (longest_s if max_latency_s is None else min(max_latency_s, longest_s))
            self._scheduler.admit(
                entry_id, ticket.numbers, steps, deadline_s=deadline_s, promised=max_latency_s is not None, flex=flex
            )
            if exclusive_s:
                self._scheduler.run_exclusively(ticket.numbers, exclusive_s)
            self._changed.notify_all()
        return ticket

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, finish what is admitted within timeout_s, fail what is left, and stop the thread.

        A step or a model load in progress is waited for, however long it takes.
        """
        await asyncio.to_thread(self._drain, timeout_s)

    # Admission and cancellation: any thread

    def _check_serving(self, model: Resolved) -> None:
        """Raise unless requests for this model are accepted at all."""
        if self._state != "serving":
            self._shed("failed" if self._failure else self._state)
            raise UnavailableError(_FAILED if self._failure else _STARTING if self._state == "starting" else _DRAINING)
        status = self._models[model.entry.id]
        if status.state == "failed":
            self._shed("model_failed")
            raise UnavailableError(f"The model {model.entry.id} could not be loaded: {status.reason}")

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            self._drop(ticket, RequestCancelledError("The request was cancelled."))

    def _drop(self, ticket: Ticket, reason: EngineError) -> None:
        """Forget what is left of a ticket and tell its reader why. A row on the device leaves when its step ends."""
        rows = [row for number in ticket.numbers if (row := self._rows.get(number)) is not None]
        for row in rows:
            self._leave(row, wasted=len(row.plan) - self._scheduler.remove(row.number))
        if rows:
            hand_over([(ticket, reason)])

    def _leave(self, row: Row, *, wasted: int) -> None:
        """Forget a row, however it ended. wasted: steps it took for nothing."""
        del self._rows[row.number]
        row.ticket.unfinished -= 1
        self._running_rows -= row.started
        self._waiting_requests -= not row.ticket.started and not row.ticket.unfinished
        if wasted:
            self._metrics.wasted_steps_total.labels(model=row.model.entry.id).inc(wasted)
        self._changed.notify_all()

    def _drain(self, timeout_s: float) -> None:
        with self._changed:
            if self._state in ("serving", "draining"):
                self._state = "draining"
                self._changed.wait_for(lambda: not self._rows, timeout_s)
            self._state = "stopped"
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # The engine thread

    def _run(self) -> None:
        try:
            self._load()
            while (work := self._schedule()) is not None:
                batch, rows = work
                start_s = time.perf_counter()
                evaluation = evaluate(self._loaded[batch.model].network, rows, start_s)
                self._deliver(batch, rows, evaluation, time.perf_counter() - start_s)
        except Exception as error:
            log.exception("engine_failed")
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            with self._changed:
                self._state = "stopped"
                for ticket in {row.ticket for row in self._rows.values()}:
                    self._drop(ticket, UnavailableError(_FAILED if self._failure else _DRAINING))
            self._loaded.clear()

    def _load(self) -> None:
        """Load and calibrate each model; one that fails is reported and does not stop the others."""
        for entry in self._catalogue.entries.values():
            if self._state != "starting":
                return
            loaded = load(entry, self._backend, self._config)
            self._metrics.model_loaded.labels(model=entry.id).set(isinstance(loaded, Loaded))
            if isinstance(loaded, ModelStatus):
                self._models[entry.id] = loaded
                continue
            with self._changed:
                self._scheduler.add_model(entry.id, loaded.costs, self._config.weights.get(entry.id, 1.0))
            self._loaded[entry.id] = loaded
            self._models[entry.id] = loaded.status
        with self._changed:
            if self._state == "starting":
                self._state = "serving"
            self._boundary_s = time.perf_counter()

    def _schedule(self) -> tuple[Batch, list[Row]] | None:
        """The next batch and its rows; waits for work. None when the engine is to stop."""
        with self._changed:
            while self._state != "stopped":
                batch = self._scheduler.schedule()
                if batch is not None:
                    rows = [self._rows[number] for number in batch.rows]
                    for row in rows:
                        self._mark_started(row)
                    return batch, rows
                self._changed.wait()
                self._boundary_s = time.perf_counter()
        return None

    def _mark_started(self, row: Row) -> None:
        if not row.started:
            self._running_rows += 1
            row.started = True
            if not row.ticket.started:
                self._waiting_requests -= 1
                row.ticket.started_s = time.perf_counter()

    def _deliver(self, batch: Batch, rows: Sequence[Row], evaluation: Evaluation, seconds: float) -> None:
        """Advance the rows and hand over what they have become; the heavy part needs no lock: rows are this thread's."""
        loaded, now_s = self._loaded[batch.model], time.perf_counter()
        self._metrics.observe_step(
            batch.model,
            bucket=loaded.costs.bucket(len(rows)),
            rows=len(rows),
            padding=loaded.network.padded(len(rows)) - len(rows),
            seconds=seconds,
        )
        events = [
            row.take(output, seconds=seconds, batch_rows=len(rows), now_s=now_s, network=loaded.network)
            for row, output in zip(rows, evaluation.outputs, strict=True)
        ]
        with self._changed:
            now_s = time.perf_counter()  # the engine's own work between two steps keeps the device from others as well
            self._scheduler.charge(batch, now_s - self._boundary_s, learn=evaluation.clean)
            self._boundary_s = now_s
            self._scheduler.advance(batch)
            told = []
            for row, event in zip(rows, events, strict=True):
                if row.number not in self._rows:  # cancelled while on the device
                    self._metrics.wasted_steps_total.labels(model=batch.model).inc()
                    continue
                if event is not None:
                    told.append((row.ticket, event))
                if isinstance(event, Failed):
                    self._scheduler.remove(row.number)
                    self._leave(row, wasted=row.step + 1)
                elif isinstance(event, Finished):
                    self._leave(row, wasted=0)
                    self._observe(row.ticket, row.model.id, event.timing)
            if evaluation.fits is not None:
                log.warning("batches_shrunk", model=batch.model, rows=evaluation.fits, reason="the device is out of memory")
                self._scheduler.shrink(batch.model, evaluation.fits)
        hand_over(told)
        self._dead_batches = self._dead_batches + 1 if evaluation.dead else 0
        if self._dead_batches >= DEVICE_LOST:
            raise DeviceLostError(f"the runtime raised for every row of {DEVICE_LOST} batches in a row")

    # Metrics

    def _shed(self, reason: str) -> None:
        self._metrics.shed_total.labels(reason=reason).inc()

    def _observe(self, ticket: Ticket, model_id: str, timing: Timing) -> None:
        """An image is done; when it is the request's last, so is what was promised."""
        label = self._metrics.model_label(model_id)
        self._metrics.queue_seconds.labels(model=label).observe(timing.queue_s)
        self._metrics.compute_seconds.labels(model=label).observe(timing.compute_s)
        if ticket.unfinished == 0:
            self._metrics.estimate_ratio.labels(model=label).observe(timing.total_s / ticket.estimated_s)
            if ticket.max_latency_s is not None:
                outcome = "met" if timing.total_s <= ticket.max_latency_s else "missed"
                self._metrics.deadlines_total.labels(model=label, outcome=outcome).inc()

    def _backlog_s(self) -> float:
        with self._changed:
            return self._scheduler.backlog_s()
