"""The ledger: the rows that are not finished, and what is counted when they start and when they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from service.engine.lifecycle import Lifecycle
from service.engine.request import EngineError, Timing
from service.engine.row import Row, preview_steps
from service.engine.scheduler import Scheduler
from service.engine.ticket import Ticket, hand_over
from service.observability.metrics import Metrics


class Ledger:
    """Rows by number. Call everything but the two counts with the engine's condition held."""

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
        """How many requests and rows are not finished, for a log line."""
        return {"requests": len({row.ticket for row in self.rows.values()}), "rows": len(self.rows)}

    def enter(self, ticket: Ticket, now_s: float) -> None:
        """Open a row for each image of a ticket, whose numbers begin with next_number."""
        self.next_number += len(ticket.numbers)
        model = ticket.generation.model
        due = preview_steps(len(model.plan), ticket.generation.previews)
        for position, (number, spec) in enumerate(zip(ticket.numbers, ticket.generation.images, strict=True)):
            self.rows[number] = Row(number, ticket, position, spec, model, due, now_s)
        self._lifecycle.use(model.entry.key, len(ticket.numbers))
        self.waiting_requests += 1

    def started(self, numbers: Iterable[int]) -> list[Row]:
        """The rows of a batch, which have started by now."""
        rows = [self.rows[number] for number in numbers]
        for row in rows:
            if not row.started:
                self.running_rows += 1
                row.started = True
                if not row.ticket.started:
                    self.waiting_requests -= 1
                    row.ticket.started_s = time.perf_counter()
        return rows

    def leave(self, row: Row, *, wasted: int) -> None:
        """Forget a row, however it ended. wasted: steps it took for nothing."""
        del self.rows[row.number]
        self._lifecycle.use(row.model.entry.key, -1)
        row.ticket.unfinished -= 1
        self.running_rows -= row.started
        self.waiting_requests -= not row.ticket.started and not row.ticket.unfinished
        if wasted:
            self._metrics.wasted_steps_total.labels(model=row.model.entry.id).inc(wasted)
        self._changed.notify_all()

    def drop(self, ticket: Ticket, reason: EngineError) -> None:
        """Forget what is left of a ticket and tell its reader why. A row on the device leaves when its step ends."""
        rows = [row for number in ticket.numbers if (row := self.rows.get(number)) is not None]
        for row in rows:
            self.leave(row, wasted=len(row.plan) - self._scheduler.remove(row.number))
        if rows:
            hand_over([(ticket, reason)])

    def drop_all(self, reason: Callable[[], EngineError]) -> None:
        """Drop every ticket, each with a reason of its own, since raising one changes it."""
        for ticket in {row.ticket for row in self.rows.values()}:
            self.drop(ticket, reason())

    def observe(self, ticket: Ticket, model_id: str, timing: Timing) -> None:
        """An image is done; when it is the request's last, so is what was promised."""
        label = self._metrics.model_label(model_id)
        self._metrics.queue_seconds.labels(model=label).observe(timing.queue_s)
        self._metrics.compute_seconds.labels(model=label).observe(timing.compute_s)
        if ticket.unfinished == 0:
            self._metrics.estimate_ratio.labels(model=label).observe(timing.total_s / ticket.estimated_s)
            if (max_latency_s := ticket.generation.max_latency_s) is not None:
                outcome = "met" if timing.total_s <= max_latency_s else "missed"
                self._metrics.deadlines_total.labels(model=label, outcome=outcome).inc()
