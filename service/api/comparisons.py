"""POST /v1/comparisons: run several models on the same noises, and compare their times and images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from service.api.answers import unless_client_leaves
from service.api.dependencies import ServiceOf
from service.api.outcome import Outcome, outcome_of
from service.api.record import current_record
from service.api.stream import EVENT_STREAM, EventStream
from service.features.comparison.plan import begin_comparison, plan_comparison
from service.features.comparison.progress import progress_of, summary_of
from service.features.comparison.run import ComparisonRun
from service.schema.comparisons import (
    ComparisonEvent,
    ComparisonRequest,
    ComparisonResponse,
    comparison_event,
    comparison_response,
)

router = APIRouter(tags=["comparisons"])

_METRIC = "comparison"  # the `model` label in the metrics, since a comparison has several models


@router.post(
    "/v1/comparisons",
    response_model=ComparisonResponse,
    responses={200: {"content": {"text/event-stream": EVENT_STREAM}}},
    summary="Compare models",
)
async def compare(body: ComparisonRequest, request: Request, service: ServiceOf) -> ComparisonResponse | Response:
    """Every model makes the same images from the same noises, interleaved and in random order after a warm-up.

    The answer has per model its images, queueing and computing apart, medians and 95th percentiles, the speed-up over the
    reference with its bootstrap interval, and the agreement with the reference's images. With `stream` the events
    `comparison.image`, `comparison.measured` and at last `comparison.completed` tell how far it is.
    """
    comparison = plan_comparison(body.asked(), service)
    outcome = Outcome(service.metrics, _METRIC)
    try:
        run = begin_comparison(comparison, service)
        if body.stream:
            return EventStream(_events(run), outcome, run.cancel)
        try:
            summary = await unless_client_leaves(summary_of(run, current_record().encoding), request)
        finally:
            run.cancel()
        answer = await asyncio.to_thread(comparison_response, summary)
    except BaseException as error:
        outcome.end(outcome_of(error))
        raise
    outcome.end("ok")
    return answer


async def _events(run: ComparisonRun) -> AsyncGenerator[ComparisonEvent, None]:
    """Yield the bodies of a comparison's events."""
    async with aclosing(progress_of(run, current_record().encoding)) as events:
        async for event in events:
            yield await asyncio.to_thread(comparison_event, event)
