"""The record of a request: the middleware starts it, the code that answers fills it in, and it becomes a log line and a trace.

Times are readings of time.perf_counter(), seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from service.engine.ticket import Ticket
from service.observability.tracing import Phase


@dataclass
class RequestRecord:
    """The facts of one HTTP request. Facts that do not apply stay None.

    outcome: a value of the label `outcome` of requests_total. code: the answered error's code, or its type if it has no code.
    """

    started_s: float = field(default_factory=time.perf_counter)
    model: str | None = None
    experiment: str | None = None
    outcome: str | None = None
    code: str | None = None
    images: int | None = None
    ticket: Ticket | None = None
    _encoding: Phase | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the request arrived."""
        return round(time.perf_counter() - self.started_s, 4)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Measure the encoding of files inside. A stream enters once for each image."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            now_s = time.perf_counter()
            first_s, busy_s = (self._encoding.start_s, self._encoding.busy_s) if self._encoding else (start_s, 0.0)
            self._encoding = Phase("encode", first_s, now_s, busy_s + now_s - start_s)

    @property
    def phases(self) -> list[Phase]:
        """Phases that have begun, in order: queue (until the first step), denoise (until the last image), encode."""
        found = []
        if (ticket := self.ticket) is not None:
            end_s = time.perf_counter() if ticket.ended_s is None else ticket.ended_s
            spans = [("queue", ticket.submitted_s, end_s if ticket.started_s is None else ticket.started_s)]
            if ticket.started_s is not None:
                spans.append(("denoise", ticket.started_s, end_s))
            found = [Phase(name, start_s, stop_s, stop_s - start_s) for name, start_s, stop_s in spans]
        return found if self._encoding is None else [*found, self._encoding]

    def fields(self) -> dict[str, object]:
        """Return the facts that are not None, as the fields of a log line."""
        facts = {
            "outcome": self.outcome,
            "code": self.code,
            "model": self.model,
            "experiment": self.experiment,
            "images": self.images,
            **{f"{phase.name}_s": round(phase.busy_s, 4) for phase in self.phases},
            "compute_s": round(self.ticket.compute_s, 4) if self.ticket else None,
        }
        return {name: value for name, value in facts.items() if value is not None}


_current: ContextVar[RequestRecord | None] = ContextVar("record", default=None)


@contextmanager
def recording() -> Iterator[RequestRecord]:
    """Start the record of the request that is answered inside, by this task or by tasks that it starts."""
    record = RequestRecord()
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


def current_record() -> RequestRecord:
    """Return the record of the current request. Outside of a request, return a new one that nobody reads."""
    return _current.get() or RequestRecord()


def outcome_of_status(status: int | None) -> str:
    """Return the outcome of a request without a model. status None: the client left before the answer began."""
    match status:
        case None | 499:
            return "cancelled"
        case 429:
            return "overloaded"
        case 503:
            return "unavailable"
        case _:
            return "ok" if status < 400 else "invalid" if status < 500 else "error"
