"""Bodies of GET /v1/models: OpenAI's shape, with the speed and the quality of each model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from models.manifest import ImageShape, Quality, Ranking
from service.features.models import KnownExperiment, KnownModel


class ModelBody(BaseModel):
    """OpenAI's Model and what one needs to choose."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    family: str
    kind: Literal["teacher", "student"]
    steps: int
    default: bool
    image: ImageShape
    size: str
    bytes: int = Field(description="of model.onnx on disk")
    classes: list[str]
    parameters: int
    prediction_type: str
    sampler: str = Field(default="ddim", description="how its steps are taken; `quality` calls its own plan SAMPLER-STEPS")
    quality: dict[str, Quality]
    ranking: Ranking | None
    variants: list[str] = Field(description="patterns of training-free variants, NNN from 001 to the teacher's steps")
    status: Literal["loading", "loaded", "failed"]
    reason: str | None = Field(description="why it failed; of a loaded one: why what is on disk now is not what is served")
    sha256: str = Field(description="of model.onnx as it is served")
    provider: str | None = Field(description="what computes it")
    precision: str | None = Field(description="what it computes in")
    ms_per_step: dict[int, float] = Field(
        description="batch size -> ms of one evaluation, measured on this machine at load or recalled from an earlier start"
    )


class ExperimentModelBody(BaseModel):
    """An experiment as a model: each request goes to one of its arms."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["experiment"] = "experiment"
    kind: Literal["experiment"] = "experiment"
    arms: dict[str, float] = Field(description="model id -> weight")


class RefusedFolder(BaseModel):
    """A model folder, or a whole zoo, that was not trusted, so there is no model of it."""

    id: str = Field(description="the id that its model would have")
    reason: str


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelBody | ExperimentModelBody]
    refused: list[RefusedFolder] = Field(default_factory=list, description="folders found with something wrong, and what it is")


def model_body(known: KnownModel) -> ModelBody:
    """Return the body of one model or variant."""
    model, status = known.model, known.status
    manifest = model.entry.manifest
    return ModelBody(
        id=model.id,
        created=known.created,
        owned_by=manifest.family,
        family=manifest.family,
        kind=manifest.kind,
        steps=len(model.plan),
        default=known.is_default,
        image=manifest.image,
        size=manifest.image.size(),
        bytes=model.entry.size,
        classes=manifest.classes,
        parameters=manifest.parameters,
        prediction_type=manifest.prediction_type,
        sampler=model.sampler,
        quality=manifest.quality,
        ranking=manifest.ranking,
        variants=known.variants,
        status=status.state,
        reason=status.reason,
        sha256=manifest.sha256,
        provider=status.provider,
        precision=status.precision,
        ms_per_step=dict(status.step_ms),
    )


def experiment_model_body(known: KnownExperiment) -> ExperimentModelBody:
    """Return the body of an experiment as a model."""
    return ExperimentModelBody(id=known.id, created=known.created, arms=dict(known.arms))
