"""The ledger: every row that is not finished, and the counts of rows and requests that follow from them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from service.engine.lifecycle import Lifecycle
from service.engine.request import EngineError, Timing
from service.engine.row import Row
from service.engine.scheduler import Scheduler
from service.engine.ticket import Ticket, hand_over
from service.observability.metrics import Metrics


class Ledger:
    """The rows by number.

    Hold the engine's condition to use it, except to read running_rows and waiting_requests.
    """

    def __init__(self, scheduler: Scheduler, lifecycle: Lifecycle, metrics: Metrics, changed: threading.Condition) -> None:
        self._scheduler = scheduler
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._changed = changed
        self.rows: dict[int, Row] = {}
        self.next_number = 0
        self.running_rows = 0
        self.waiting_requests = 0

    @property
    def left(self) -> dict[str, int]:
        """The numbers of requests and rows that are not finished, for a log line."""
        return {"requests": len({row.ticket for row in self.rows.values()}), "rows": len(self.rows)}

    def enter(self, ticket: Ticket) -> None:
        """Open a row for each image of a ticket, whose numbers begin with next_number."""
        images = len(ticket.numbers)
        self.next_number += images
        for position, number in enumerate(ticket.numbers):
            self.rows[number] = Row(number, ticket, position)
        self._lifecycle.use(ticket.generation.model.entry.key, images)
        self.waiting_requests += 1

    def start(self, numbers: Iterable[int], now_s: float) -> list[Row]:
        """Return the rows of a batch that is about to run. Count those that run for the first time."""
        rows = [self.rows[number] for number in numbers]
        for row in rows:
            if not row.started:
                self.running_rows += 1
                row.started = True
                if not row.ticket.started:
                    self.waiting_requests -= 1
                    row.ticket.started_s = now_s
        return rows

    def leave(self, row: Row, *, wasted: int) -> None:
        """Forget a row, however it ended. wasted: steps whose result nobody gets."""
        del self.rows[row.number]
        self._lifecycle.use(row.model.entry.key, -1)
        row.ticket.unfinished -= 1
        self.running_rows -= row.started
        self.waiting_requests -= not row.ticket.started and not row.ticket.unfinished
        if wasted:
            self._metrics.wasted_steps_total.labels(model=row.model.entry.id).inc(wasted)
        self._changed.notify_all()

    def drop(self, ticket: Ticket, reason: EngineError) -> None:
        """Forget the rest of a ticket and tell its reader why. A row on the device leaves when its step ends."""
        rows = [row for number in ticket.numbers if (row := self.rows.get(number)) is not None]
        for row in rows:
            self.leave(row, wasted=len(row.plan) - self._scheduler.remove(row.number))
        if rows:
            hand_over([(ticket, reason)])

    def drop_all(self, reason: Callable[[], EngineError]) -> None:
        """Drop every ticket. reason: makes an exception for each ticket, because raising one changes it."""
        for ticket in {row.ticket for row in self.rows.values()}:
            self.drop(ticket, reason())

    def observe(self, ticket: Ticket, model_id: str, timing: Timing) -> None:
        """Record the times of a finished image. With the last image of a request, also its estimate and its promise."""
        label = self._metrics.model_label(model_id)
        self._metrics.queue_seconds.labels(model=label).observe(timing.queue_s)
        self._metrics.compute_seconds.labels(model=label).observe(timing.compute_s)
        if ticket.unfinished == 0:
            self._metrics.estimate_ratio.labels(model=label).observe(timing.total_s / ticket.estimated_s)
            if (max_latency_s := ticket.generation.max_latency_s) is not None:
                outcome = "met" if timing.total_s <= max_latency_s else "missed"
                self._metrics.deadlines_total.labels(model=label, outcome=outcome).inc()
