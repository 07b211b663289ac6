"""Jobs at work: each process takes chunks from the store, has the engine make their images, and stores the files."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog
from pydantic import BaseModel, ConfigDict

from models.catalogue import Catalogue, Resolved, UnknownModelError
from service.engine.engine import Engine
from service.engine.load import ModelStatus
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
from service.features.encode import FileStyle, ImageFormat
from service.observability.metrics import Metrics
from service.store.base import Chunk, Jobs, StoreUnavailableError

CHUNKS_IN_FLIGHT: Final = 2  # one is made while another is encoded and stored
CHUNK_S: Final = 2.0  # device seconds of one chunk: what a job may put ahead of a request, and what a crash loses
MAX_DELIVERIES: Final = 5  # a chunk that was lost with so many workers probably killed them
_BEAT_S = 1.0
_WAIT_S = 1.0  # for a chunk; also how long a dead worker's chunk may go unnoticed beyond its lease
_PAUSE_S = 1.0  # after a failure
_LOADING_POLL_S = 0.1

_log = structlog.get_logger(__name__)


class JobDocument(BaseModel):
    """What a job makes, decided when it was posted. Everything that decides its bytes is here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_sha256: str
    provider: str  # the runtime, and its precision, of every image
    precision: str
    steps: int
    seed: int
    first_index: int
    labels: list[int | None]  # the class labels of its images, repeated
    class_names: list[str | None]  # of those labels
    size: str
    scale: int
    output_format: ImageFormat
    quality: int | None = None  # of a lossy format

    def spec(self, position: int) -> ImageSpec:
        """The image at a position of the job."""
        return ImageSpec(self.seed, self.first_index + position, self.labels[position % len(self.labels)])

    @property
    def style(self) -> FileStyle:
        return FileStyle(self.output_format, self.scale, self.quality)

    def class_name(self, position: int) -> str | None:
        return self.class_names[position % len(self.class_names)]


def chunk_size(status: ModelStatus, steps: int, most: int) -> int:
    """Images of one chunk: about CHUNK_S of device time by the calibrated cost of a step, between 1 and `most`."""
    image_s = steps * min(ms / rows for rows, ms in status.step_ms.items()) / 1000
    return max(1, min(most, int(CHUNK_S / image_s)))


class JobRunner:
    """Works on chunks until it is stopped; what it has not finished then is given back."""

    def __init__(self, jobs: Jobs, catalogue: Catalogue, engine: Engine, metrics: Metrics) -> None:
        self._jobs = jobs
        self._catalogue = catalogue
        self._engine = engine
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._loop(), name=f"jobs-{number}") for number in range(CHUNKS_IN_FLIGHT)]

    async def stop(self) -> None:
        """Give back what is unfinished and take no more; idempotent."""
        if not self._stopping:
            self._stopping = True  # a cancellation alone may get lost (engine.tasks), and two would disturb the giving back
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
        """Make one chunk, unless the job ends first; on failure say so in the job."""
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
        document = JobDocument.model_validate_json(chunk.job.request)
        if chunk.deliveries > MAX_DELIVERIES:
            raise _HopelessError(
                f"{chunk.deliveries - 1} workers died while they made images {chunk.start} to {chunk.stop - 1}."
            )
        model = self._resolve(document)
        images = await self._images(model, [document.spec(position) for position in range(chunk.start, chunk.stop)])
        files = await asyncio.to_thread(_encode_all, images, document, chunk.start)
        while True:  # images that have been made are kept until the store is back
            try:
                await self._jobs.save(chunk.job.id, files)
                await self._jobs.complete(chunk)
                break
            except StoreUnavailableError:
                await asyncio.sleep(_PAUSE_S)
        self._metrics.job_images_total.labels(self._metrics.model_label(document.model)).inc(len(files))

    def _resolve(self, document: JobDocument) -> Resolved:
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
        """The images, once the engine has room for them."""
        with self._engine.hold([model]):
            while True:
                try:
                    return await self._engine.submit(Generation(model, specs, flex=True)).images()
                except OverloadedError as error:
                    await asyncio.sleep(min(error.retry_after_s, _BEAT_S))
                except RowFailedError as error:
                    raise _HopelessError(str(error)) from error

    async def _keep(self, chunk: Chunk) -> None:
        """Hold on to the chunk; returns when its job is no longer wanted."""
        while True:
            with suppress(StoreUnavailableError):
                if not await self._jobs.beat(chunk):
                    return
            await asyncio.sleep(_BEAT_S)

    async def _fail(self, chunk: Chunk, reason: str) -> None:
        await self._jobs.finish(chunk.job.id, "failed", reason)
        await self._jobs.complete(chunk)


class _HopelessError(Exception):
    """The job cannot be done; trying again would not help."""


def _encode_all(images: list[Finished], document: JobDocument, start: int) -> dict[int, bytes]:
    """Files by position in the job."""
    return {start + image.position: document.style.encode(image.pixels) for image in images}
