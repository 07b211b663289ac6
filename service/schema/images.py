"""Bodies of the HTTP API: OpenAI's names first, then ours. Unknown fields are refused by name; null means absent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.manifest import ImageShape, Quality, Ranking
from models.noise import MAX_SEED
from service.features.encode import ImageFormat

MAX_LATENCY_MS = 3_600_000
MAX_FIRST_INDEX = 2**52  # index = first_index + position stays an integer that JSON clients hold exactly
ResponseFormat = Literal["b64_json", "url"]


def _null_allowed(schema: dict[str, Any]) -> None:
    """Say in the published schema that null stands for absent, wherever a field has a default."""
    for name, field in schema.get("properties", {}).items():
        if "default" in field and {"type": "null"} not in field.get("anyOf", []):
            notes = {key: field.pop(key) for key in ("default", "description", "title") if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **notes}


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
ModelId = Annotated[str, Field(min_length=1, max_length=200)]


class RequestBody(BaseModel):
    """What every body has in common: types are not converted, unknown fields are refused, null is as good as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra=_null_allowed)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}


class ImageRequest(RequestBody):
    """What every request for images has: of what, how large, in which file format."""

    prompt: str = Field(default="", max_length=1000, description="a class name, a phrase that holds one, or nothing")
    class_label: int | None = Field(default=None, ge=0, description="label of a class, instead of a prompt")
    size: str = Field(default="auto", description="auto is the model's own size; whole multiples of it are upscaled")
    output_format: ImageFormat = "png"
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="quality of webp and jpeg; absent: lossless webp, jpeg of quality 95"
    )


class GenerationRequest(ImageRequest):
    """POST /v1/images/generations."""

    model: ModelId | None = Field(
        default=None,
        description="an id of GET /v1/models, a variant, or auto: the best within max_latency_ms; default: the server's",
    )
    n: int = Field(default=1, ge=1, description="images")
    response_format: ResponseFormat = Field(default="b64_json", description="url: not with stream, nor with Accept: image/*")
    stream: bool = Field(default=False, description="send server-sent events as images are made")
    partial_images: int = Field(
        default=0, ge=0, le=3, description="unfinished predictions per image; only with stream; a plan of few steps has fewer"
    )
    seed: Seed | None = Field(default=None, description="same seed, same bytes; random when absent")
    first_index: int = Field(default=0, ge=0, le=MAX_FIRST_INDEX, description="index of the first image under the seed")
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
    user: str | None = Field(default=None, description="decides the arm where `model` is an experiment")
    safety_identifier: str | None = Field(default=None, description="accepted, no effect")


class InterpolationRequest(ImageRequest):
    """POST /v1/images/interpolations."""

    model: ModelId | None = Field(
        default=None, description="an id of GET /v1/models or a variant; default: the server's choice"
    )
    seeds: list[Seed] = Field(min_length=2, max_length=2, description="where the walk begins and ends")
    frames: int = Field(default=8, ge=2, description="images, both ends included")
    response_format: ResponseFormat = "b64_json"


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


class ImageFacts(BaseModel):
    """What makes an image again: its seed, index and class_label, and between two seeds the other one and how far."""

    seed: int
    index: int
    class_label: int | None
    class_name: str | None
    other_seed: int | None = Field(default=None, description="the last seed of an interpolation; else null")
    fraction: float | None = Field(
        default=None, description="of an interpolation: 0 at the first seed, 1 at the last; else null"
    )


class ImageBody(ImageFacts):
    """One image, inline or as a url that expires."""

    b64_json: str | None = None
    url: str | None = None
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
    model_sha256: str = Field(description="of the weights that made them, which a reload may change")
    steps: int
    seed: int
    service_tier: Literal["default", "flex"]
    timing: TimingBody
    experiment: ExperimentArm | None = Field(default=None, description="when the model asked for is an experiment")


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
