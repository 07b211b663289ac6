"""Bodies of generations and interpolations, and how finished images become answers."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from models.catalogue import Resolved
from service.engine.request import Device, Finished, Generation, ImageSpec, Timing
from service.features.encode import FileStyle, ImageFormat
from service.features.experiments import Assignment
from service.features.generation import MAX_FIRST_INDEX, ImagesAsked, InterpolationAsked
from service.features.timing import slowest
from service.schema.base import ImageRequest, ModelId, Seed

MAX_LATENCY_MS = 3_600_000
ResponseFormat = Literal["b64_json", "url"]


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

    def asked(self) -> ImagesAsked:
        """Return the request as ImagesAsked, the feature's own type."""
        return ImagesAsked(
            model=self.model,
            prompt=self.prompt,
            class_label=self.class_label,
            size=self.size,
            n=self.n,
            seed=self.seed,
            first_index=self.first_index,
            previews=self.partial_images,
            max_latency_s=None if self.max_latency_ms is None else self.max_latency_ms / 1000,
            flex=self.service_tier == "flex",
            user=self.user,
        )


class InterpolationRequest(ImageRequest):
    """POST /v1/images/interpolations."""

    model: ModelId | None = Field(
        default=None, description="an id of GET /v1/models or a variant; default: the server's choice"
    )
    seeds: list[Seed] = Field(min_length=2, max_length=2, description="where the walk begins and ends")
    frames: int = Field(default=8, ge=2, description="images, both ends included")
    response_format: ResponseFormat = "b64_json"

    def asked(self) -> InterpolationAsked:
        """Return the request as InterpolationAsked, the feature's own type."""
        first, last = self.seeds
        return InterpolationAsked(
            model=self.model,
            prompt=self.prompt,
            class_label=self.class_label,
            size=self.size,
            seeds=(first, last),
            frames=self.frames,
        )


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


def generation_response(
    generation: Generation,
    finished: Sequence[Finished],
    files: Sequence[bytes],
    style: FileStyle,
    link: Callable[[Resolved, Finished, FileStyle, bytes], str] | None,
    assignment: Assignment | None = None,
) -> GenerationResponse:
    """Return OpenAI's body for finished images and their files, inline unless `link` makes urls of them."""
    model = generation.model
    data = []
    for image, file in zip(finished, files, strict=True):
        url = link(model, image, style, file) if link else None
        inline = None if link else base64_of(file)
        data.append(image_body(model, image, b64_json=inline, url=url))
    return GenerationResponse(
        created=int(time.time()),
        data=data,
        output_format=style.image_format,
        size=generation.size,
        model=model.id,
        model_sha256=model.entry.manifest.sha256,
        steps=len(model.plan),
        seed=generation.seed,
        service_tier=service_tier(generation),
        timing=timing_body(slowest(finished)),
        experiment=arm_body(assignment),
    )


def image_body(model: Resolved, image: Finished, *, b64_json: str | None, url: str | None = None) -> ImageBody:
    """Return the body of one finished image, its file inline or behind a url."""
    return ImageBody(
        b64_json=b64_json,
        url=url,
        cached=image.cached,
        timing=timing_body(image.timing),
        device=device_body(image.device),
        **image_facts(model, image.spec),
    )


def image_facts(model: Resolved, spec: ImageSpec) -> dict[str, Any]:
    """Return the fields of ImageFacts."""
    other, fraction = spec.blend or (None, None)
    return {
        "seed": spec.seed,
        "index": spec.index,
        "class_label": spec.class_label,
        "class_name": class_name(model, spec),
        "other_seed": other,
        "fraction": fraction,
    }


def class_name(model: Resolved, spec: ImageSpec) -> str | None:
    """Return the name of an image's class; None for unconditional models."""
    return None if spec.class_label is None else model.entry.manifest.classes[spec.class_label]


def base64_of(file: bytes) -> str:
    """Encode a file as OpenAI's b64_json."""
    return base64.b64encode(file).decode("ascii")


def timing_body(timing: Timing) -> TimingBody:
    """Return the body of a timing."""
    return TimingBody(**vars(timing))


def device_body(device: Device) -> DeviceBody:
    """Return the body of the device that made an image."""
    return DeviceBody(**vars(device))


def arm_body(assignment: Assignment | None) -> ExperimentArm | None:
    """Return the body of the arm that an experiment gave a request; None without an experiment."""
    if assignment is None:
        return None
    return ExperimentArm(id=assignment.experiment, arm=assignment.arm, by=assignment.by)


def service_tier(generation: Generation) -> Literal["default", "flex"]:
    """Return the service tier of a request."""
    return "flex" if generation.flex else "default"
