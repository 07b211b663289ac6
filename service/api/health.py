"""Routes for monitoring: /livez (no restart is needed), /readyz (a request would be served now), /metrics (Prometheus)."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.dependencies import ServiceOf

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
async def livez(service: ServiceOf) -> dict[str, str]:
    """200 as long as the event loop turns and the engine has not failed; 503 means: restart this process."""
    service.require_alive()
    return {"status": "ok"}


@router.get("/readyz", summary="Would a request be served now?")
async def readyz(service: ServiceOf) -> dict[str, str]:
    """200 when models are loaded and warm; 503 with the reason while loading or draining."""
    service.require_ready()
    return {"status": "ok"}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    summary="Prometheus metrics",
)
async def metrics(service: ServiceOf) -> Response:
    """The text exposition format."""
    return Response(service.metrics.exposition(), media_type=service.metrics.content_type)
