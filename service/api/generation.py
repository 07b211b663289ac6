"""From a validated body to rows for the engine: which model, which seeds, which classes, which size."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from models.catalogue import Resolved
from models.manifest import ImageShape, Manifest
from models.noise import MAX_SEED
from service.api.errors import InvalidRequestError
from service.api.prompts import class_of_prompt, default_class
from service.api.schema import GenerationRequest, ImageRequest, InterpolationRequest
from service.api.state import Service
from service.engine.request import ImageSpec

_SIZE = re.compile(r"^([1-9][0-9]{0,4})x([1-9][0-9]{0,4})$")


@dataclass(frozen=True)
class Generation:
    """What a request asks for: images of one model, each pixel `scale` x `scale` pixels large."""

    model: Resolved
    images: tuple[ImageSpec, ...]
    seed: int
    scale: int

    @property
    def size(self) -> str:
        """Width x height of the image files, as OpenAI writes it."""
        return size_of(self.model.entry.manifest.image, self.scale)


def size_of(image: ImageShape, scale: int = 1) -> str:
    """`28x28`: width x height."""
    return f"{image.width * scale}x{image.height * scale}"


def plan_generation(body: GenerationRequest, service: Service) -> Generation:
    """Decide everything about a request. Raises UnknownModelError and InvalidRequestError, which name the field."""
    model = service.resolve(body.model)
    manifest = model.entry.manifest
    most = service.settings.max_n
    if body.n > most:
        raise InvalidRequestError(f"n: at most {most} images in one request, got {body.n}; send several requests.", "n")
    scale = scale_of(body.size, manifest.image, service.settings.max_side)
    label = class_label_of(body, manifest)
    seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
    images = tuple(
        ImageSpec(seed, index, default_class(seed, index, manifest) if label is None else label)
        for index in range(body.first_index, body.first_index + body.n)
    )
    return Generation(model, images, seed, scale)


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
    return Generation(model, images, first, scale)


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
            f"size: {size!r} is not available; write auto, {size_of(image)} or a whole multiple of it "
            f"up to {size_of(image, largest)}.",
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
