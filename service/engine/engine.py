"""The engine: a thread that owns the device and repeats schedule -> execute -> deliver.

    schedule   choose the rows of the next step (scheduler.py: pure decisions)
    execute    one network evaluation for them (execute.py)
    deliver    advance the rows; hand finished images and previews to the event loops that wait for them

`submit` and `cancel` run in the event loop and only change what the next `schedule` sees, under a lock that is never held
while the device works. So rows join and leave at step boundaries, and the event loop never waits for the device.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import structlog

from models.catalogue import Catalogue, Entry, Resolved
from service.backend.base import Backend, Network
from service.engine.calibrate import calibrate
from service.engine.config import EngineConfig
from service.engine.costs import StepCosts
from service.engine.execute import Output, evaluate
from service.engine.request import (
    EngineError,
    Finished,
    ImageSpec,
    OverloadedError,
    RequestCancelledError,
    RowFailedError,
    UnavailableError,
    check_request,
)
from service.engine.row import Row, preview_steps
from service.engine.scheduler import Batch, Scheduler
from service.engine.ticket import Event, Ticket
from service.telemetry import Metrics

log = structlog.get_logger(__name__)

_DRAINING = "The service is shutting down; send the request to another replica or try again later."


@dataclass(frozen=True)
class ModelStatus:
    """What became of one model of the catalogue.

    step_ms: milliseconds of one step by batch size, measured at warm-up; empty unless loaded.
    """

    state: Literal["loading", "loaded", "failed"]
    reason: str | None = None
    provider: str | None = None
    step_ms: Mapping[int, float] = field(default_factory=dict)


class Engine:
    """Serves every model of a catalogue on one device."""

    def __init__(self, catalogue: Catalogue, backend: Backend, config: EngineConfig, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._backend = backend
        self._config = config
        self._metrics = metrics
        self._networks: dict[str, Network] = {}  # engine thread only
        self._costs: dict[str, StepCosts] = {}  # engine thread only
        self._changed = threading.Condition()  # guards everything below
        self._scheduler = Scheduler()
        self._rows: dict[int, Row] = {}
        self._tickets: dict[Ticket, list[Row]] = {}  # rows not finished
        self._alone: Ticket | None = None  # nothing else runs while this one has device seconds left to be alone
        self._alone_s = 0.0
        self._numbers = itertools.count()
        self._models = {entry_id: ModelStatus("loading") for entry_id in catalogue.entries}
        self._state: Literal["starting", "serving", "draining", "stopped"] = "starting"
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.watch_engine(
            backlog_s=self._backlog_s, running_rows=self._running_rows, waiting_requests=self._waiting_requests
        )

    def start(self) -> None:
        """Load and warm every model in the engine thread; returns at once. Watch `ready`."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Every model has been tried, at least one is loaded, and requests are accepted."""
        return self._state == "serving" and any(status.state == "loaded" for status in self._models.values())

    @property
    def models(self) -> Mapping[str, ModelStatus]:
        """Status by entry id."""
        return MappingProxyType(self._models)

    @property
    def backlog_s(self) -> float:
        """Estimated device seconds of everything admitted."""
        return self._backlog_s()

    def submit(self, model: Resolved, images: Sequence[ImageSpec], *, previews: int = 0, alone_s: float = 0.0) -> Ticket:
        """Queue one row per image; call it in the event loop that will read the ticket.

        previews: mid-denoise predictions per image, evenly spaced before the end.
        alone_s: device seconds in which nothing else runs, from the next step boundary until the request is done; what
        is left after them shares the device again. One request at a time is alone, a second one shares.
        Raises UnavailableError (starting, draining, or the model failed to load), OverloadedError (more than
        max_backlog_s of work is ahead) and ValueError for images that do not fit the model.
        """
        check_request(model.entry.manifest, images, previews)
        ticket = Ticket(images, asyncio.get_running_loop(), self._cancel)
        due = preview_steps(len(model.plan), previews)
        now_s = time.perf_counter()
        with self._changed:
            self._admit(model)
            rows = [Row(next(self._numbers), ticket, position, spec, model, due, now_s) for position, spec in enumerate(images)]
            self._rows.update((row.number, row) for row in rows)
            self._tickets[ticket] = rows
            self._scheduler.admit(model.entry.id, (row.number for row in rows), len(model.plan))
            if alone_s > 0 and self._alone is None:
                self._alone, self._alone_s = ticket, alone_s
            self._changed.notify_all()
        return ticket

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, finish what is admitted within timeout_s, fail what is left, and stop the thread.

        A step or a model load in progress is waited for, however long it takes.
        """
        await asyncio.to_thread(self._drain, timeout_s)

    # Admission and cancellation: any thread

    def _admit(self, model: Resolved) -> None:
        """Raise unless a request for this model may be queued now."""
        entry_id = model.entry.id
        if self._state != "serving":
            self._metrics.shed_total.labels(reason=self._state).inc()
            raise UnavailableError(
                "The service is still loading its models; try again in a moment." if self._state == "starting" else _DRAINING
            )
        if self._models[entry_id].state == "failed":
            self._metrics.shed_total.labels(reason="model_failed").inc()
            raise UnavailableError(f"The model {entry_id} could not be loaded: {self._models[entry_id].reason}")
        ahead_s = self._scheduler.backlog_s()
        if ahead_s > self._config.max_backlog_s:
            self._metrics.shed_total.labels(reason="overloaded").inc()
            wait_s = retry_after_s(ahead_s - self._config.max_backlog_s)
            raise OverloadedError(
                f"About {ahead_s:.0f} s of work are waiting, more than the {self._config.max_backlog_s:g} s allowed; "
                f"try again in {wait_s:.0f} s.",
                wait_s,
            )

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            self._drop(ticket, RequestCancelledError("The request was cancelled."))

    def _drop(self, ticket: Ticket, reason: EngineError) -> None:
        """Forget what is left of a ticket and tell its reader why. A row on the device leaves when its step ends."""
        rows = self._tickets.pop(ticket, None)
        if rows is None:
            return
        self._share(ticket)
        for row in rows:
            del self._rows[row.number]
            self._waste(row.model.entry.id, len(row.model.plan) - self._scheduler.remove(row.number))
        _hand_over(ticket, reason)
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
                outputs = evaluate(self._networks[batch.model], rows, start_s)
                self._deliver(batch, rows, outputs, time.perf_counter() - start_s)
        except Exception:
            log.exception("engine_failed")
        finally:
            with self._changed:
                self._state = "stopped"
                for ticket in list(self._tickets):
                    self._drop(ticket, UnavailableError(_DRAINING))
            self._networks.clear()

    def _load(self) -> None:
        """Load and warm each model; one that fails is reported and does not stop the others."""
        for entry in self._catalogue.entries.values():
            if self._state != "starting":
                return
            self._models[entry.id] = self._load_one(entry)
        with self._changed:
            if self._state == "starting":
                self._state = "serving"

    def _load_one(self, entry: Entry) -> ModelStatus:
        try:
            network = self._backend.load(entry)
            costs = calibrate(network, entry, self._config)
        except Exception as error:
            log.error("model_failed", model=entry.id, reason=str(error))
            self._metrics.model_loaded.labels(model=entry.id).set(0)
            return ModelStatus("failed", reason=str(error))
        with self._changed:
            self._scheduler.add_model(entry.id, costs, limit=costs.largest)
        self._networks[entry.id], self._costs[entry.id] = network, costs
        self._metrics.model_loaded.labels(model=entry.id).set(1)
        step_ms = {rows: 1000 * seconds for rows, seconds in costs.curve.items()}
        log.info("model_loaded", model=entry.id, provider=network.provider, max_batch=costs.largest)
        return ModelStatus("loaded", provider=network.provider, step_ms=MappingProxyType(step_ms))

    def _schedule(self) -> tuple[Batch, list[Row]] | None:
        """The next batch and its rows; waits for work. None when the engine is to stop."""
        with self._changed:
            while self._state != "stopped":
                batch = self._scheduler.schedule() if self._alone is None else self._next_alone(self._alone)
                if batch is not None:
                    return batch, [self._rows[number] for number in batch.rows]
                self._changed.wait()
        return None

    def _next_alone(self, ticket: Ticket) -> Batch:
        """The next batch of a request that is alone; its lane pays for it as for any other."""
        rows = self._tickets[ticket]
        model = rows[0].model.entry.id
        return Batch(model, tuple(row.number for row in rows[: self._costs[model].largest]))

    def _share(self, ticket: Ticket) -> None:
        """End a request's time alone, if it has any."""
        if ticket is self._alone:
            self._alone = None

    def _deliver(self, batch: Batch, rows: Sequence[Row], outputs: Sequence[Output | RowFailedError], seconds: float) -> None:
        """Advance the rows and hand over what they have become; the heavy part needs no lock: rows are this thread's."""
        now_s = time.perf_counter()
        self._count(batch, self._networks[batch.model], seconds)
        events = [_advance(row, output, seconds, len(rows), now_s) for row, output in zip(rows, outputs, strict=True)]
        with self._changed:
            self._scheduler.charge(batch, seconds)
            self._scheduler.advance(batch)
            if self._alone is not None and rows[0].ticket is self._alone:
                self._alone_s -= seconds
                if self._alone_s <= 0:
                    self._share(self._alone)
            self._waste(batch.model, sum(row.number not in self._rows for row in rows))  # cancelled while on the device
            for row, event in zip(rows, events, strict=True):
                if row.number not in self._rows:
                    continue
                if isinstance(event, RowFailedError):
                    self._drop(row.ticket, event)
                elif event is not None:
                    if isinstance(event, Finished):
                        self._forget(row, event)
                    _hand_over(row.ticket, event)

    def _forget(self, row: Row, image: Finished) -> None:
        """A row is done."""
        del self._rows[row.number]
        left = self._tickets[row.ticket]
        left.remove(row)
        if not left:
            del self._tickets[row.ticket]
            self._share(row.ticket)
        label = self._metrics.model_label(row.model.id)
        self._metrics.queue_seconds.labels(model=label).observe(image.timing.queue_s)
        self._metrics.compute_seconds.labels(model=label).observe(image.timing.compute_s)
        self._changed.notify_all()

    # Metrics

    def _waste(self, entry_id: str, steps: int) -> None:
        if steps:
            self._metrics.wasted_steps_total.labels(model=entry_id).inc(steps)

    def _count(self, batch: Batch, network: Network, seconds: float) -> None:
        model, rows = batch.model, len(batch.rows)
        self._metrics.step_seconds.labels(model=model, bucket=self._costs[model].bucket(rows)).observe(seconds)
        self._metrics.batch_rows.labels(model=model).observe(rows)
        self._metrics.steps_total.labels(model=model).inc(rows)
        self._metrics.padded_rows_total.labels(model=model).inc(network.padded(rows) - rows)

    def _backlog_s(self) -> float:
        with self._changed:
            return self._scheduler.backlog_s()

    def _running_rows(self) -> float:
        with self._changed:
            return sum(row.running for row in self._rows.values())

    def _waiting_requests(self) -> float:
        with self._changed:
            return sum(not any(row.running for row in rows) for rows in self._tickets.values())


def retry_after_s(excess_s: float) -> float:
    """When a request refused for so many seconds of work too much may come back: whole seconds, 1 to 120.

    Clients of the OpenAI API do not wait for longer ones.
    """
    return float(min(max(math.ceil(excess_s), 1), 120))


def _advance(
    row: Row, output: Output | RowFailedError, seconds: float, batch_rows: int, now_s: float
) -> Event | RowFailedError | None:
    """What one step made of a row: a finished image, a preview that is due, a failure, or nothing to tell yet."""
    if isinstance(output, RowFailedError):
        return output
    row.advance(output.x_next, output.x0, seconds, batch_rows)
    return row.finish(now_s) if row.finished else row.preview()


def _hand_over(ticket: Ticket, event: Event | EngineError) -> None:
    try:
        ticket.loop.call_soon_threadsafe(ticket.put, event)
    except RuntimeError:  # the loop is closed: nobody waits any more
        log.debug("reader_gone")
