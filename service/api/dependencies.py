"""Dependencies of routes: the service, its reloader, and the url where clients reach it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from service.features.reload import Reloader
from service.features.service import Service


# Coroutines, because FastAPI would run plain functions in a thread for every request.
async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _reloader_of(request: Request) -> Reloader:
    reloader: Reloader = request.app.state.reloader
    return reloader


async def _base_url_of(request: Request) -> str:
    public_url: str | None = request.app.state.public_url
    return (public_url or str(request.base_url)).rstrip("/")


ServiceOf = Annotated[Service, Depends(_service_of)]
ReloaderOf = Annotated[Reloader, Depends(_reloader_of)]
BaseUrl = Annotated[str, Depends(_base_url_of)]  # SFDDM_PUBLIC_URL, else the host of the request; without a slash at the end
