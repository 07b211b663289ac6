"""Bodies of /v1/jobs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from service.features.encode import ImageFormat
from service.features.generation import MAX_FIRST_INDEX, ImagesAsked
from service.features.jobs.requests import JobAsked, JobState
from service.schema.base import ImageRequest, ModelId, Seed
from service.store.base import Status


class JobRequest(ImageRequest):
    """POST /v1/jobs: the fields of a generation that decide its images."""

    model: ModelId | None = Field(
        default=None, description="an id of GET /v1/models, a variant or an experiment; default: the server's choice"
    )
    n: int = Field(default=1, ge=1, description="images")
    seed: Seed | None = Field(default=None, description="same seed, same bytes; random when absent")
    first_index: int = Field(default=0, ge=0, le=MAX_FIRST_INDEX, description="index of the first image under the seed")
    user: str | None = Field(default=None, description="who asks; decides the arm where `model` is an experiment")

    def asked(self) -> JobAsked:
        """Return the request as JobAsked, the feature's own type."""
        images = ImagesAsked(
            model=self.model,
            prompt=self.prompt,
            class_label=self.class_label,
            size=self.size,
            n=self.n,
            seed=self.seed,
            first_index=self.first_index,
            user=self.user,
        )
        return JobAsked(images=images, image_format=self.output_format, quality=self.output_compression)


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


def job_body(state: JobState, base_url: str, *, forgotten: bool = False) -> JobBody:
    """Return the body of a job. base_url: where clients reach the service. forgotten: the job and its result were removed."""
    job, document = state.job, state.document
    return JobBody(
        id=job.id,
        status=job.status,
        model=document.model,
        n=job.total,
        done=job.done,
        progress=job.done / job.total,
        eta_s=state.eta_s,
        seed=document.seed,
        first_index=document.first_index,
        size=document.size,
        output_format=document.output_format,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=job.error,
        result_url=f"{base_url}/v1/jobs/{job.id}/result" if state.has_result and not forgotten else None,
    )
