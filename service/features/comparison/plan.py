"""Plan a comparison. Refuse requests that make no sense or take too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from models.catalogue import Resolved, UnknownModelError
from service.features.comparison.numbers import device_s
from service.features.comparison.run import Comparison, ComparisonRun
from service.features.encode import FileStyle, ImageFormat
from service.features.errors import InvalidRequestError, NotFoundError
from service.features.generation import class_label_of, scale_of, specs_of
from service.features.service import Service

Mode = Literal["concurrent", "isolated"]


@dataclass(frozen=True, kw_only=True)
class ComparisonAsked:
    """A comparison, as a caller asks for it.

    reference   the model that the others are compared with; None: the model with the most steps
    n           images of each model
    repeats     measured rounds
    seed        of the noises and the order; None: a random one
    """

    models: Sequence[str]
    reference: str | None
    prompt: str
    class_label: int | None
    size: str
    image_format: ImageFormat
    quality: int | None
    n: int
    repeats: int
    seed: int | None
    mode: Mode


def plan_comparison(asked: ComparisonAsked, service: Service) -> Comparison:
    """Decide everything about a comparison. Raises InvalidRequestError, which names the field."""
    models = [_resolve(service, name, "models") for name in asked.models]
    reference = _reference(asked, models, service)
    _check(asked, models, reference, service)

    def round_s(images: int) -> float:
        return sum(device_s(service.engine.models[m.entry.id].step_ms, len(m.plan), images) for m in models)

    check_work(asked, models, round_s=round_s, limit_s=service.config.max_comparison_s)
    manifest = reference.entry.manifest
    scale = scale_of(asked.size, manifest.image, service.config.max_side)
    label = class_label_of(manifest, prompt=asked.prompt, class_label=asked.class_label)
    images = specs_of(manifest, seed=asked.seed, first_index=0, n=asked.n, class_label=label)
    return Comparison(
        models=tuple(models),
        images=images,
        repeats=asked.repeats,
        seed=images[0].seed,
        reference=reference,
        isolated=asked.mode == "isolated",
        style=FileStyle(asked.image_format, scale, asked.quality),
    )


def begin_comparison(comparison: Comparison, service: Service) -> ComparisonRun:
    """Admit the first request of a comparison. The caller must `cancel` the run in the end.

    Raises ModelFailedError and UnavailableError unless all models are loaded, rather than in the middle of the comparison,
    and what Engine.submit raises.
    """
    for model in comparison.models:
        service.require_loaded(model)
    return ComparisonRun(service.engine, comparison, service.isolation)


def _resolve(service: Service, name: str, field: str) -> Resolved:
    """Return the model of a name. Raises NotFoundError, which names the field of a comparison."""
    try:
        return service.resolve(name)
    except UnknownModelError as error:
        raise NotFoundError(str(error), field, "model_not_found") from error


def _reference(asked: ComparisonAsked, models: Sequence[Resolved], service: Service) -> Resolved:
    """Return the model that the others are compared with. Raises InvalidRequestError when it is not among them."""
    if asked.reference is None:
        return max(models, key=lambda model: len(model.plan))
    wanted = _resolve(service, asked.reference, "reference")
    if wanted.id not in [model.id for model in models]:
        raise InvalidRequestError(f"reference: {wanted.id} is not among the models; add it to them.", "reference")
    return wanted


def _check(asked: ComparisonAsked, models: Sequence[Resolved], reference: Resolved, service: Service) -> None:
    """Raise InvalidRequestError for a comparison that makes no sense here."""
    if len({model.id for model in models}) < len(models):
        raise InvalidRequestError("models: one of them is named twice; name each once.", "models")
    ours = reference.entry.manifest
    for model in models:
        theirs = model.entry.manifest
        if (theirs.image, theirs.classes) != (ours.image, ours.classes):
            raise InvalidRequestError(
                f"models: {model.id} makes other images than {reference.id}; compare models of one size and set of classes.",
                "models",
            )
    most = service.config.max_n
    if asked.n > most:
        raise InvalidRequestError(f"n: at most {most} images of each model, got {asked.n}.", "n")
    if asked.mode == "isolated" and not service.config.isolated_s:
        raise InvalidRequestError(
            "mode: isolated comparisons are switched off here; use concurrent, or set SFDDM_ISOLATED_S on the server.", "mode"
        )


def check_work(asked: ComparisonAsked, models: Sequence[Resolved], *, round_s: Callable[[int], float], limit_s: float) -> None:
    """Raise InvalidRequestError, naming the field that helps most, for more device seconds than a comparison may take.

    round_s: images of each model -> device seconds of a round.
    """
    all_s = (1 + asked.repeats) * round_s(asked.n)
    if all_s <= limit_s:
        return
    most = int(limit_s / round_s(asked.n)) - 1
    if most >= 1:
        field, remedy = "repeats", f"send at most {most}, or a smaller n"
    elif 2 * round_s(1) <= limit_s:
        field, remedy = "n", "send a smaller one"
    else:
        slowest = max(models, key=lambda model: len(model.plan)).id
        field, remedy = "models", f"leave out the slowest, {slowest}"
    shown = f"{all_s:.0f}" if all_s >= 10 else f"{all_s:.2g}"
    raise InvalidRequestError(
        f"{field}: a warm-up and {asked.repeats} round(s) of {asked.n} image(s) of these models take about {shown} s of the "
        f"device, more than the {limit_s:g} s that one comparison may take here; {remedy}.",
        field,
        "too_much_work",
    )
