"""The worker of jobs: each process takes chunks from the store, has the engine make their images, and stores the files."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from models.catalogue import Catalogue, Resolved, UnknownModelError
from service.engine.engine import Engine
from service.engine.request import (
    Finished,
    Generation,
    ImageSpec,
    ModelFailedError,
    OverloadedError,
    RowFailedError,
    UnavailableError,
)
from service.engine.tasks import end
from service.features.jobs.document import JobDocument
from service.observability.metrics import Metrics
from service.store.base import Chunk, Jobs, StoreUnavailableError

CHUNKS_IN_FLIGHT: Final = 2  # one is made while another is encoded and stored
MAX_DELIVERIES: Final = 5  # a chunk that was lost together with so many workers has probably killed them
_BEAT_S = 1.0  # between two renewals of a chunk's lease; well within the shortest lease
_WAIT_S = 1.0  # longest wait for a chunk; a dead worker's chunk is noticed at most this long after its lease
_PAUSE_S = 1.0  # after a failure, so that the loop does not spin
_LOADING_POLL_S = 0.1

_log = structlog.get_logger(__name__)


class JobRunner:
    """Works on chunks until it is stopped, and then gives back unfinished chunks."""

    def __init__(self, jobs: Jobs, catalogue: Catalogue, engine: Engine, metrics: Metrics) -> None:
        self._jobs = jobs
        self._catalogue = catalogue
        self._engine = engine
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Start work in the running event loop."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._loop(), name=f"jobs-{number}") for number in range(CHUNKS_IN_FLIGHT)]

    async def stop(self) -> None:
        """Take no more chunks and give back unfinished ones. A second call only waits."""
        if not self._stopping:
            # This ends the loops even if a cancellation is lost (engine/tasks.py). Cancelling a task twice would interrupt its
            # release of a chunk.
            self._stopping = True
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _loop(self) -> None:
        while not self._stopping:
            try:
                if not self._engine.ready:
                    await asyncio.sleep(_LOADING_POLL_S)
                elif (chunk := await self._jobs.take(_WAIT_S)) is not None:
                    await (self._jobs.release(chunk) if self._stopping else self._work(chunk))
            except StoreUnavailableError:
                await asyncio.sleep(_PAUSE_S)
            except Exception:
                _log.exception("job_worker_failed")
                await asyncio.sleep(_PAUSE_S)

    async def _work(self, chunk: Chunk) -> None:
        """Make one chunk, unless the job ends first. A failure is recorded in the job."""
        making = asyncio.create_task(self._make(chunk))
        keeping = asyncio.create_task(self._keep(chunk))
        try:
            await asyncio.wait((making, keeping), return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                making.result()
            else:
                keeping.result()
                await self._jobs.complete(chunk)
        except (asyncio.CancelledError, UnavailableError) as reason:
            with suppress(StoreUnavailableError):
                await self._jobs.release(chunk)
            if isinstance(reason, asyncio.CancelledError):
                raise
            await asyncio.sleep(_PAUSE_S)
        except StoreUnavailableError:
            raise
        except _HopelessError as error:
            await self._fail(chunk, str(error))
        except Exception:
            _log.exception("job_failed", job=chunk.job.id, start=chunk.start)
            await self._fail(chunk, f"The service failed to make image {chunk.start} or one after it; its log has the cause.")
        finally:
            await end(making, keeping)

    async def _make(self, chunk: Chunk) -> None:
        """Make the images of a chunk and store them. Raises _HopelessError."""
        document = JobDocument.model_validate_json(chunk.job.request)
        if chunk.deliveries > MAX_DELIVERIES:
            raise _HopelessError(
                f"{chunk.deliveries - 1} workers died while they made images {chunk.start} to {chunk.stop - 1}."
            )
        model = self._resolve(document)
        images = await self._images(model, [document.spec(position) for position in range(chunk.start, chunk.stop)])
        files = await asyncio.to_thread(_encode_all, images, document, chunk.start)
        while True:  # keep the images until the store is back
            try:
                await self._jobs.save(chunk.job.id, files)
                await self._jobs.complete(chunk)
                break
            except StoreUnavailableError:
                await asyncio.sleep(_PAUSE_S)
        self._metrics.job_images_total.labels(self._metrics.model_label(document.model)).inc(len(files))

    def _resolve(self, document: JobDocument) -> Resolved:
        """Return the model of a job. Raises _HopelessError unless it makes the same bytes as when the job was posted."""
        try:
            model = self._catalogue.resolve(document.model)
        except UnknownModelError as error:
            raise _HopelessError(str(error)) from error
        status = self._engine.models[model.entry.id]
        if model.entry.manifest.sha256 != document.model_sha256:
            raise _HopelessError(f"The model {document.model} is not the one that the job began with; post the job again.")
        if status.state == "failed":
            raise _HopelessError(str(ModelFailedError(document.model, status.reason)))
        runs_on = (status.provider, status.precision)
        if status.state == "loaded" and runs_on != (document.provider, document.precision):
            raise _HopelessError(
                f"The job began on {document.provider} in {document.precision}, but {document.model} runs on {status.provider} "
                f"in {status.precision} here, which gives other bytes; set SFDDM_PROVIDER on every replica and post it again."
            )
        return model

    async def _images(self, model: Resolved, specs: list[ImageSpec]) -> list[Finished]:
        """Make the images. Waits until the engine admits them. Raises _HopelessError when one cannot be computed."""
        with self._engine.hold([model]):
            while True:
                try:
                    return await self._engine.submit(Generation(model, specs, flex=True)).images()
                except OverloadedError as error:
                    await asyncio.sleep(min(error.retry_after_s, _BEAT_S))
                except RowFailedError as error:
                    raise _HopelessError(str(error)) from error

    async def _keep(self, chunk: Chunk) -> None:
        """Renew the lease of the chunk. Returns when its job is no longer wanted."""
        while True:
            with suppress(StoreUnavailableError):
                if not await self._jobs.beat(chunk):
                    return
            await asyncio.sleep(_BEAT_S)

    async def _fail(self, chunk: Chunk, reason: str) -> None:
        await self._jobs.finish(chunk.job.id, "failed", reason)
        await self._jobs.complete(chunk)


class _HopelessError(Exception):
    """The job cannot be done, and trying again would not help."""


def _encode_all(images: list[Finished], document: JobDocument, start: int) -> dict[int, bytes]:
    """Encode the images of a chunk. Returns files by position in the job."""
    return {start + image.position: document.style.encode(image.pixels) for image in images}
