"""The timing of a request, from the timings of its images."""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.request import Finished, Timing


def slowest(images: Sequence[Finished]) -> Timing:
    """Return the timing of a request: it lasts as long as its slowest image, and its mean batch is the images' mean.

    Recalled images, whose times are zero, count only if all images were recalled.
    """
    timings = [image.timing for image in images if not image.cached] or [image.timing for image in images]
    return Timing(
        queue_s=max(timing.queue_s for timing in timings),
        compute_s=max(timing.compute_s for timing in timings),
        total_s=max(timing.total_s for timing in timings),
        mean_batch=sum(timing.mean_batch for timing in timings) / len(timings),
        estimated_s=timings[0].estimated_s,
    )
