"""The loop of the engine's thread: schedule -> execute -> deliver, one step of one batch a round.

    schedule   choose the rows of the next step (scheduler.py: pure decisions)
    execute    one network evaluation for them (execute.py)
    deliver    advance the rows; hand finished images and previews to the event loops that wait for them

On a CPU several batches may execute at the same time, where one alone would leave cores idle. Before each step the loop runs
one piece of the work for which loading and freeing models need the device (lifecycle.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from service.engine.execute import Evaluation, evaluate
from service.engine.ledger import Ledger
from service.engine.lifecycle import Lifecycle
from service.engine.load import Loaded
from service.engine.request import EngineError, Event, Failed, Finished
from service.engine.row import Row
from service.engine.scheduler import Batch, Scheduler, StepReport
from service.engine.ticket import Ticket, hand_over
from service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

DEVICE_LOST = 32  # batches in a row whose every row failed: more than bad requests are likely to cause by chance


class DeviceLostError(Exception):
    """Nothing runs on the device any more."""


@dataclass(frozen=True)
class _Work:
    """A batch on its way through execute and deliver."""

    batch: Batch
    loaded: Loaded
    rows: list[Row]


class StepLoop:
    """Runs rounds. Belongs to the engine's thread; `changed` guards the scheduler, the ledger and the lifecycle."""

    def __init__(
        self,
        scheduler: Scheduler,
        lifecycle: Lifecycle,
        ledger: Ledger,
        metrics: Metrics,
        changed: threading.Condition,
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._metrics = metrics
        self._changed = changed
        self._clock = clock
        self._dead_batches = 0  # in a row
        self._boundary_s = clock()  # when the last step ended, or waiting for work did
        self._beside = ThreadPoolExecutor(thread_name_prefix="engine-beside")

    def round(self, wanted: Callable[[], bool]) -> None:
        """Run one piece of the lifecycle's work, then one step. Wait for either while `wanted` returns True.

        Raises DeviceLostError after DEVICE_LOST batches in a row in which the runtime raised for every single row.
        """
        if self._lifecycle.upkeep():
            self._boundary_s = self._clock()  # no model is charged for this time
        if work := self._schedule(wanted):
            self._step(work)

    def close(self) -> None:
        """Let the threads of batches side by side end."""
        self._beside.shutdown(wait=False)

    def _schedule(self, wanted: Callable[[], bool]) -> list[_Work]:
        """Return the next batch and those beside it. Empty when the lifecycle has work or the loop is no longer wanted."""
        with self._changed:
            while wanted():
                batch = self._scheduler.schedule()
                if batch is not None:
                    return [self._work(each) for each in (batch, *self._scheduler.beside(batch))]
                if self._lifecycle.due:
                    break
                self._changed.wait()
                self._boundary_s = self._clock()
        return []

    def _work(self, batch: Batch) -> _Work:
        loaded = self._lifecycle.find(batch.model)
        assert loaded is not None, "a version with rows stays on the device"
        return _Work(batch, loaded, self._ledger.start(batch.rows, self._clock()))

    def _step(self, work: Sequence[_Work]) -> None:
        """Execute the batches, side by side where there are several, and deliver. Only the first one is charged."""
        first, *others = work
        start_s = self._clock()
        run = partial(evaluate, now_s=start_s, abreast=bool(others))
        running = [self._beside.submit(run, other.loaded.network, other.rows) for other in others]
        evaluation = run(first.loaded.network, first.rows)
        beside = [(other, future.result()) for other, future in zip(others, running, strict=True)]
        seconds = self._clock() - start_s
        for other, result in beside:
            self._deliver(other, result, seconds, charge=None)
        charge = partial(self._charge, first.batch, clean=evaluation.clean, alone=not others)
        self._deliver(first, evaluation, seconds, charge)

    def _deliver(self, work: _Work, evaluation: Evaluation, seconds: float, charge: Callable[[], None] | None) -> None:
        """Advance the rows and hand over their events.

        charge: charges the batch, called with the lock held. None for a batch that ran beside the one that is charged.
        """
        self._observe(work, seconds)
        events = self._events(work, evaluation, seconds)
        with self._changed:
            if charge is not None:
                charge()
            self._scheduler.advance(work.batch)
            told = self._settle(work, events)
            if evaluation.fits is not None:
                model_id = work.loaded.entry.id
                log.warning("batches_shrunk", model=model_id, rows=evaluation.fits, reason="the device is out of memory")
                self._scheduler.shrink(work.batch.model, evaluation.fits)
        hand_over(told)
        self._dead_batches = self._dead_batches + 1 if evaluation.dead else 0
        if self._dead_batches >= DEVICE_LOST:
            raise DeviceLostError(f"the runtime raised for every row of {DEVICE_LOST} batches in a row")

    def _charge(self, batch: Batch, *, clean: bool, alone: bool) -> None:
        """Charge a batch for the time since the last boundary, and begin the next step. With the lock held."""
        now_s = self._clock()  # includes the engine's own work since the last step, which delays other rows as well
        self._scheduler.charge(batch, StepReport(now_s - self._boundary_s, clean, alone, now_s))
        self._boundary_s = now_s

    def _observe(self, work: _Work, seconds: float) -> None:
        """Count a step in the metrics."""
        loaded, rows = work.loaded, len(work.rows)
        padding = loaded.network.padded(rows) - rows
        bucket = loaded.costs.bucket(rows)
        self._metrics.observe_step(loaded.entry.id, bucket=bucket, rows=rows, padding=padding, seconds=seconds)

    def _events(self, work: _Work, evaluation: Evaluation, seconds: float) -> list[Event | None]:
        """Give each row its output and return its event, if any. Makes pixels, so the lock must not be held."""
        now_s, network, batch_rows = self._clock(), work.loaded.network, len(work.rows)
        return [
            row.take(output, seconds=seconds, batch_rows=batch_rows, now_s=now_s, network=network)
            for row, output in zip(work.rows, evaluation.outputs, strict=True)
        ]

    def _settle(self, work: _Work, events: Sequence[Event | None]) -> list[tuple[Ticket, Event | EngineError]]:
        """Remove the rows that have ended. Return the events to hand over to the readers. With the lock held."""
        told: list[tuple[Ticket, Event | EngineError]] = []
        for row, event in zip(work.rows, events, strict=True):
            if row.number not in self._ledger.rows:  # cancelled while on the device
                self._metrics.wasted_steps_total.labels(model=work.loaded.entry.id).inc()
                continue
            if event is not None:
                told.append((row.ticket, event))
            if isinstance(event, Failed):
                self._scheduler.remove(row.number)
                self._ledger.leave(row, wasted=row.step + 1)
            elif isinstance(event, Finished):
                self._ledger.leave(row, wasted=0)
                self._ledger.observe(row.ticket, row.model.id, event.timing)
        return told
