"""Requests to the engine, and its answers: images and errors.

A request asks one model for several images. Each image is one row of the engine, with noise of its own.

EngineError
├── OverloadedError          too much is waiting: try again after `retry_after_s`
├── LatencyError             none of the models asked for is that fast, even on an idle device
├── UnavailableError         not ready, draining or stopped
│   └── ModelFailedError     the model failed to load; trying again does not help
├── RowFailedError           the device failed or produced numbers that are not finite
└── RequestCancelledError    the ticket was cancelled while someone was still reading it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Resolved
from models.noise import MAX_SEED


class EngineError(Exception):
    """Base class. The message is one sentence for the client."""


class OverloadedError(EngineError):
    """Too much work is ahead. retry_after_s: estimated seconds until the request would be admitted, however long."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LatencyError(EngineError):
    """The latency asked for is shorter than the fastest model needs on an idle device."""


class UnavailableError(EngineError):
    """The engine is starting, draining or stopped. retry_after_s: estimated seconds until that may be over."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelFailedError(UnavailableError):
    """The model failed to load. It will fail again until somebody repairs it."""

    def __init__(self, model_id: str, reason: str | None) -> None:
        why = f": {reason.removesuffix('.')}" if reason else ""
        super().__init__(f"The model {model_id} could not be loaded{why}; name another model.")


class RowFailedError(EngineError):
    """An image could not be computed. No other image is affected."""


class RequestCancelledError(EngineError):
    """The ticket was cancelled."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image. Its noise is keyed by (seed, index). class_label is None for unconditional models.

    blend: (other seed, fraction from 0 to 1) moves all of its noise along the arc towards the other seed's noise.
    """

    seed: int
    index: int
    class_label: int | None
    blend: tuple[int, float] | None = None


@dataclass(frozen=True)
class Generation:
    """A request to the engine: images of one model by its plan, with its limits and its previews.

    scale           each pixel becomes scale x scale pixels of the image file
    previews        mid-denoise predictions per image, evenly spaced before the end
    max_latency_s   deadline of the images, promised at admission
    flex            work that can wait, see scheduler.py
    exclusive_s     device seconds in which nothing else runs, from the next step boundary until the request is done; when they
                    are used up, the rest shares the device with other requests
    """

    model: Resolved
    images: Sequence[ImageSpec]
    scale: int = 1
    previews: int = 0
    max_latency_s: float | None = None
    flex: bool = False
    exclusive_s: float = 0.0

    @property
    def seed(self) -> int:
        """Seed of the first image."""
        return self.images[0].seed

    @property
    def size(self) -> str:
        """Width x height of the image files, as OpenAI writes it."""
        return self.model.entry.manifest.image.size(self.scale)

    @cached_property
    def preview_steps(self) -> tuple[int, ...]:
        """The numbers of evaluations after which a preview is due."""
        return preview_steps(len(self.model.plan), self.previews)


@dataclass(frozen=True)
class Timing:
    """The times of an image, in seconds.

    queue_s       from submission to the first batch
    compute_s     of all batches that the image was in
    total_s       from submission to the end
    mean_batch    mean number of rows in those batches
    estimated_s   estimate at admission of total_s for the request's last image
    """

    queue_s: float
    compute_s: float
    total_s: float
    mean_batch: float
    estimated_s: float


@dataclass(frozen=True)
class Device:
    """How an image was made: the runtime's provider, its precision, and the smallest and largest batch computed for it."""

    provider: str
    precision: str
    smallest_batch: int
    largest_batch: int


@dataclass(frozen=True)
class Preview:
    """A mid-denoise prediction of the clean image: uint8 [C,H,W], after `step` of `steps` evaluations.

    position: the image's place in the request. number: the preview's place among those of its image. Both from 0.
    """

    position: int
    spec: ImageSpec
    pixels: NDArray[np.uint8]
    number: int
    step: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """A finished image: uint8 [C,H,W]. position: its place in the request. cached: read from the cache, not computed now."""

    position: int
    spec: ImageSpec
    pixels: NDArray[np.uint8]
    timing: Timing
    device: Device
    cached: bool = False


@dataclass(frozen=True)
class Failed:
    """An image that could not be computed, and the reason. The request's other images continue."""

    position: int
    spec: ImageSpec
    error: RowFailedError


Event = Preview | Finished | Failed


def check_generation(generation: Generation) -> None:
    """Raise ValueError for a request that its model cannot fulfil."""
    manifest = generation.model.entry.manifest
    if not generation.images:
        raise ValueError("a request needs at least one image")
    if generation.previews < 0:
        raise ValueError(f"previews must not be negative, got {generation.previews}")
    allowed: set[int | None] = {*range(len(manifest.classes)), manifest.null_label} if manifest.classes else {None}
    for spec in generation.images:
        if spec.class_label not in allowed:
            raise ValueError(f"class_label {spec.class_label} does not exist in {manifest.id}")
        if not 0 <= spec.seed <= MAX_SEED or spec.index < 0:
            raise ValueError(f"seed must be between 0 and {MAX_SEED} and index not negative, got {spec.seed} and {spec.index}")
        if spec.blend is not None and not (0 <= spec.blend[0] <= MAX_SEED and 0 <= spec.blend[1] <= 1):
            raise ValueError(f"blend must be a seed between 0 and {MAX_SEED} and a fraction between 0 and 1, got {spec.blend}")


def preview_steps(steps: int, previews: int) -> tuple[int, ...]:
    """Return the numbers of evaluations after which previews are due: evenly spaced, strictly between 0 and `steps`.

    A plan that is too short for so many previews gives one after every evaluation but the last.
    """
    previews = min(previews, steps - 1)
    return tuple(round(steps * (number + 1) / (previews + 1)) for number in range(previews))
