"""The engine: a thread that owns the device and repeats schedule -> execute -> deliver.

    schedule   choose the rows of the next step (scheduler.py: pure decisions)
    execute    one network evaluation for them (execute.py)
    deliver    advance the rows; hand finished images and previews to the event loops that wait for them

On a CPU several batches may execute at the same time, a thread for each row, where one would leave cores idle.
Between two rounds it does what loading and freeing models needs of the device (lifecycle.py), a piece at a time.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import structlog

from models.catalogue import Catalogue, Entry, Resolved
from models.runtime.base import Backend
from service.engine import admission
from service.engine.config import EngineConfig
from service.engine.execute import Evaluation, evaluate
from service.engine.ledger import Ledger
from service.engine.lifecycle import Lifecycle
from service.engine.load import Loaded, ModelStatus
from service.engine.request import (
    Failed,
    Finished,
    Generation,
    LatencyError,
    ModelFailedError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
    check_generation,
)
from service.engine.row import Row
from service.engine.scheduler import Batch, Scheduler
from service.engine.ticket import Ticket, hand_over
from service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

DEVICE_LOST = 32
LAST_STEP_S = 1.0  # how long the end of a drain waits for the step that is under way

_STARTING = "The service is still loading its models; try again in a moment."
_DRAINING = "The service is shutting down; send the request to another replica or try again later."
_FAILED = "The engine of this replica has failed; send the request to another replica or try again later."


class DeviceLostError(Exception):
    """Nothing runs on the device any more."""


@dataclass(frozen=True)
class _Work:
    """A batch on its way through execute and deliver."""

    batch: Batch
    loaded: Loaded
    rows: list[Row]


class Engine:
    """Serves every model of a catalogue on one device."""

    def __init__(self, catalogue: Catalogue, backend: Backend, config: EngineConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._dead_batches = 0  # engine thread only: in a row
        self._boundary_s = 0.0  # engine thread only: when the last step ended or waiting for work did
        self._changed = threading.Condition()  # guards everything below
        self._scheduler = Scheduler()
        self._lifecycle = Lifecycle(catalogue.entries.values(), backend, config, self._scheduler, metrics, self._changed)
        self._ledger = Ledger(self._scheduler, self._lifecycle, metrics, self._changed)
        self._state: Literal["starting", "serving", "draining", "stopped"] = "starting"
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._beside = ThreadPoolExecutor(thread_name_prefix="engine-beside")
        metrics.watch_engine(
            backlog_s=self._backlog_s,
            wait_s=self._longest_wait_s,
            running_rows=lambda: self._ledger.running_rows,
            waiting_requests=lambda: self._ledger.waiting_requests,
        )

    def start(self) -> None:
        """Load and warm every model in the engine thread; returns at once. Watch `ready`."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Every model has been tried, at least one is loaded, and requests are accepted."""
        return self._state == "serving" and any(status.state == "loaded" for status in self.models.values())

    @property
    def ready_in_s(self) -> float:
        """Estimated seconds until `ready` while starting; 1, for want of knowledge, in any other state."""
        return self._lifecycle.loading_s() if self._state == "starting" else 1.0

    @property
    def state(self) -> Literal["starting", "serving", "draining", "stopped"]:
        """Where in its life the engine is."""
        return self._state

    @property
    def failure(self) -> str | None:
        """Why the engine has failed and needs its process restarted; None while it has not."""
        return self._failure

    @property
    def models(self) -> Mapping[str, ModelStatus]:
        """Status by entry id."""
        return MappingProxyType(self._lifecycle.statuses)

    def wait_s(self, model: Resolved, *, flex: bool = False) -> float | None:
        """Estimated seconds until the model's lane has done what it holds now; None unless the model is on the device.

        A request is refused while this is more than max_backlog_s, see admission.py.
        """
        with self._changed:
            loaded = self._lifecycle.find(model.entry.key)
            if loaded is None:
                return None
            return self._scheduler.wait_s(model.entry.key, flex=flex, now_s=time.perf_counter())

    def choose(self, models: Sequence[Resolved], images: int, max_latency_s: float, *, flex: bool = False) -> Resolved:
        """The first of `models`, best first, that is estimated to make `images` images within max_latency_s.

        It reserves nothing: what is promised is checked again when it is submitted. Raises UnavailableError,
        OverloadedError when none is fast enough now, and LatencyError when none ever is.
        """
        with self._changed:
            loaded = [model for model in models if self._lifecycle.find(model.entry.key) is not None]
            self._check_serving(loaded[0] if loaded else models[0])
            with self._counted():
                return admission.choose(
                    self._scheduler, loaded, images, max_latency_s, self._config.max_backlog_s, time.perf_counter(), flex=flex
                )

    def submit(self, generation: Generation) -> Ticket:
        """Queue one row per image; call it in the event loop that will read the ticket.

        A deadline is promised here: what `choose` found may have changed since.
        Raises UnavailableError (starting, draining, failed, or the model failed to load or is gone), OverloadedError and
        LatencyError (see admission.py; OverloadedError too while exclusive_s would break a promise) and ValueError for images
        that do not fit the model.
        """
        check_generation(generation)
        model, count, flex = generation.model, len(generation.images), generation.flex
        max_latency_s, exclusive_s = generation.max_latency_s, generation.exclusive_s
        key, steps = model.entry.key, len(model.plan)
        loop = asyncio.get_running_loop()
        longest_s = self._config.max_backlog_s
        with self._changed:
            self._check_serving(model)
            now_s = time.perf_counter()
            with self._counted():
                admission.check_backlog(self._scheduler, model, longest_s, now_s, flex=flex)
                if max_latency_s is not None:
                    admission.choose(self._scheduler, [model], count, max_latency_s, longest_s, now_s, flex=flex)
            if exclusive_s:
                admission.check_exclusive(self._scheduler, model, count, exclusive_s, now_s)
            estimated_s = self._scheduler.completion_s(key, count, steps, flex=flex, now_s=now_s)
            ticket = Ticket(generation, loop, self._cancel, first=self._ledger.next_number, estimated_s=estimated_s)
            self._ledger.enter(ticket, now_s)
            promised_s = None if max_latency_s is None else now_s + max_latency_s
            deadline_s = now_s + (longest_s if max_latency_s is None else min(max_latency_s, longest_s))
            self._scheduler.admit(key, ticket.numbers, steps, deadline_s=deadline_s, promised_s=promised_s, flex=flex)
            if exclusive_s:
                self._scheduler.run_exclusively(ticket.numbers, exclusive_s)
            self._changed.notify_all()
        return ticket

    # Models that come and go while others are served

    async def load(self, entry: Entry) -> Loaded | ModelStatus:
        """Load an entry beside what is served, which goes on. Nothing is sent to it before `serve`.

        Returns the loaded model, or the status that says why it could not be loaded.
        """
        return await self._lifecycle.load(entry)

    def serve(self, entry: Entry, found: Loaded | ModelStatus) -> None:
        """Send new requests for the entry's id to this version, or say in its status why there is none."""
        self._lifecycle.serve(entry, found)

    def hold(self, models: Iterable[Resolved]) -> AbstractContextManager[None]:
        """Keep these models' versions on the device for the length of a `with` block."""
        return self._lifecycle.hold(models)

    def unload(self, model_id: str) -> None:
        """Send no new requests to a model. What it has begun is finished."""
        self._lifecycle.unload(model_id)

    def mark_outdated(self, model_id: str, reason: str | None) -> None:
        """Say in a model's status why its folder is not what is served; None: it is."""
        self._lifecycle.outdated(model_id, reason)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, finish what is admitted within timeout_s, fail what is left, and stop the thread.

        A step or a model load in progress at the end is waited for LAST_STEP_S, and left to itself if it takes longer.
        """
        await asyncio.to_thread(self._drain, timeout_s)

    # Admission and cancellation: any thread

    def _check_serving(self, model: Resolved) -> None:
        """Raise unless requests for this model are accepted at all."""
        if self._state != "serving":
            self._shed("failed" if self._failure else self._state)
            why = _FAILED if self._failure else _STARTING if self._state == "starting" else _DRAINING
            raise UnavailableError(why, self.ready_in_s)
        if self._lifecycle.find(model.entry.key) is None:
            self._shed("model_failed")
            status, name = self.models.get(model.entry.id), model.entry.id
            if status is not None and status.state == "failed":
                raise ModelFailedError(name, status.reason)
            raise UnavailableError(
                f"The model {name} was replaced or unloaded while the request was on its way; send it again."
            )

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            self._ledger.drop(ticket, RequestCancelledError("The request was cancelled."))

    def _fail_rest(self) -> None:
        """The engine has stopped: tell everyone who waits."""
        self._ledger.drop_all(lambda: UnavailableError(_FAILED if self._failure else _DRAINING))

    def _drain(self, timeout_s: float) -> None:
        with self._changed:
            if self._state in ("serving", "draining"):
                begun_s = time.perf_counter()
                if self._state == "serving":
                    left_s = round(self._scheduler.backlog_s(), 3)
                    log.info("draining", **self._ledger.left, left_s=left_s, drain_s=timeout_s)
                self._state = "draining"
                done = self._changed.wait_for(lambda: not self._ledger.rows or self._state == "stopped", timeout_s)
                if self._state == "draining":  # else a second drain has cut this one short, and told so
                    seconds = round(time.perf_counter() - begun_s, 3)
                    if done:
                        log.info("drained", seconds=seconds)
                    else:
                        log.warning("drain_ran_out", **self._ledger.left, seconds=seconds)
            self._state = "stopped"
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(LAST_STEP_S)
            with self._changed:
                self._fail_rest()

    # The engine thread

    def _run(self) -> None:
        try:
            self._lifecycle.load_all(lambda: self._state == "starting")
            with self._changed:
                if self._state == "starting":
                    self._state = "serving"
            self._boundary_s = time.perf_counter()
            while self._state != "stopped":
                if self._lifecycle.upkeep():
                    self._boundary_s = time.perf_counter()  # no model is charged for it
                if work := self._schedule():
                    self._step(work)
        except Exception as error:
            log.exception("engine_failed")
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            with self._changed:
                self._state = "stopped"
                self._fail_rest()
            self._beside.shutdown(wait=False)
            self._lifecycle.close()

    def _schedule(self) -> list[_Work]:
        """The next batch and those beside it; waits for work. Empty when there is other work, or the engine is to stop."""
        with self._changed:
            while self._state != "stopped":
                batch = self._scheduler.schedule()
                if batch is not None:
                    return [self._work(each) for each in (batch, *self._scheduler.beside(batch))]
                if self._lifecycle.due:
                    break
                self._changed.wait()
                self._boundary_s = time.perf_counter()
        return []

    def _work(self, batch: Batch) -> _Work:
        loaded = self._lifecycle.find(batch.model)
        assert loaded is not None, "a version with rows stays on the device"
        return _Work(batch, loaded, self._ledger.started(batch.rows))

    def _step(self, work: Sequence[_Work]) -> None:
        """Execute, side by side where there are several batches, and deliver."""
        first, *others = work
        start_s = time.perf_counter()
        run = partial(evaluate, now_s=start_s, abreast=bool(others))
        running = [self._beside.submit(run, other.loaded.network, other.rows) for other in others]
        evaluation = run(first.loaded.network, first.rows)
        beside = [(other, future.result()) for other, future in zip(others, running, strict=True)]
        seconds = time.perf_counter() - start_s
        for other, result in beside:
            self._deliver(other, result, seconds, charged=False)
        self._deliver(first, evaluation, seconds, alone=not others)

    def _deliver(
        self, work: _Work, evaluation: Evaluation, seconds: float, *, charged: bool = True, alone: bool = False
    ) -> None:
        """Advance the rows and hand over what they have become; the heavy part needs no lock: rows are this thread's.

        charged: not for a batch that rode beside another; alone: no other batch took part of its time.
        """
        batch, loaded, rows = work.batch, work.loaded, work.rows
        model_id, now_s = loaded.entry.id, time.perf_counter()
        self._metrics.observe_step(
            model_id,
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
            if charged:
                now_s = time.perf_counter()  # the engine's own work between two steps keeps the device from others as well
                self._scheduler.charge(batch, now_s - self._boundary_s, learn=evaluation.clean, alone=alone, now_s=now_s)
                self._boundary_s = now_s
            self._scheduler.advance(batch)
            told = []
            for row, event in zip(rows, events, strict=True):
                if row.number not in self._ledger.rows:  # cancelled while on the device
                    self._metrics.wasted_steps_total.labels(model=model_id).inc()
                    continue
                if event is not None:
                    told.append((row.ticket, event))
                if isinstance(event, Failed):
                    self._scheduler.remove(row.number)
                    self._ledger.leave(row, wasted=row.step + 1)
                elif isinstance(event, Finished):
                    self._ledger.leave(row, wasted=0)
                    self._ledger.observe(row.ticket, row.model.id, event.timing)
            if evaluation.fits is not None:
                log.warning("batches_shrunk", model=model_id, rows=evaluation.fits, reason="the device is out of memory")
                self._scheduler.shrink(batch.model, evaluation.fits)
        hand_over(told)
        self._dead_batches = self._dead_batches + 1 if evaluation.dead else 0
        if self._dead_batches >= DEVICE_LOST:
            raise DeviceLostError(f"the runtime raised for every row of {DEVICE_LOST} batches in a row")

    # Metrics

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request that admission refuses."""
        try:
            yield
        except (OverloadedError, LatencyError) as error:
            self._shed("overloaded" if isinstance(error, OverloadedError) else "latency")
            raise

    def _shed(self, reason: str) -> None:
        self._metrics.shed_total.labels(reason=reason).inc()

    def _backlog_s(self) -> float:
        with self._changed:
            return self._scheduler.backlog_s()

    def _longest_wait_s(self) -> float:
        with self._changed:
            return self._scheduler.longest_wait_s(time.perf_counter())
