"""From a validated body to rows for the engine: which model, which seeds, which classes, which size."""

from __future__ import annotations

import re
import secrets

from models.catalogue import Catalogue, Resolved
from models.manifest import ImageShape, Manifest
from models.noise import MAX_SEED
from service.engine.request import Generation, ImageSpec, LatencyError
from service.features.errors import InvalidRequestError
from service.features.prompts import class_of_prompt, default_class
from service.features.service import Service
from service.schema.images import GenerationRequest, ImageRequest, InterpolationRequest

AUTO = "auto"
_SIZE = re.compile(r"^([1-9][0-9]{0,4})x([1-9][0-9]{0,4})$")


def plan_generation(body: GenerationRequest, service: Service) -> Generation:
    """Decide everything about a request; Engine.submit checks max_latency_ms again.

    Raises UnknownModelError and InvalidRequestError, which name the field, and the engine's UnavailableError and
    OverloadedError for a latency that cannot be promised now.
    """
    model = _model(body, service)
    manifest = model.entry.manifest
    most = service.settings.max_n
    if body.n > most:
        raise InvalidRequestError(f"n: at most {most} images in one request, got {body.n}; POST /v1/jobs takes more.", "n")
    scale = scale_of(body.size, manifest.image, service.settings.max_side)
    label = class_label_of(body, manifest)
    seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
    images = tuple(
        ImageSpec(seed, index, default_class(seed, index, manifest) if label is None else label)
        for index in range(body.first_index, body.first_index + body.n)
    )
    return Generation(
        model,
        images,
        scale=scale,
        previews=body.partial_images,
        max_latency_s=_latency_s(body),
        flex=body.service_tier == "flex",
    )


def _model(body: GenerationRequest, service: Service) -> Resolved:
    """The model asked for; with max_latency_ms only if it is expected to be that fast; for auto the best that is."""
    max_latency_s = _latency_s(body)
    if body.model != AUTO:
        candidates = [service.resolve(body.model)]
        if max_latency_s is None:
            return candidates[0]
    elif max_latency_s is None:
        raise InvalidRequestError(
            "max_latency_ms: auto needs it; say how many milliseconds the images may take.", "max_latency_ms"
        )
    else:
        candidates = by_quality(service.catalogue, service.resolve(None).entry.manifest.family)
        if not candidates:
            raise InvalidRequestError("model: auto needs models whose quality was measured; name a model.", "model")
    try:
        return service.engine.choose(candidates, body.n, max_latency_s, flex=body.service_tier == "flex")
    except LatencyError as error:
        raise InvalidRequestError(f"max_latency_ms: {error}", "max_latency_ms", "latency_unattainable") from error


def by_quality(catalogue: Catalogue, family: str) -> list[Resolved]:
    """Every measured model and variant of a family, best first by the metric that ranks it, then fewest steps.

    A model's quality is recorded by plan, and plans such as dpmpp-016 of a teacher are its variants.
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


def _latency_s(body: GenerationRequest) -> float | None:
    return None if body.max_latency_ms is None else body.max_latency_ms / 1000


def plan_interpolation(body: InterpolationRequest, service: Service) -> Generation:
    """The frames of a walk between two seeds, at index 0 and of one class. Raises what plan_generation raises."""
    model = service.resolve(body.model)
    manifest = model.entry.manifest
    most = service.settings.max_n
    if body.frames > most:
        raise InvalidRequestError(f"frames: at most {most} in one request, got {body.frames}; walk in parts.", "frames")
    scale = scale_of(body.size, manifest.image, service.settings.max_side)
    label = class_label_of(body, manifest)
    first, last = body.seeds
    if label is None:
        label = default_class(first, 0, manifest)
    images = tuple(ImageSpec(first, 0, label, (last, frame / (body.frames - 1))) for frame in range(body.frames))
    return Generation(model, images, scale=scale)


def scale_of(size: str, image: ImageShape, max_side: int) -> int:
    """How many times larger than native `size` is."""
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


def class_label_of(body: ImageRequest, manifest: Manifest) -> int | None:
    """The one class that prompt and class_label agree on; None when the request leaves it open."""
    named = class_of_prompt(body.prompt, manifest)
    label = body.class_label
    if label is None:
        return named
    if not manifest.classes:
        raise InvalidRequestError(f"class_label: {manifest.id} is unconditional; leave class_label out.", "class_label")
    if label >= len(manifest.classes):
        raise InvalidRequestError(
            f"class_label: {manifest.id} knows labels 0 to {len(manifest.classes) - 1}, got {label}.", "class_label"
        )
    if named not in (None, label):
        raise InvalidRequestError(
            f"class_label: {label} is {manifest.classes[label]} but the prompt asks for {manifest.classes[named]}; "
            "send one of the two.",
            "class_label",
        )
    return label
