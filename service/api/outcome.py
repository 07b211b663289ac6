"""Outcomes of requests, for the metrics and the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.api.errors import ClientLeftError
from service.api.record import current_record
from service.engine.request import OverloadedError, UnavailableError
from service.features.errors import InvalidRequestError
from service.observability.metrics import Metrics


class Outcome:
    """Counts a request once, in the metrics and in its record: the first call of `end` wins."""

    def __init__(self, metrics: Metrics, model_id: str) -> None:
        self._metrics = metrics
        self._model = metrics.model_label(model_id)
        self._record = current_record()
        self._record.model = model_id
        self._open = True

    def end(self, outcome: str) -> None:
        """Count the request as `outcome`, and its seconds if that is `ok`. Does nothing if it has been counted."""
        if not self._open:
            return
        self._open = False
        self._record.outcome = outcome
        if outcome == "ok":
            self._metrics.request_seconds.labels(self._model).observe(time.perf_counter() - self._record.started_s)
        self._metrics.requests_total.labels(self._model, outcome).inc()


def outcome_of(error: BaseException) -> str:
    """Return the `outcome` label of an exception."""
    match error:
        case OverloadedError():
            return "overloaded"
        case UnavailableError():
            return "unavailable"
        case ClientLeftError() | asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
        case InvalidRequestError():
            return "invalid"
        case _:
            return "error"


@contextmanager
def recorded(metrics: Metrics, model_id: str) -> Iterator[None]:
    """Count the block as one request: `ok`, or the outcome of the exception that it raises."""
    outcome = Outcome(metrics, model_id)
    try:
        yield
    except BaseException as error:
        outcome.end(outcome_of(error))
        raise
    outcome.end("ok")
