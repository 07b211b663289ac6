"""The numbers of a comparison: spreads, the speed-up with its interval, agreement of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Resolved
from models.image_metrics import psnr, ssim
from models.manifest import Quality
from service.engine.request import Finished, Timing
from service.features.comparison.run import Comparison, Measured
from service.features.errors import InvalidRequestError
from service.features.statistics import ConfidenceInterval

_RESAMPLES = 2000  # the rounds are few, so resamples cost little
LEAST_ROUNDS = 6  # n measurements enclose the true median with probability 1 - 2/2**n: 97 % for 6, 94 % for 5


@dataclass(frozen=True)
class Spread:
    """Seconds over the measured rounds."""

    median: float
    p95: float


@dataclass(frozen=True)
class ImageAgreement:
    """Mean over the images of PSNR in dB and of SSIM, against the reference's images."""

    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class ComparedModel:
    """One model's part of a comparison.

    images      images of the warm-up with their files, in order
    samples     timing of each round, in order
    speed_up    median total seconds, reference over model; None for the reference
    agreement   with the reference's images; None for the reference
    quality     measured when the model was made, for this plan; None when it was not
    """

    model: Resolved
    images: Sequence[tuple[Finished, bytes]]
    samples: Sequence[Timing]
    queue: Spread
    compute: Spread
    total: Spread
    speed_up: ConfidenceInterval | None
    agreement: ImageAgreement | None
    quality: Quality | None


@dataclass(frozen=True)
class ComparisonSummary:
    """The result of a comparison. rounds: complete rounds. note: the limits of the numbers, such as too few rounds."""

    comparison: Comparison
    rounds: int
    note: str | None
    results: Sequence[ComparedModel]


def summarise(
    comparison: Comparison,
    images: Mapping[str, Sequence[tuple[Finished, bytes]]],
    measured: Sequence[Measured],
    *,
    alone_s: float,
) -> ComparisonSummary:
    """Summarise a comparison that has been run. images: those of the warm-up with their files, by model id.

    alone_s: device seconds that an isolated comparison had. Raises InvalidRequestError when they were too few for a round.
    """
    rounds = complete_rounds(measured, len(comparison.models))
    if rounds == 0:
        raise InvalidRequestError(
            f"mode: one round takes longer than the {alone_s:g} s that a comparison may have alone here; lower n, "
            "leave out the slowest model, or use concurrent.",
            "mode",
        )
    ordered = {name: sorted(found, key=lambda pair: pair[0].position) for name, found in images.items()}
    samples: dict[str, list[Timing]] = {model.id: [] for model in comparison.models}
    for event in measured:
        if event.round < rounds:
            samples[event.model.id].append(event.timing)
    results = [_compared(comparison, model, ordered, samples) for model in comparison.models]
    return ComparisonSummary(comparison, rounds, _note(rounds, comparison.repeats), results)


def _compared(
    comparison: Comparison,
    model: Resolved,
    images: Mapping[str, Sequence[tuple[Finished, bytes]]],
    samples: Mapping[str, Sequence[Timing]],
) -> ComparedModel:
    reference, timings = comparison.reference.id, samples[model.id]
    totals_s = [timing.total_s for timing in timings]
    faster = agreement = None
    if model.id != reference:
        reference_s = [timing.total_s for timing in samples[reference]]
        faster = speed_up(reference_s=reference_s, model_s=totals_s, seed=comparison.seed)
        agreement = _agreement([image for image, _ in images[model.id]], [image for image, _ in images[reference]])
    return ComparedModel(
        model=model,
        images=images[model.id],
        samples=timings,
        queue=_spread([timing.queue_s for timing in timings]),
        compute=_spread([timing.compute_s for timing in timings]),
        total=_spread(totals_s),
        speed_up=faster,
        agreement=agreement,
        quality=model.entry.manifest.quality.get(f"{model.sampler}-{len(model.plan):03d}"),
    )


def _note(rounds: int, repeats: int) -> str | None:
    """Name the limits of the numbers after `rounds` measured rounds, or return None."""
    notes = []
    if rounds < repeats:
        notes.append(f"The time without other work was used up after {rounds} of {repeats} rounds.")
    if rounds < LEAST_ROUNDS:
        notes.append(f"{rounds} round(s) are too few for an interval of the speed-up; {LEAST_ROUNDS} are needed.")
    return " ".join(notes) or None


def _spread(seconds: Sequence[float]) -> Spread:
    median, p95 = np.quantile(seconds, [0.5, 0.95])
    return Spread(median=float(median), p95=float(p95))


def _agreement(images: Sequence[Finished], reference: Sequence[Finished]) -> ImageAgreement:
    """Compare images with the reference's, both in order."""
    ours, theirs = (np.stack([image.pixels for image in of_model]) for of_model in (images, reference))
    return ImageAgreement(psnr_db=float(psnr(ours, theirs).mean()), ssim=float(ssim(ours, theirs).mean()))


def complete_rounds(measured: Sequence[Measured], models: int) -> int:
    """Count the rounds that have every model in them. A last round that was cut short does not count."""
    return len(measured) // models


def device_s(step_ms: Mapping[int, float], steps: int, images: int) -> float:
    """Estimate the device seconds of one request for `images` images, in the largest batches that were calibrated.

    step_ms: batch size -> milliseconds of one step, as calibrated. The estimate is 0 when it is empty.
    """
    if not step_ms:
        return 0.0
    full, rest = divmod(images, max(step_ms))
    rest_ms = step_ms[min(size for size in step_ms if size >= rest)] if rest else 0.0
    return steps * (full * step_ms[max(step_ms)] + rest_ms) / 1000


def speed_up(*, reference_s: Sequence[float], model_s: Sequence[float], seed: int) -> ConfidenceInterval:
    """Return median(reference) / median(model) from the seconds of the same rounds.

    The interval is a bootstrap over rounds: the two times of a round are drawn together, because a disturbance that slowed one
    of them slowed the other. There is no interval for fewer than LEAST_ROUNDS rounds.
    """
    pairs: NDArray[np.float64] = np.array([reference_s, model_s], dtype=np.float64)
    middle = np.median(pairs, axis=1)
    ratio = float(middle[0] / middle[1])
    if pairs.shape[1] < LEAST_ROUNDS:
        return ConfidenceInterval.of(ratio, None)
    draws = np.random.default_rng(seed).integers(0, pairs.shape[1], (_RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, draws], axis=2)
    return ConfidenceInterval.of(ratio, medians[0] / medians[1])
