"""Bodies of the HTTP API: OpenAI's names first, then ours. Unknown fields are refused by name; null means absent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.manifest import ImageShape, Quality, Ranking
from models.noise import MAX_SEED
from service.encode import ImageFormat

MAX_LATENCY_MS = 3_600_000
MAX_FIRST_INDEX = 2**52  # index = first_index + position stays an integer that JSON clients hold exactly


class GenerationRequest(BaseModel):
    """POST /v1/images/generations."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: str = Field(default="", max_length=1000, description="a class name, a phrase that holds one, or nothing")
    model: str | None = Field(
        default=None,
        description="an id of GET /v1/models, a variant, or auto: the best within max_latency_ms; default: the server's",
    )
    n: int = Field(default=1, ge=1, description="images")
    size: str = Field(default="auto", description="auto is the model's own size; whole multiples of it are upscaled")
    response_format: Literal["b64_json", "url"] = Field(default="b64_json", description="only b64_json for now")
    output_format: ImageFormat = "png"
    stream: bool = Field(default=False, description="only false for now")
    partial_images: int = Field(default=0, ge=0, description="only 0 for now")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="same seed, same bytes; random when absent")
    first_index: int = Field(default=0, ge=0, le=MAX_FIRST_INDEX, description="index of the first image under the seed")
    class_label: int | None = Field(default=None, ge=0, description="label of a class, instead of a prompt")
    max_latency_ms: float | None = Field(
        default=None, gt=0, le=MAX_LATENCY_MS, description="refuse the request unless all images are expected within this time"
    )
    service_tier: Literal["auto", "default", "flex"] = Field(
        default="auto", description="flex: work that can wait, computed when the device would idle; auto is default"
    )
    quality: str | None = Field(default=None, description="accepted for OpenAI's clients, no effect")
    style: str | None = Field(default=None, description="accepted, no effect")
    background: str | None = Field(default=None, description="accepted, no effect")
    moderation: str | None = Field(default=None, description="accepted, no effect")
    output_compression: int | None = Field(default=None, description="accepted, no effect")
    user: str | None = Field(default=None, description="decides the arm where `model` is an experiment")
    safety_identifier: str | None = Field(default=None, description="accepted, no effect")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}

    @field_validator("response_format")
    @classmethod
    def _no_urls(cls, value: str) -> str:
        if value == "url":
            raise ValueError("urls are not supported, use b64_json")
        return value

    @field_validator("stream")
    @classmethod
    def _no_streams(cls, value: bool) -> bool:
        if value:
            raise ValueError("streaming is not supported, leave it out or send false")
        return value

    @field_validator("partial_images")
    @classmethod
    def _no_partial_images(cls, value: int) -> int:
        if value:
            raise ValueError("partial images need streaming, which is not supported; leave it out or send 0")
        return value


class TimingBody(BaseModel):
    """Seconds: waiting, in the network evaluations it rode in, in all, and in all as estimated when the request was admitted;
    and the mean rows of those evaluations.
    """

    queue_s: float
    compute_s: float
    total_s: float
    estimated_s: float
    mean_batch: float


class DeviceBody(BaseModel):
    """What made an image: runtime provider, precision, and the smallest and largest batch computed for it."""

    provider: str
    precision: str
    smallest_batch: int
    largest_batch: int


class ImageBody(BaseModel):
    """One image. `seed`, `index` and `class_label` make it again."""

    b64_json: str
    seed: int
    index: int
    class_label: int | None
    class_name: str | None
    cached: bool = Field(default=False, description="recalled, not computed: its timing is zero")
    timing: TimingBody
    device: DeviceBody


class ExperimentArm(BaseModel):
    """Where an experiment sent a request, and by what: its user, its seed, or chance."""

    id: str
    arm: str
    by: Literal["user", "seed", "chance"]


class GenerationResponse(BaseModel):
    """OpenAI's ImagesResponse and how the images came about; timing is the slowest image's, its mean batch averaged."""

    created: int
    data: list[ImageBody]
    output_format: ImageFormat
    size: str
    model: str
    steps: int
    seed: int
    service_tier: Literal["default", "flex"]
    timing: TimingBody
    experiment: ExperimentArm | None = Field(default=None, description="when the model asked for is an experiment")


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
    classes: list[str]
    parameters: int
    prediction_type: str
    quality: dict[str, Quality]
    ranking: Ranking | None
    variants: list[str] = Field(description="patterns of training-free variants, NNN from 001 to the teacher's steps")
    status: Literal["loading", "loaded", "failed"]
    reason: str | None = Field(description="why it failed")
    provider: str | None = Field(description="what computes it")
    precision: str | None = Field(description="what it computes in")
    ms_per_step: dict[int, float] = Field(description="calibrated: batch size -> ms of one evaluation")


class ExperimentModelBody(BaseModel):
    """An experiment as a model: each request goes to one of its arms."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["experiment"] = "experiment"
    kind: Literal["experiment"] = "experiment"
    arms: dict[str, float] = Field(description="model id -> weight")


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelBody | ExperimentModelBody]
