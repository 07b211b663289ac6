"""/v1/jobs: generations too large for one request. Posted, watched, cancelled, and taken home as a zip."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from service.api.answers import arm_headers
from service.api.record import current_record
from service.engine.load import ModelStatus
from service.engine.request import Generation
from service.features.archive import zip_stream
from service.features.encode import ImageFormat
from service.features.errors import ConflictError, InvalidRequestError, NotFoundError, shown_name
from service.features.generation import AUTO, plan_generation
from service.features.jobs import JobDocument, chunk_size
from service.features.prompts import default_class
from service.features.service import Service, ServiceOf
from service.schema.images import MAX_FIRST_INDEX, GenerationRequest, ImageRequest, ModelId, Seed
from service.store.base import UNFINISHED, Job, Status

router = APIRouter(tags=["jobs"])

_ID = re.compile(r"[0-9a-f]{32}")
_READ = 64  # images fetched from the store at once


class JobRequest(ImageRequest):
    """POST /v1/jobs: the fields of a generation that decide its images."""

    model: ModelId | None = Field(
        default=None, description="an id of GET /v1/models, a variant or an experiment; default: the server's choice"
    )
    n: int = Field(default=1, ge=1, description="images")
    seed: Seed | None = Field(default=None, description="same seed, same bytes; random when absent")
    first_index: int = Field(default=0, ge=0, le=MAX_FIRST_INDEX, description="index of the first image under the seed")
    user: str | None = Field(default=None, description="who asks; decides the arm where `model` is an experiment")


class JobBody(BaseModel):
    """A job as it is now. Times are Unix seconds."""

    id: str
    object: Literal["job"] = "job"
    status: Status
    model: str
    n: int
    done: int = Field(description="images stored so far")
    progress: float = Field(description="done / n")
    eta_s: float | None = Field(description="seconds left at the pace so far; null before the first images and at the end")
    seed: int
    first_index: int
    size: str
    output_format: ImageFormat
    created_at: float
    started_at: float | None
    finished_at: float | None
    error: str | None = Field(description="why it failed")
    result_url: str | None = Field(description="where the zip is, once the job has succeeded")


class JobList(BaseModel):
    """GET /v1/jobs."""

    object: Literal["list"] = "list"
    data: list[JobBody]
    has_more: bool = Field(default=False, description="whether there are more than `limit`")


Limit = Annotated[int | None, Query(ge=1, description="jobs at most; all without it")]
After = Annotated[str | None, Query(max_length=200, description="the id of the last job of the page before")]


class RemovedJobError(Exception):
    """The job was removed while its result was being sent; too late for an answer, so the connection is cut."""


@router.post("/v1/jobs", status_code=202, summary="Generate many images in the background")
async def create_job(body: JobRequest, request: Request, response: Response, service: ServiceOf) -> JobBody:
    """Queue a job. Its images have the bytes that the same seed and indexes give in POST /v1/images/generations."""
    most = service.settings.max_job_images
    if body.n > most:
        raise InvalidRequestError(f"n: at most {most} images in one job, got {body.n}; post several jobs.", "n")
    if body.model == AUTO:
        raise InvalidRequestError("model: auto is for requests with max_latency_ms; name a model for a job.", "model")
    assignment = service.experiments.assign(body.model, body.user, body.seed)
    chosen = body.model_dump(exclude={"n"}) | ({"model": assignment.arm} if assignment else {})
    generation = plan_generation(GenerationRequest(**chosen), service)
    record = current_record()
    record.model, record.images = generation.model.id, body.n
    record.experiment = assignment.experiment if assignment else None
    status = service.require_loaded(generation.model)
    document = _document(body, generation, status)
    size = chunk_size(status, document.steps, service.settings.job_chunk)
    job = Job(uuid.uuid4().hex, document.model_dump_json(), body.n, size, time.time())
    await service.store.jobs.add(job)
    response.headers["location"] = f"/v1/jobs/{job.id}"
    response.headers.update(arm_headers(assignment))
    return _job_body(job, service.base_url(request))


@router.get("/v1/jobs", summary="List jobs")
async def list_jobs(request: Request, service: ServiceOf, limit: Limit = None, after: After = None) -> JobList:
    """Stored jobs, the newest first: all of them, or at most `limit`, and `after` the last one of the page before."""
    stored = await service.store.jobs.all()
    if after is not None:
        position = next((position for position, job in enumerate(stored) if job.id == after), None)
        if position is None:
            raise InvalidRequestError(f"after: there is no job {shown_name(after)}; begin again without it.", "after")
        stored = stored[position + 1 :]
    data = [_job_body(job, service.base_url(request)) for job in stored[:limit]]
    return JobList(data=data, has_more=len(data) < len(stored))


@router.get("/v1/jobs/{job_id}", summary="How far a job is")
async def get_job(job_id: str, request: Request, service: ServiceOf) -> JobBody:
    """One job; 404 when it does not exist or has expired."""
    return _job_body(await _find(job_id, service), service.base_url(request))


@router.delete("/v1/jobs/{job_id}", summary="Cancel or forget a job")
async def delete_job(job_id: str, request: Request, service: ServiceOf) -> JobBody:
    """An unfinished job is cancelled and its images are dropped. A finished one is forgotten. Answers its last state."""
    job = await _find(job_id, service)
    if job.status not in UNFINISHED:
        await service.store.jobs.forget(job_id)
        return _job_body(job, service.base_url(request)).model_copy(update={"result_url": None})  # gone with the job
    await service.store.jobs.finish(job_id, "cancelled")
    return _job_body(await _find(job_id, service), service.base_url(request))


@router.get(
    "/v1/jobs/{job_id}/result",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
    summary="The images of a job",
)
async def job_result(job_id: str, service: ServiceOf) -> StreamingResponse:
    """A zip of the images and of manifest.json, which tells model, seed, index, class and sha256 of each. Equal jobs give
    equal bytes. 409 until the job has succeeded."""
    job = await _find(job_id, service)
    if job.status != "succeeded":
        wait = "; its result is ready when that is succeeded" if job.status in UNFINISHED else " and has no result"
        raise ConflictError(f"The job {job_id} is {job.status}{wait}.", "id", "job_not_succeeded")
    headers = {"content-disposition": f'attachment; filename="{job_id}.zip"'}
    return StreamingResponse(zip_stream(_files(job, service)), media_type="application/zip", headers=headers)


def _document(body: JobRequest, generation: Generation, status: ModelStatus) -> JobDocument:
    model, seed = generation.model, generation.seed
    manifest = model.entry.manifest
    assert status.provider is not None  # the model is loaded
    assert status.precision is not None
    labels = [generation.images[0].class_label]
    if manifest.classes and not body.prompt.strip() and body.class_label is None:
        labels = [default_class(seed, body.first_index + position, manifest) for position in range(len(manifest.classes))]
    return JobDocument(
        model=model.id,
        model_sha256=manifest.sha256,
        provider=status.provider,
        precision=status.precision,
        steps=len(model.plan),
        seed=seed,
        first_index=body.first_index,
        labels=labels,
        class_names=[None if label is None else manifest.classes[label] for label in labels],
        size=generation.size,
        scale=generation.scale,
        output_format=body.output_format,
        quality=body.output_compression,
    )


async def _find(job_id: str, service: Service) -> Job:
    job = await service.store.jobs.get(job_id) if _ID.fullmatch(job_id) else None
    if job is None:
        raise NotFoundError(f"There is no job {job_id!r}; it may have expired.", "id", "job_not_found")
    return job


def _job_body(job: Job, base_url: str) -> JobBody:
    document = JobDocument.model_validate_json(job.request)
    eta_s = None
    if job.status == "running" and job.started_at is not None and job.done:
        eta_s = round((time.time() - job.started_at) / job.done * (job.total - job.done), 1)
    return JobBody(
        id=job.id,
        status=job.status,
        model=document.model,
        n=job.total,
        done=job.done,
        progress=job.done / job.total,
        eta_s=eta_s,
        seed=document.seed,
        first_index=document.first_index,
        size=document.size,
        output_format=document.output_format,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=job.error,
        result_url=f"{base_url}/v1/jobs/{job.id}/result" if job.status == "succeeded" else None,
    )


async def _files(job: Job, service: Service) -> AsyncIterator[tuple[str, bytes]]:
    """(name, content) of every image, then of the manifest that lists them. Raises RemovedJobError."""
    document = JobDocument.model_validate_json(job.request)
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
