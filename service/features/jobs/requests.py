"""Requests about jobs: post, list, find and remove them, and read the files of a result."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import islice

from service.engine.request import Generation
from service.features.encode import ImageFormat
from service.features.errors import ConflictError, InvalidRequestError, NotFoundError, shown_name
from service.features.experiments import Assignment
from service.features.generation import AUTO, ImagesAsked, plan
from service.features.jobs.document import JobDocument, chunk_size
from service.features.prompts import default_class
from service.features.service import Service
from service.store.base import UNFINISHED, Job

_ID = re.compile(r"[0-9a-f]{32}")
_READ = 64  # images fetched from the store at once: bounds the memory of one download


class RemovedJobError(Exception):
    """The job was removed while its result was being sent. It is too late for an answer, so the connection is cut."""


@dataclass(frozen=True, kw_only=True)
class JobAsked:
    """A job, as a caller asks for it."""

    images: ImagesAsked
    image_format: ImageFormat
    quality: int | None


@dataclass(frozen=True)
class PlannedJob:
    """A job that was decided and is not queued yet. generation: its first image."""

    asked: JobAsked
    generation: Generation
    assignment: Assignment | None


@dataclass(frozen=True)
class JobState:
    """A stored job as it was when it was read, and its document."""

    job: Job
    document: JobDocument

    @classmethod
    def of(cls, job: Job) -> JobState:
        """Read the document of a stored job."""
        return cls(job, JobDocument.model_validate_json(job.request))

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the pace so far; None before the first images and at the end."""
        job = self.job
        if job.status != "running" or job.started_at is None or not job.done:
            return None
        return round((time.time() - job.started_at) / job.done * (job.total - job.done), 1)

    @property
    def has_result(self) -> bool:
        """True when the images can be downloaded."""
        return self.job.status == "succeeded"


def plan_job(asked: JobAsked, service: Service) -> PlannedJob:
    """Decide everything about a job. Raises what `plan` raises."""
    images, most = asked.images, service.config.max_job_images
    if images.n > most:
        raise InvalidRequestError(f"n: at most {most} images in one job, got {images.n}; post several jobs.", "n")
    if images.model == AUTO:
        raise InvalidRequestError("model: auto is for requests with max_latency_ms; name a model for a job.", "model")
    first = plan(replace(images, n=1), service)
    return PlannedJob(asked, first.generation, first.assignment)


async def queue_job(planned: PlannedJob, service: Service) -> JobState:
    """Queue a job.

    Raises ModelFailedError and UnavailableError unless its model is loaded, StoreFullError and StoreUnavailableError.
    """
    status = service.require_loaded(planned.generation.model)
    assert status.provider is not None  # the model is loaded
    assert status.precision is not None
    document = _document(planned, status.provider, status.precision)
    chunk = chunk_size(status, document.steps, service.config.job_chunk)
    job = Job(uuid.uuid4().hex, document.model_dump_json(), planned.asked.images.n, chunk, time.time())
    await service.store.jobs.add(job)
    return JobState(job, document)


def _document(planned: PlannedJob, provider: str, precision: str) -> JobDocument:
    images, generation = planned.asked.images, planned.generation
    model, seed = generation.model, generation.seed
    manifest = model.entry.manifest
    labels = [generation.images[0].class_label]
    if manifest.classes and not images.prompt.strip() and images.class_label is None:
        labels = [default_class(seed, images.first_index + position, manifest) for position in range(len(manifest.classes))]
    return JobDocument(
        model=model.id,
        model_sha256=manifest.sha256,
        provider=provider,
        precision=precision,
        steps=len(model.plan),
        seed=seed,
        first_index=images.first_index,
        labels=labels,
        class_names=[None if label is None else manifest.classes[label] for label in labels],
        size=generation.size,
        scale=generation.scale,
        output_format=planned.asked.image_format,
        quality=planned.asked.quality,
    )


async def list_jobs(service: Service, *, limit: int | None, after: str | None) -> tuple[list[JobState], bool]:
    """List stored jobs, the newest first: at most `limit`, after the job with the id `after`.

    Returns the jobs, and True if there are more. Raises InvalidRequestError when there is no job `after`.
    """
    stored = await service.store.jobs.all()
    if after is not None:
        position = next((position for position, job in enumerate(stored) if job.id == after), None)
        if position is None:
            raise InvalidRequestError(f"after: there is no job {shown_name(after)}; begin again without it.", "after")
        stored = stored[position + 1 :]
    page = [JobState.of(job) for job in islice(stored, limit)]
    return page, len(page) < len(stored)


async def find_job(job_id: str, service: Service) -> JobState:
    """Return a job as it is now. Raises NotFoundError and StoreUnavailableError."""
    job = await service.store.jobs.get(job_id) if _ID.fullmatch(job_id) else None
    if job is None:
        raise NotFoundError(f"There is no job {job_id!r}; it may have expired.", "id", "job_not_found")
    return JobState.of(job)


async def remove_job(job_id: str, service: Service) -> tuple[JobState, bool]:
    """Cancel an unfinished job, or forget a finished one. Return its last state, and True if it was forgotten.

    Raises NotFoundError and StoreUnavailableError.
    """
    found = await find_job(job_id, service)
    if found.job.status not in UNFINISHED:
        await service.store.jobs.forget(job_id)
        return found, True
    await service.store.jobs.finish(job_id, "cancelled")
    return await find_job(job_id, service), False


async def find_result(job_id: str, service: Service) -> JobState:
    """Return a job that has a result. Raises NotFoundError, and ConflictError unless the job has succeeded."""
    found = await find_job(job_id, service)
    if not found.has_result:
        status = found.job.status
        wait = "; its result is ready when that is succeeded" if status in UNFINISHED else " and has no result"
        raise ConflictError(f"The job {job_id} is {status}{wait}.", "id", "job_not_succeeded")
    return found


async def result_files(state: JobState, service: Service) -> AsyncIterator[tuple[str, bytes]]:
    """Yield (name, content) of every image, then of manifest.json, which lists them. Raises RemovedJobError."""
    job, document = state.job, state.document
    listed = []
    for start in range(0, job.total, _READ):
        stop = min(start + _READ, job.total)
        for position, file in enumerate(await service.store.jobs.images(job.id, start, stop), start):
            if file is None:
                raise RemovedJobError(f"The job {job.id} was removed while its result was being read.")
            spec = document.spec(position)
            name = f"{spec.index:06d}.{document.output_format}"
            entry = {
                "file": name,
                "seed": spec.seed,
                "index": spec.index,
                "class_label": spec.class_label,
                "class_name": document.class_name(position),
                "sha256": hashlib.sha256(file).hexdigest(),
            }
            listed.append(json.dumps(entry))
            yield name, file
    told = {"model", "model_sha256", "provider", "precision", "steps", "seed", "first_index", "size", "output_format"}
    head = document.model_dump(include=told)
    images = ",\n  ".join(listed)
    yield "manifest.json", f'{json.dumps(head)[:-1]}, "n": {job.total}, "images": [\n  {images}\n]}}\n'.encode()
