"""Server-sent events: the stream of a generation with OpenAI's events, and the base of all streams.

A stream begins once the request is admitted, so a refusal is an ordinary HTTP error. What fails later is reported by the last
event of the stream, `data: {"error": {...}}`. A comment every few seconds keeps proxies from closing a silent connection.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import structlog
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.answers import admit
from service.api.errors import problem_of
from service.api.outcome import Outcome, outcome_of
from service.api.record import current_record
from service.engine.request import EngineError
from service.features.encode import FileStyle
from service.features.generation import PlannedGeneration, encoded_events
from service.features.service import Service
from service.schema.image_events import image_event

KEEP_ALIVE_S = 15
EVENT_STREAM: dict[str, Any] = {  # the description of one event in the OpenAPI document
    "schema": {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}, "required": ["data"]}
}
_END = "\n"  # end of a line

# By default sse-starlette cuts every stream at SIGTERM. Ours end by themselves while the engine drains.
AppStatus.enable_automatic_graceful_drain = False

_log = structlog.get_logger("service.api")


class EventStream(EventSourceResponse):
    """Sends events, each under its own `type`. However it ends, `outcome` is counted and `on_end` is called.

    The clean-up of the events themselves is not enough: it never runs when the client leaves before they begin.
    """

    def __init__(self, events: AsyncIterator[BaseModel], outcome: Outcome, on_end: Callable[[], None]) -> None:
        super().__init__(_encoded(events, outcome), ping=KEEP_ALIVE_S, sep=_END)
        self._outcome = outcome
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._outcome.end("cancelled")  # does nothing if it has ended before
            self._on_end()


async def _encoded(events: AsyncIterator[BaseModel], outcome: Outcome) -> AsyncIterator[ServerSentEvent]:
    """Encode events as text. An error becomes the last event."""
    try:
        async for event in events:
            name: str = event.type  # type: ignore[attr-defined]
            yield ServerSentEvent(event.model_dump_json(), event=name, sep=_END)
        outcome.end("ok")
    except Exception as error:
        outcome.end(outcome_of(error))
        problem = problem_of(error)
        problem.note()
        if problem.code == "internal_error":
            _log.exception("stream_failed")
        yield ServerSentEvent(json.dumps(problem.body), sep=_END)


def stream_generation(
    service: Service, request: Request, planned: PlannedGeneration, style: FileStyle, started_s: float
) -> EventStream:
    """Admit a request and stream its images, never from the cache. started_s: when it arrived, for its experiment.

    The first image that cannot be computed ends the stream. Raises what Engine.submit raises.
    """
    generation, assignment = planned.generation, planned.assignment
    outcome = Outcome(service.metrics, generation.model.id)
    try:
        ticket = admit(service, request, generation)
    except EngineError as error:
        outcome.end(outcome_of(error))
        raise

    async def events() -> AsyncIterator[BaseModel]:
        async with (
            service.experiments.measured(assignment, started_s),
            aclosing(encoded_events(ticket, style, current_record().encoding)) as made,
        ):
            async for event, file in made:
                yield image_event(generation, style, event, file, assignment)

    return EventStream(events(), outcome, ticket.cancel)
