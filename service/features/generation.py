"""Generation: decide everything about a request for images, and make them.

What is decided: the model, the seeds, the classes, the size. Callers hand in plain values; fields that are wrong are named
as the HTTP API names them.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace

from models.catalogue import Catalogue, Resolved
from models.manifest import ImageShape, Manifest
from models.noise import MAX_SEED
from service.engine.request import Failed, Finished, Generation, ImageSpec, LatencyError, Preview
from service.engine.ticket import Ticket
from service.features.encode import FileStyle
from service.features.errors import InvalidRequestError
from service.features.experiments import Assignment
from service.features.prompts import class_of_prompt, default_class
from service.features.service import Service

AUTO = "auto"
MAX_FIRST_INDEX = 2**52  # index = first_index + position stays an integer that JSON clients hold exactly
_SIZE = re.compile(r"^([1-9][0-9]{0,4})x([1-9][0-9]{0,4})$")


@dataclass(frozen=True, kw_only=True)
class ImagesAsked:
    """Images of one model, as a caller asks for them.

    model           an id, a variant, an experiment, or AUTO: the best model within max_latency_s; None: the default model
    seed            None: a random one
    first_index     index of the first image under the seed
    previews        mid-denoise predictions of each image
    max_latency_s   the request is refused unless all images are expected within this time
    flex            work that can wait
    user            decides the arm where `model` is an experiment
    """

    model: str | None
    prompt: str
    class_label: int | None
    size: str
    n: int
    seed: int | None
    first_index: int
    previews: int = 0
    max_latency_s: float | None = None
    flex: bool = False
    user: str | None = None


@dataclass(frozen=True)
class PlannedGeneration:
    """A request for images that was decided and is not admitted yet.

    assignment: the arm that the request belongs to; None when no experiment was asked for.
    fresh: the images must be computed, not recalled from the cache.
    """

    generation: Generation
    assignment: Assignment | None
    fresh: bool


@dataclass(frozen=True, kw_only=True)
class InterpolationAsked:
    """A walk between the noises of two seeds, `frames` images with both ends included."""

    model: str | None
    prompt: str
    class_label: int | None
    size: str
    seeds: tuple[int, int]
    frames: int


@dataclass(frozen=True, kw_only=True)
class RowsAsked:
    """One image for each seed. indices: None for 0. labels: None for the class that default_class gives each image."""

    seeds: Sequence[int] | None
    indices: Sequence[int] | None
    labels: Sequence[int] | None


def plan(asked: ImagesAsked, service: Service, on_assignment: Callable[[Assignment], None] | None = None) -> PlannedGeneration:
    """Decide everything about a request; Engine.submit checks max_latency_s again.

    on_assignment: called with the arm as soon as it is known, so that the caller knows it even when planning fails.
    Raises UnknownModelError and InvalidRequestError, which name the field, and the engine's UnavailableError and
    OverloadedError for a latency that cannot be promised now.
    """
    assignment = service.experiments.assign(asked.model, asked.user, asked.seed)
    if assignment and on_assignment:
        on_assignment(assignment)
    # Compute anew without a seed (new images are wanted), for an experiment (it measures), and for auto (its promise is of
    # computed images).
    fresh = asked.seed is None or assignment is not None or asked.model == AUTO
    generation = _plan(replace(asked, model=assignment.arm) if assignment else asked, service)
    return PlannedGeneration(generation, assignment, fresh)


def _plan(asked: ImagesAsked, service: Service) -> Generation:
    """Decide the model, the images and their size. Raises what `plan` raises."""
    model = _model(asked, service)
    manifest = model.entry.manifest
    most = service.config.max_n
    if asked.n > most:
        raise InvalidRequestError(f"n: at most {most} images in one request, got {asked.n}; POST /v1/jobs takes more.", "n")
    scale = scale_of(asked.size, manifest.image, service.config.max_side)
    images = specs_of(
        manifest,
        seed=asked.seed,
        first_index=asked.first_index,
        n=asked.n,
        class_label=class_label_of(manifest, prompt=asked.prompt, class_label=asked.class_label),
    )
    return Generation(model, images, scale=scale, previews=asked.previews, max_latency_s=asked.max_latency_s, flex=asked.flex)


def _model(asked: ImagesAsked, service: Service) -> Resolved:
    """Return the model of a request: the one asked for, or for AUTO the best one.

    With max_latency_s, the model is returned only if its images are expected within that time.
    """
    if asked.model != AUTO:
        candidates = [service.resolve(asked.model)]
        if asked.max_latency_s is None:
            return candidates[0]
    elif asked.max_latency_s is None:
        raise InvalidRequestError(
            "max_latency_ms: auto needs it; say how many milliseconds the images may take.", "max_latency_ms"
        )
    else:
        candidates = by_quality(service.catalogue, service.resolve(None).entry.manifest.family)
        if not candidates:
            raise InvalidRequestError("model: auto needs models whose quality was measured; name a model.", "model")
    try:
        return service.engine.choose(candidates, images=asked.n, max_latency_s=asked.max_latency_s, flex=asked.flex)
    except LatencyError as error:
        raise InvalidRequestError(f"max_latency_ms: {error}", "max_latency_ms", "latency_unattainable") from error


def by_quality(catalogue: Catalogue, family: str) -> list[Resolved]:
    """List every measured model and variant of a family, best first by the metric that ranks it, then fewest steps.

    A model's quality is recorded by plan. Plans of a teacher such as dpmpp-016 are its variants.
    """
    ranked = []
    for entry in catalogue.entries.values():
        manifest = entry.manifest
        if manifest.family != family or manifest.ranking is None:
            continue
        for plan, measured in manifest.quality.items():
            value = measured.metrics.get(manifest.ranking.metric)
            own = plan == manifest.plan_name
            if value is None or not (own or manifest.kind == "teacher"):
                continue
            model = catalogue.resolve(entry.id if own else f"{entry.id}@{plan}")
            ranked.append((value if manifest.ranking.better == "lower" else -value, len(model.plan), model.id, model))
    return [model for *_, model in sorted(ranked, key=lambda item: item[:3])]


def plan_interpolation(asked: InterpolationAsked, service: Service) -> Generation:
    """Plan the frames of a walk between two seeds, at index 0 and of one class. Raises what `plan` raises."""
    model = service.resolve(asked.model)
    manifest = model.entry.manifest
    most = service.config.max_n
    if asked.frames > most:
        raise InvalidRequestError(
            f"frames: at most {most} in one request, got {asked.frames}; send several requests.", "frames"
        )
    scale = scale_of(asked.size, manifest.image, service.config.max_side)
    label = class_label_of(manifest, prompt=asked.prompt, class_label=asked.class_label)
    first, last = asked.seeds
    if label is None:
        label = default_class(first, 0, manifest)
    images = tuple(ImageSpec(first, 0, label, (last, frame / (asked.frames - 1))) for frame in range(asked.frames))
    return Generation(model, images, scale=scale)


def plan_rows(asked: RowsAsked, model: Resolved, service: Service) -> Generation:
    """Plan one image for each seed. Raises InvalidRequestError, which names the input."""
    manifest, seeds, labels = model.entry.manifest, asked.seeds, asked.labels
    most = service.config.max_n
    if seeds is None:
        raise InvalidRequestError("inputs: the input seed is missing.", "inputs")
    indices = [0] * len(seeds) if asked.indices is None else asked.indices
    if len(seeds) > most:
        raise InvalidRequestError(f"seed: at most {most} images in one request, got {len(seeds)}.", "seed")
    _check_input("seed", seeds, count=len(seeds), largest=MAX_SEED)
    _check_input("index", indices, count=len(seeds), largest=MAX_FIRST_INDEX)
    if labels is None:
        chosen = [default_class(seed, index, manifest) for seed, index in zip(seeds, indices, strict=True)]
    elif not manifest.classes:
        raise InvalidRequestError(f"class_label: {manifest.id} is unconditional; leave class_label out.", "class_label")
    else:
        _check_input("class_label", labels, count=len(seeds), largest=len(manifest.classes) - 1)
        chosen = [*labels]
    return Generation(model, [ImageSpec(*fields) for fields in zip(seeds, indices, chosen, strict=True)])


def _check_input(name: str, values: Sequence[int], *, count: int, largest: int) -> None:
    """Raise InvalidRequestError unless there are `count` values between 0 and `largest`."""
    if len(values) != count:
        raise InvalidRequestError(f"{name}: {len(values)} values for {count} seeds; send one each.", name)
    if not all(0 <= value <= largest for value in values):
        raise InvalidRequestError(f"{name}: values must be between 0 and {largest}.", name)


def specs_of(
    manifest: Manifest, *, seed: int | None, first_index: int, n: int, class_label: int | None
) -> tuple[ImageSpec, ...]:
    """Return n images of one seed from first_index on.

    seed: random where None. class_label: where None, default_class chooses one for each image.
    """
    seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
    return tuple(
        ImageSpec(seed, index, default_class(seed, index, manifest) if class_label is None else class_label)
        for index in range(first_index, first_index + n)
    )


def scale_of(size: str, image: ImageShape, max_side: int) -> int:
    """Return the factor by which `size` is larger than the model's own size; 1 for auto. Raises InvalidRequestError."""
    if size == "auto":
        return 1
    match = _SIZE.match(size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    scale = width // image.width
    if scale < 1 or (width, height) != (image.width * scale, image.height * scale) or max(width, height) > max_side:
        largest = max(1, max_side // max(image.width, image.height))
        raise InvalidRequestError(
            f"size: {size!r} is not available; write auto, {image.size()} or a whole multiple of it "
            f"up to {image.size(largest)}.",
            "size",
        )
    return scale


def class_label_of(manifest: Manifest, *, prompt: str, class_label: int | None) -> int | None:
    """Return the one class that prompt and class_label agree on; None when the request leaves it open.

    Raises InvalidRequestError for a class that does not exist, and for two that differ.
    """
    named = class_of_prompt(prompt, manifest)
    if class_label is None:
        return named
    if not manifest.classes:
        raise InvalidRequestError(f"class_label: {manifest.id} is unconditional; leave class_label out.", "class_label")
    if class_label >= len(manifest.classes):
        raise InvalidRequestError(
            f"class_label: {manifest.id} knows labels 0 to {len(manifest.classes) - 1}, got {class_label}.", "class_label"
        )
    if named not in (None, class_label):
        raise InvalidRequestError(
            f"class_label: {class_label} is {manifest.classes[class_label]} but the prompt asks for {manifest.classes[named]}; "
            "send one of the two.",
            "class_label",
        )
    return class_label


async def recall_or_compute(
    service: Service, generation: Generation, compute: Callable[[Generation], Awaitable[list[Finished]]]
) -> list[Finished]:
    """Return the images in order: from the cache where it has the same bytes, else from `compute`.

    Raises what `compute` raises.
    """
    model = generation.model
    if not service.cache.serves(service.engine.models[model.entry.id].provider):
        return await compute(generation)

    async def compute_missing(missing: Sequence[ImageSpec]) -> list[Finished]:
        return await compute(replace(generation, images=missing))

    with service.engine.hold([model]):  # a reload may unload the model while the cache is read
        return await service.cache.images(model, generation.images, compute_missing)


async def encoded_events(
    ticket: Ticket, style: FileStyle, encoding: Callable[[], AbstractContextManager[None]]
) -> AsyncGenerator[tuple[Preview | Finished, bytes], None]:
    """Yield previews and finished images as they are made, each with its file.

    encoding: a context in which each file is encoded, so that the caller can measure it. Raises RowFailedError at the first
    image that cannot be computed, and UnavailableError.
    """
    async with aclosing(ticket.events()) as arriving:
        async for event in arriving:
            if isinstance(event, Failed):
                raise event.error
            with encoding():
                file = await asyncio.to_thread(style.encode, event.pixels)
            yield event, file
