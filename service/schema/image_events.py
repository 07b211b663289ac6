"""Bodies of OpenAI's server-sent events of a generation."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import BaseModel, Field

from service.engine.request import Finished, Generation, Preview
from service.features.encode import FileStyle, ImageFormat
from service.features.experiments import Assignment
from service.schema.images import (
    DeviceBody,
    ExperimentArm,
    ImageFacts,
    TimingBody,
    arm_body,
    base64_of,
    device_body,
    image_facts,
    service_tier,
    timing_body,
)


class PartialImageEvent(ImageFacts):
    """An unfinished image on a stream: the clean image that the model predicts after `step` of its `steps` evaluations."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: ImageFormat
    partial_image_index: int
    quality: Literal["auto"] = "auto"
    size: str
    image_index: int = Field(description="which of the request's n images")
    model: str
    step: int
    steps: int


class TokenDetails(BaseModel):
    """OpenAI's field; nothing here counts tokens."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """OpenAI's field; nothing here counts tokens."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    total_tokens: int = 0


class CompletedEvent(ImageFacts):
    """A finished image on a stream."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: ImageFormat
    quality: Literal["auto"] = "auto"
    size: str
    usage: Usage = Usage()
    image_index: int = Field(description="which of the request's n images")
    model: str
    model_sha256: str = Field(description="of the weights that made it")
    steps: int
    service_tier: Literal["default", "flex"]
    timing: TimingBody
    device: DeviceBody
    experiment: ExperimentArm | None = Field(default=None, description="when the model asked for is an experiment")


def image_event(
    generation: Generation, style: FileStyle, event: Preview | Finished, file: bytes, assignment: Assignment | None
) -> PartialImageEvent | CompletedEvent:
    """Return the body of a preview or finished image and its file."""
    shared = {
        **image_facts(generation.model, event.spec),
        "b64_json": base64_of(file),
        "created_at": int(time.time()),
        "output_format": style.image_format,
        "size": generation.size,
        "image_index": event.position,
        "model": generation.model.id,
        "steps": len(generation.model.plan),
    }
    if isinstance(event, Finished):
        made = {"timing": timing_body(event.timing), "device": device_body(event.device)}
        tier = {"service_tier": service_tier(generation), "experiment": arm_body(assignment)}
        sha256 = generation.model.entry.manifest.sha256
        return CompletedEvent.model_validate({**shared, **made, **tier, "model_sha256": sha256})
    return PartialImageEvent.model_validate({**shared, "partial_image_index": event.number, "step": event.step})
