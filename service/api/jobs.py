"""/v1/jobs: generations too large for one request. A job is posted, watched, cancelled, and downloaded as a zip."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from service.api.answers import arm_headers
from service.api.dependencies import BaseUrl, ServiceOf
from service.api.record import current_record
from service.features.archive import zip_stream
from service.features.jobs import requests
from service.schema.jobs import JobBody, JobList, JobRequest, job_body

router = APIRouter(tags=["jobs"])

Limit = Annotated[int | None, Query(ge=1, description="jobs at most; all without it")]
After = Annotated[str | None, Query(max_length=200, description="the id of the last job of the page before")]


@router.post("/v1/jobs", status_code=202, summary="Generate many images in the background")
async def create_job(body: JobRequest, response: Response, service: ServiceOf, base_url: BaseUrl) -> JobBody:
    """Queue a job. Its images have the bytes that the same seed and indexes give in POST /v1/images/generations."""
    planned = requests.plan_job(body.asked(), service)
    record = current_record()
    record.model, record.images = planned.generation.model.id, body.n
    record.experiment = planned.assignment.experiment if planned.assignment else None
    state = await requests.queue_job(planned, service)
    response.headers["location"] = f"/v1/jobs/{state.job.id}"
    response.headers.update(arm_headers(planned.assignment))
    return job_body(state, base_url)


@router.get("/v1/jobs", summary="List jobs")
async def list_jobs(service: ServiceOf, base_url: BaseUrl, limit: Limit = None, after: After = None) -> JobList:
    """Stored jobs, the newest first: all of them, or at most `limit`, and `after` the last one of the page before."""
    jobs, has_more = await requests.list_jobs(service, limit=limit, after=after)
    return JobList(data=[job_body(state, base_url) for state in jobs], has_more=has_more)


@router.get("/v1/jobs/{job_id}", summary="How far a job is")
async def get_job(job_id: str, service: ServiceOf, base_url: BaseUrl) -> JobBody:
    """One job; 404 when it does not exist or has expired."""
    return job_body(await requests.find_job(job_id, service), base_url)


@router.delete("/v1/jobs/{job_id}", summary="Cancel or forget a job")
async def delete_job(job_id: str, service: ServiceOf, base_url: BaseUrl) -> JobBody:
    """An unfinished job is cancelled and its images are dropped. A finished one is forgotten. Answers its last state."""
    state, forgotten = await requests.remove_job(job_id, service)
    return job_body(state, base_url, forgotten=forgotten)


@router.get(
    "/v1/jobs/{job_id}/result",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
    summary="The images of a job",
)
async def job_result(job_id: str, service: ServiceOf) -> StreamingResponse:
    """A zip of the images and of manifest.json, which tells model, seed, index, class and sha256 of each. Equal jobs give
    equal bytes. 409 until the job has succeeded."""
    state = await requests.find_result(job_id, service)
    headers = {"content-disposition": f'attachment; filename="{job_id}.zip"'}
    return StreamingResponse(zip_stream(requests.result_files(state, service)), media_type="application/zip", headers=headers)
