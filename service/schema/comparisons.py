"""Bodies of POST /v1/comparisons."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, Field

from models.manifest import Quality
from service.features.comparison import numbers
from service.features.comparison.plan import ComparisonAsked, Mode
from service.features.comparison.progress import ImageMade, Progress, RequestTimed
from service.features.encode import ImageFormat
from service.schema.base import ImageRequest, ModelId, Seed
from service.schema.images import ImageBody, TimingBody, base64_of, image_body, timing_body

MOST_MODELS = 16
MOST_REPEATS = 50


class ComparisonRequest(ImageRequest):
    """POST /v1/comparisons."""

    models: list[ModelId] = Field(
        min_length=2,
        max_length=MOST_MODELS,
        description="ids of GET /v1/models, variants such as <family>/teacher@ddim-016 too",
    )
    reference: ModelId | None = Field(default=None, description="which of them the others are held to; default: the most steps")
    n: int = Field(default=1, ge=1, description="images of each model")
    repeats: int = Field(default=6, ge=1, le=MOST_REPEATS, description="measured rounds")
    seed: Seed | None = Field(default=None, description="of the noises and the order; random when absent")
    mode: Mode = Field(default="concurrent", description="beside the traffic of others, or alone where the server allows it")
    stream: bool = Field(default=False, description="send server-sent events as images and measurements are made")

    def asked(self) -> ComparisonAsked:
        """Return the request as ComparisonAsked, the feature's own type."""
        return ComparisonAsked(
            models=self.models,
            reference=self.reference,
            prompt=self.prompt,
            class_label=self.class_label,
            size=self.size,
            image_format=self.output_format,
            quality=self.output_compression,
            n=self.n,
            repeats=self.repeats,
            seed=self.seed,
            mode=self.mode,
        )


class Spread(BaseModel):
    """Seconds over the measured rounds."""

    median: float
    p95: float


class Interval(BaseModel):
    """A ratio of median total seconds, reference over model, and its 95 % bootstrap interval over rounds.

    low and high are null for fewer than six rounds, of which not even the whole range is a 95 % interval.
    """

    value: float
    low: float | None
    high: float | None


class Agreement(BaseModel):
    """Mean over the images of PSNR in dB (58.9 when identical) and SSIM, against the reference's."""

    psnr_db: float
    ssim: float


class ModelResult(BaseModel):
    """One model of a comparison. For the reference itself speed_up and agreement are null."""

    model: str
    kind: Literal["teacher", "student"]
    steps: int
    images: list[ImageBody]
    queue_s: Spread
    compute_s: Spread
    total_s: Spread
    samples: list[TimingBody] = Field(description="one a round, in order")
    speed_up: Interval | None
    agreement: Agreement | None
    quality: Quality | None = Field(description="measured when the model was made, for this plan; null when it was not")


class ComparisonResponse(BaseModel):
    """What came of a comparison. rounds: measured and complete; fewer than `repeats` when time alone ran out."""

    created: int
    mode: Mode
    reference: str
    seed: int
    n: int
    repeats: int
    rounds: int
    note: str | None = Field(default=None, description="what keeps the numbers from saying more, such as too few rounds")
    size: str
    output_format: ImageFormat
    results: list[ModelResult]


class ImageArrived(BaseModel):
    """On a stream: an image of the warm-up; done of total steps of the comparison are behind us."""

    type: Literal["comparison.image"] = "comparison.image"
    model: str
    image_index: int
    image: ImageBody
    done: int
    total: int


class RequestMeasured(BaseModel):
    """On a stream: one measured request."""

    type: Literal["comparison.measured"] = "comparison.measured"
    model: str
    round: int
    place: int
    timing: TimingBody
    done: int
    total: int


class ComparisonCompleted(ComparisonResponse):
    """On a stream: the last event."""

    type: Literal["comparison.completed"] = "comparison.completed"


ComparisonEvent = ImageArrived | RequestMeasured | ComparisonCompleted


def comparison_event(event: Progress) -> ComparisonEvent:
    """Return the body of one event of a comparison."""
    if isinstance(event, ImageMade):
        image = image_body(event.model, event.image, b64_json=base64_of(event.file))
        place = event.image.position
        return ImageArrived(model=event.model.id, image_index=place, image=image, done=event.done, total=event.total)
    if isinstance(event, RequestTimed):
        measured = event.measured
        return RequestMeasured(
            model=measured.model.id,
            round=measured.round,
            place=measured.place,
            timing=timing_body(measured.timing),
            done=event.done,
            total=event.total,
        )
    return ComparisonCompleted(**_response_fields(event))


def comparison_response(summary: numbers.ComparisonSummary) -> ComparisonResponse:
    """Return the body of a finished comparison."""
    return ComparisonResponse(**_response_fields(summary))


def _response_fields(summary: numbers.ComparisonSummary) -> dict[str, Any]:
    comparison = summary.comparison
    return {
        "created": int(time.time()),
        "mode": "isolated" if comparison.isolated else "concurrent",
        "reference": comparison.reference.id,
        "seed": comparison.seed,
        "n": len(comparison.images),
        "repeats": comparison.repeats,
        "rounds": summary.rounds,
        "note": summary.note,
        "size": comparison.reference.entry.manifest.image.size(comparison.style.scale),
        "output_format": comparison.style.image_format,
        "results": [_model_result(result) for result in summary.results],
    }


def _model_result(result: numbers.ComparedModel) -> ModelResult:
    model, faster, agreement = result.model, result.speed_up, result.agreement
    return ModelResult(
        model=model.id,
        kind=model.entry.manifest.kind,
        steps=len(model.plan),
        images=[image_body(model, image, b64_json=base64_of(file)) for image, file in result.images],
        queue_s=_spread(result.queue),
        compute_s=_spread(result.compute),
        total_s=_spread(result.total),
        samples=[timing_body(timing) for timing in result.samples],
        speed_up=None if faster is None else Interval(value=faster.value, low=faster.low, high=faster.high),
        agreement=None if agreement is None else Agreement(psnr_db=agreement.psnr_db, ssim=agreement.ssim),
        quality=result.quality,
    )


def _spread(spread: numbers.Spread) -> Spread:
    return Spread(median=spread.median, p95=spread.p95)
