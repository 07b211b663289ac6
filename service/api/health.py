"""For machines that watch: /livez (no restart is needed), /readyz (it would serve a request now), /metrics (Prometheus)."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.engine.request import UnavailableError
from service.features.service import Service, ServiceOf

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
async def livez(service: ServiceOf) -> dict[str, str]:
    """200 as long as the event loop turns and the engine has not failed; 503 means: restart this process."""
    if service.engine.failure is not None:
        raise UnavailableError(f"The engine has failed and needs a restart: {service.engine.failure}")
    return {"status": "ok"}


@router.get("/readyz", summary="Would a request be served now?")
async def readyz(service: ServiceOf) -> dict[str, str]:
    """200 when models are loaded and warm; 503 with the reason while loading or draining."""
    ready_or_raise(service)
    return {"status": "ok"}


def ready_or_raise(service: Service) -> None:
    """Raises UnavailableError with the reason when a request would not be served now."""
    if not service.engine.ready:
        raise UnavailableError(_why_not(service), service.engine.ready_in_s)


def _why_not(service: Service) -> str:
    if service.engine.failure is not None:
        return "The engine has failed."
    states = [status.state for status in service.engine.models.values()]
    if "loading" in states:
        return f"Models are loading: {len(states) - states.count('loading')} of {len(states)} are done."
    if "loaded" not in states:
        return "No model could be loaded; GET /v1/models tells why."
    return "The service is shutting down."


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    summary="Prometheus metrics",
)
async def metrics(service: ServiceOf) -> Response:
    """The text exposition format."""
    return Response(service.metrics.exposition(), media_type=service.metrics.content_type)
