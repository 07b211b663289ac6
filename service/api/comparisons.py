"""POST /v1/comparisons: the same noises through several models, and numbers a statistician accepts."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import numpy as np
from fastapi import APIRouter, Request, Response

from models.catalogue import Resolved, UnknownModelError
from models.image_metrics import psnr, ssim
from models.noise import MAX_SEED
from service.api.answers import Outcome, base64_of, image_body, outcome_of, timing_body, unless_client_leaves
from service.api.record import current_record
from service.api.stream import EVENT_STREAM, EventStream
from service.engine.request import Finished, ImageSpec
from service.features.comparison import LEAST_ROUNDS, Arrived, Comparison, Measured, Run, complete_rounds, device_s, speed_up
from service.features.encode import FileStyle
from service.features.errors import InvalidRequestError, NotFoundError
from service.features.generation import class_label_of, scale_of
from service.features.prompts import default_class
from service.features.service import Service, ServiceOf
from service.schema.comparisons import (
    Agreement,
    ComparisonCompleted,
    ComparisonEvent,
    ComparisonRequest,
    ComparisonResponse,
    ImageArrived,
    Interval,
    ModelResult,
    RequestMeasured,
    Spread,
)
from service.schema.images import ImageBody

router = APIRouter(tags=["comparisons"])

_METRIC = "comparison"  # the `model` label of a request that asks several


@router.post(
    "/v1/comparisons",
    response_model=ComparisonResponse,
    responses={200: {"content": {"text/event-stream": EVENT_STREAM}}},
    summary="Compare models",
)
async def compare(body: ComparisonRequest, request: Request, service: ServiceOf) -> ComparisonResponse | Response:
    """Every model makes the same images from the same noises, interleaved and in random order after a warm-up.

    The answer has per model its images, queueing and computing apart, medians and 95th percentiles, the speed-up over the
    reference with its bootstrap interval, and the agreement with the reference's images. With `stream` the events
    `comparison.image`, `comparison.measured` and at last `comparison.completed` tell how far it is.
    """
    comparing = Comparing(body, service)
    outcome = Outcome(service.metrics, _METRIC)
    try:
        for model in comparing.plan.models:  # rather than finding out in the middle
            service.require_loaded(model)
        run = Run(service.engine, comparing.plan, service.isolation)
        events = comparing.events(run)
        if body.stream:
            return EventStream(events, outcome, run.cancel)
        try:
            answer = await unless_client_leaves(_last(events), request)
        finally:
            run.cancel()
    except BaseException as error:
        outcome.end(outcome_of(error))
        raise
    outcome.end("ok")
    return answer


async def _last(events: AsyncGenerator[ComparisonEvent, None]) -> ComparisonResponse:
    """What the last event says, as the body of an answer."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, ComparisonCompleted):
                return ComparisonResponse.model_validate(event.model_dump(exclude={"type"}))
    raise AssertionError("a comparison ends by completing or raising")


class Comparing:
    """One request: what it means, and its events and numbers. Raises InvalidRequestError and UnknownModelError."""

    def __init__(self, body: ComparisonRequest, service: Service) -> None:
        self._body = body
        self._alone_s = service.isolation.seconds
        models = [_resolve(service, name, "models") for name in body.models]
        self._reference = _reference(body, models, service)
        _check(body, models, self._reference, service)
        _check_work(body, models, service)
        manifest = self._reference.entry.manifest
        scale = scale_of(body.size, manifest.image, service.settings.max_side)
        self._style = FileStyle(body.output_format, scale, body.output_compression)
        self._size = manifest.image.size(scale)
        label = class_label_of(body, manifest)
        seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
        images = tuple(
            ImageSpec(seed, index, default_class(seed, index, manifest) if label is None else label) for index in range(body.n)
        )
        self.plan = Comparison(tuple(models), images, body.repeats, seed, body.mode == "isolated")

    async def events(self, run: Run) -> AsyncGenerator[ComparisonEvent, None]:
        """The run as events, the last of them its summary."""
        images: dict[str, list[Finished]] = {model.id: [] for model in self.plan.models}
        bodies: dict[str, list[ImageBody]] = {model.id: [] for model in self.plan.models}
        measured: list[Measured] = []
        total, done = len(images) * (self._body.n + self._body.repeats), 0
        async with aclosing(run.events()) as happening:
            async for event in happening:
                done += 1
                if isinstance(event, Arrived):
                    body = await self._image(event)
                    images[event.model.id].append(event.image)
                    bodies[event.model.id].append(body)
                    place = event.image.position
                    yield ImageArrived(model=event.model.id, image_index=place, image=body, done=done, total=total)
                else:
                    measured.append(event)
                    yield RequestMeasured(
                        model=event.model.id,
                        round=event.round,
                        place=event.place,
                        timing=timing_body(event.timing),
                        done=done,
                        total=total,
                    )
        for of_model in bodies.values():
            of_model.sort(key=lambda body: body.index)
        yield await asyncio.to_thread(self._summary, images, bodies, measured)

    async def _image(self, event: Arrived) -> ImageBody:
        with current_record().encoding():
            file = await asyncio.to_thread(self._style.encode, event.image.pixels)
        return image_body(event.model, event.image, b64_json=base64_of(file))

    def _summary(
        self, images: dict[str, list[Finished]], bodies: dict[str, list[ImageBody]], measured: Sequence[Measured]
    ) -> ComparisonCompleted:
        rounds = complete_rounds(measured, len(self.plan.models))
        if rounds == 0:
            raise InvalidRequestError(
                f"mode: one round takes longer than the {self._alone_s:g} s that a comparison may have alone here; lower n, "
                "leave out the slowest model, or use concurrent.",
                "mode",
            )
        counted = [event for event in measured if event.round < rounds]
        return ComparisonCompleted(
            created=int(time.time()),
            mode=self._body.mode,
            reference=self._reference.id,
            seed=self.plan.seed,
            n=self._body.n,
            repeats=self._body.repeats,
            rounds=rounds,
            note=_note(rounds, self._body.repeats),
            size=self._size,
            output_format=self._style.image_format,
            results=[self._result(model, images, bodies[model.id], counted) for model in self.plan.models],
        )

    def _result(
        self, model: Resolved, images: dict[str, list[Finished]], bodies: list[ImageBody], measured: Sequence[Measured]
    ) -> ModelResult:
        manifest, reference = model.entry.manifest, self._reference.id
        timings = [event.timing for event in measured if event.model.id == model.id]
        reference_s = [event.timing.total_s for event in measured if event.model.id == reference]
        faster = agreement = None
        if model.id != reference:
            value, interval = speed_up(reference_s, [timing.total_s for timing in timings], self.plan.seed)
            low, high = interval or (None, None)
            faster = Interval(value=value, low=low, high=high)
            agreement = _agreement(images[model.id], images[reference])
        return ModelResult(
            model=model.id,
            kind=manifest.kind,
            steps=len(model.plan),
            images=bodies,
            queue_s=_spread([timing.queue_s for timing in timings]),
            compute_s=_spread([timing.compute_s for timing in timings]),
            total_s=_spread([timing.total_s for timing in timings]),
            samples=[timing_body(timing) for timing in timings],
            speed_up=faster,
            agreement=agreement,
            quality=manifest.quality.get(f"{model.sampler}-{len(model.plan):03d}"),
        )


def _resolve(service: Service, name: str, field: str) -> Resolved:
    """Service.resolve, naming the field of a comparison."""
    try:
        return service.resolve(name)
    except UnknownModelError as error:
        raise NotFoundError(str(error), field, "model_not_found") from error


def _reference(body: ComparisonRequest, models: Sequence[Resolved], service: Service) -> Resolved:
    """The model that the others are held to. Raises InvalidRequestError when it is not among them."""
    if body.reference is None:
        return max(models, key=lambda model: len(model.plan))
    wanted = _resolve(service, body.reference, "reference")
    if wanted.id not in [model.id for model in models]:
        raise InvalidRequestError(f"reference: {wanted.id} is not among the models; add it to them.", "reference")
    return wanted


def _check(body: ComparisonRequest, models: Sequence[Resolved], reference: Resolved, service: Service) -> None:
    """Raises InvalidRequestError for a comparison that makes no sense here."""
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
    most = service.settings.max_n
    if body.n > most:
        raise InvalidRequestError(f"n: at most {most} images of each model, got {body.n}.", "n")
    if body.mode == "isolated" and not service.settings.isolated_s:
        raise InvalidRequestError(
            "mode: isolated comparisons are switched off here; use concurrent, or set SFDDM_ISOLATED_S on the server.", "mode"
        )


def _check_work(body: ComparisonRequest, models: Sequence[Resolved], service: Service) -> None:
    """Raises InvalidRequestError, naming the field that helps most, for more device seconds than a comparison may take."""

    def round_s(images: int) -> float:
        return sum(device_s(service.engine.models[m.entry.id].step_ms, len(m.plan), images) for m in models)

    limit_s, all_s = service.settings.max_comparison_s, (1 + body.repeats) * round_s(body.n)
    if all_s <= limit_s:
        return
    most = int(limit_s / round_s(body.n)) - 1
    if most >= 1:
        field, remedy = "repeats", f"send at most {most}, or a smaller n"
    elif 2 * round_s(1) <= limit_s:
        field, remedy = "n", "send a smaller one"
    else:
        slowest = max(models, key=lambda model: len(model.plan)).id
        field, remedy = "models", f"leave out the slowest, {slowest}"
    shown = f"{all_s:.0f}" if all_s >= 10 else f"{all_s:.2g}"
    raise InvalidRequestError(
        f"{field}: a warm-up and {body.repeats} round(s) of {body.n} image(s) of these models take about {shown} s of the "
        f"device, more than the {limit_s:g} s that one comparison may take here; {remedy}.",
        field,
        "too_much_work",
    )


def _note(rounds: int, repeats: int) -> str | None:
    """What limits the numbers of so many measured rounds."""
    notes = []
    if rounds < repeats:
        notes.append(f"Time alone was up after {rounds} of {repeats} rounds.")
    if rounds < LEAST_ROUNDS:
        notes.append(f"{rounds} round(s) are too few for an interval of the speed-up; {LEAST_ROUNDS} are the fewest.")
    return " ".join(notes) or None


def _spread(seconds: Sequence[float]) -> Spread:
    median, p95 = np.quantile(seconds, [0.5, 0.95])
    return Spread(median=float(median), p95=float(p95))


def _agreement(images: Sequence[Finished], reference: Sequence[Finished]) -> Agreement:
    ours, theirs = (
        np.stack([image.pixels for image in sorted(of_model, key=lambda image: image.position)])
        for of_model in (images, reference)
    )
    return Agreement(psnr_db=float(psnr(ours, theirs).mean()), ssim=float(ssim(ours, theirs).mean()))
