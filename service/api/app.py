"""The ASGI application: routes around one engine, which starts and drains with the application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import Depends, FastAPI

from service import __version__
from service.api import comparisons, experiments, files, health, images, interpolations, jobs, kserve, models, page
from service.api.admin import admin_router
from service.api.body import Arriving, WholeBody
from service.api.errors import install_error_handlers
from service.api.idempotency import Idempotency
from service.api.middleware import HeadAsGet, RateLimitHeaders, RequestContext
from service.api.openapi import describe
from service.api.query import refuse_unknown
from service.features.jobs.worker import JobRunner
from service.features.reload import Reloader
from service.features.service import assemble, check_experiments, open_catalogue
from service.observability.tracing import open_tracing
from service.settings.model import Settings
from service.store.base import Store

_GIVE_BACK_S = 1.0  # longest wait for the release of jobs: a store that cannot be reached must not delay the exit
_log = structlog.get_logger("service.api")


def create_app(settings: Settings, store: Store | None = None) -> FastAPI:
    """Build the application for these settings. Raises StartupError with one sentence when there is nothing to serve.

    store: used instead of the one that the settings name.
    """
    config = settings.service_config()
    service = assemble(config, open_catalogue(config.zoos), store)
    check_experiments(config.experiments, service.catalogue)
    arriving = Arriving(settings.body_timeout_s)
    runner = JobRunner(service.store.jobs, service.catalogue, service.engine, service.metrics)
    tracing = open_tracing(os.environ, __version__)

    async def drain(seconds: float) -> None:
        """Refuse new work, finish running requests within `seconds`, and fail the rest.

        Chunks of jobs are released at once: another replica can go on with them while this one drains.
        """
        arriving.end()
        stopping = asyncio.create_task(runner.stop())
        await service.engine.drain(seconds)
        await asyncio.wait((stopping,), timeout=_GIVE_BACK_S)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for refusal in service.catalogue.refusals:
            _log.warning("model_folder_refused", folder=str(refusal.folder), reason=refusal.reason)
        if settings.redis_url is not None and settings.url_secret is None:  # probably several replicas
            _log.warning(
                "url_secret_random", remedy="set SFDDM_URL_SECRET, the same on every replica; else a url works on one replica"
            )
        service.engine.start()
        runner.start()
        try:
            yield
        finally:
            await drain(settings.drain_s)
            await service.store.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.shut_down)

    app = FastAPI(
        title="SFDDM serve",
        description="Images from a diffusion teacher and its single-fold students, batched step by step.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # service/page has its own /docs: the framework's loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host and scheme that a proxy in front has changed
    )
    app.state.service = service
    app.state.drain = drain
    app.state.public_url = settings.public_url
    app.state.reloader = Reloader(service, lambda: setattr(app, "openapi_schema", None))
    app.add_middleware(
        Idempotency, blobs=service.store.blobs, max_bytes=settings.idempotency_bytes, ttl_s=settings.idempotency_ttl_s
    )
    app.add_middleware(HeadAsGet)
    app.add_middleware(RateLimitHeaders, engine=service.engine, limit_s=settings.max_backlog_s)
    app.add_middleware(WholeBody, limit=settings.max_body_bytes, arriving=arriving)
    # Added last, so outermost: a refused body has an id and a log line too.
    app.add_middleware(RequestContext, metrics=service.metrics, tracing=tracing)
    install_error_handlers(app)
    for module in (images, interpolations, comparisons, files, jobs, experiments, models):
        app.include_router(module.router, dependencies=[Depends(refuse_unknown)])
    for module in (kserve, health, page):
        app.include_router(module.router)
    app.include_router(admin_router(settings.admin_token))
    describe(app, service)
    return app
