"""Server-sent events: OpenAI's image events, and what every stream here shares.

A stream begins once the request is admitted, so a refusal is an ordinary HTTP error; what fails later is the stream's last
event, `data: {"error": {...}}`. A comment every few seconds keeps proxies from closing a silent connection.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import structlog
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.answers import Outcome, admit, arm_body, base64_of, device_body, facts, outcome_of, service_tier, timing_body
from service.api.errors import problem_of
from service.api.record import current_record
from service.engine.request import EngineError, Failed, Finished, Generation, Preview
from service.features.encode import FileStyle
from service.features.experiments import Assignment
from service.features.service import Service
from service.schema.images import CompletedEvent, PartialImageEvent

KEEP_ALIVE_S = 15
EVENT_STREAM: dict[str, Any] = {  # how OpenAPI describes one event
    "schema": {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}, "required": ["data"]}
}
_END = "\n"  # of a line

# Left alone, sse-starlette cuts every stream at SIGTERM; ours end by themselves while the engine drains.
AppStatus.enable_automatic_graceful_drain = False

_log = structlog.get_logger("service.api")


class EventStream(EventSourceResponse):
    """Sends events, each under its own `type`; `outcome` is counted and `on_end` called however it ends.

    on_end is not left to the events' own clean-up: a client may leave before they begin, and then it never runs.
    """

    def __init__(self, events: AsyncIterator[BaseModel], outcome: Outcome, on_end: Callable[[], None]) -> None:
        super().__init__(_encoded(events, outcome), ping=KEEP_ALIVE_S, sep=_END)
        self._outcome = outcome
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._outcome.end("cancelled")  # unless it has ended before
            self._on_end()


async def _encoded(events: AsyncIterator[BaseModel], outcome: Outcome) -> AsyncIterator[ServerSentEvent]:
    """The events as text, and an error as the last one."""
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
    service: Service,
    request: Request,
    generation: Generation,
    style: FileStyle,
    assignment: Assignment | None,
    started_s: float,
) -> EventStream:
    """Admit the request and stream its images, computed anew. started_s: when it arrived, for its experiment.

    The first image that cannot be computed ends the stream, as it ends an answer. Raises what Engine.submit raises.
    """
    outcome = Outcome(service.metrics, generation.model.id)
    try:
        ticket = admit(service, request, generation)
    except EngineError as error:
        outcome.end(outcome_of(error))
        raise

    async def events() -> AsyncIterator[BaseModel]:
        async with aclosing(ticket.events()) as arriving:
            async for event in arriving:
                if isinstance(event, Failed):
                    raise event.error
                with current_record().encoding():
                    file = await asyncio.to_thread(style.encode, event.pixels)
                yield _event_body(generation, style, event, file, assignment)
        if assignment:
            await service.experiments.record(assignment, time.perf_counter() - started_s)

    return EventStream(events(), outcome, ticket.cancel)


def _event_body(
    generation: Generation, style: FileStyle, event: Preview | Finished, file: bytes, assignment: Assignment | None
) -> BaseModel:
    shared = {
        **facts(generation.model, event.spec),
        "b64_json": base64_of(file),
        "created_at": int(time.time()),
        "output_format": style.image_format,
        "size": generation.size,
        "image_index": event.position,
        "model": generation.model.id,
        "steps": len(generation.model.plan),
    }
    if isinstance(event, Finished):
        made = {"timing": timing_body(event.timing), "device": device_body(event.device)}
        tier = {"service_tier": service_tier(generation), "experiment": arm_body(assignment)}
        sha256 = generation.model.entry.manifest.sha256
        return CompletedEvent.model_validate({**shared, **made, **tier, "model_sha256": sha256})
    return PartialImageEvent.model_validate({**shared, "partial_image_index": event.number, "step": event.step})
