"""Admission: which requests are taken, and which model an `auto` request gets. Pure: it reads the scheduler.

The rule: a request is refused while the work already admitted to its own lane (its model, its class) would take longer than
max_backlog_s, given the share of the device that the lane gets beside the other lanes' admitted work. So a backlog of
teacher images does not shut out students, whose lane is short and which fair sharing lets pass; a request that alone is
longer than the limit is taken when its lane is empty, since refusing it would refuse it for ever; and each lane holds at most
the limit and one request. Admitted work counts from the moment of its admission, so requests that arrive together cannot
all be promised the same idle device. The time to retry is the estimated time until the lane's work is within the limit.

A latency limit makes it a promise: a request is taken only if its estimated completion, standing behind everything that its
lane holds, is within the limit, and if it makes no row late that was promised and is in time, whose steps it would lengthen,
which it would overtake or whose share of the device it would take. Rows run earliest deadline first. Requests without a limit
are not refused for the sake of promises, so they can still make one late: sfddm_deadlines_total counts what is met and missed.
Images that are to have the device for themselves (an isolated comparison's) are refused for the sake of promises too.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.catalogue import Resolved
from service.engine.request import LatencyError, OverloadedError
from service.engine.scheduler import ALONE, Scheduler

# The share of its limit that `auto` aims for first; where requests hardly ever meet, it leaves this share to who may join.
# Without it the first arrivals take the whole limit for quality and the next ones find no room: tried by changing this number
# under benchmarks/fleet.py, auto within 1 s.
HEADROOM = 0.3
_FORGOTTEN_S = 7.0  # after so long half of what was expected to keep arriving is forgotten
_SAME_SIZE = 1.02  # networks that differ in the length of their label tables only


def check_backlog(scheduler: Scheduler, model: Resolved, limit_s: float, now_s: float, *, flex: bool) -> None:
    """Raise OverloadedError when the model's lane holds more than limit_s of work."""
    wait_s = scheduler.wait_s(model.entry.key, flex=flex, now_s=now_s)
    if wait_s > limit_s:
        raise OverloadedError(
            f"The work waiting for {model.entry.id} takes about {_seconds(wait_s)}, more than the {limit_s:g} s allowed; "
            f"try again in {_seconds(wait_s - limit_s)}.",
            wait_s - limit_s,
        )


def check_exclusive(scheduler: Scheduler, model: Resolved, images: int, seconds: float, now_s: float) -> None:
    """Raise OverloadedError unless `images` images may have the device for themselves now, for `seconds` at most.

    Not while other images have it, and not while that would break a promise.
    """
    needed_s = min(seconds, scheduler.alone_s(model.entry.key, images, len(model.plan)))
    left_s = scheduler.exclusive_left_s
    if left_s or scheduler.delay_breaks_promise(needed_s, now_s):
        raise OverloadedError("Other work has been promised the device; try again in a moment.", left_s or needed_s)


def choose(
    scheduler: Scheduler,
    models: Sequence[Resolved],
    images: int,
    max_latency_s: float,
    limit_s: float,
    now_s: float,
    *,
    flex: bool,
) -> Resolved:
    """The first of `models`, best first, whose estimated completion of `images` images fits max_latency_s.

    One that fits with headroom comes before one that only just fits: it can be kept when others join, and leaves them room.
    One that another of them dominates is never chosen, whatever is estimated.
    Raises OverloadedError when none is now but one would be later, LatencyError when none is even on an idle device.
    """
    models = undominated(models)
    expected = [scheduler.completion_s(model.entry.key, images, len(model.plan), flex=flex, now_s=now_s) for model in models]
    share = 1 - HEADROOM if not scheduler and scheduler.company < ALONE else HEADROOM
    deadline_s = now_s + min(max_latency_s, limit_s)
    for within_s in (share * max_latency_s, max_latency_s):
        for model, expected_s in zip(models, expected, strict=True):
            key, steps = model.entry.key, len(model.plan)
            if (
                expected_s <= within_s
                and scheduler.wait_s(key, flex=flex, now_s=now_s) <= limit_s
                and not scheduler.breaks_promise(key, images, steps, now_s, deadline_s=deadline_s, flex=flex)
            ):
                return model
    at_best = [scheduler.at_best_s(model.entry.key, images, len(model.plan)) for model in models]
    retry_s = []
    for model, expected_s, least_s in zip(models, expected, at_best, strict=True):
        if least_s <= max_latency_s:
            key, steps = model.entry.key, len(model.plan)
            wait_s = max(expected_s - max_latency_s, scheduler.wait_s(key, flex=flex, now_s=now_s) - limit_s)
            if not scheduler or scheduler.completion_s(key, images, steps, flex=flex) <= max_latency_s:
                wait_s = max(wait_s, _FORGOTTEN_S)  # no work stands in the way, but what is remembered, or a promise
            retry_s.append(wait_s)
    if retry_s:
        raise OverloadedError(
            f"With the work that is waiting and keeps arriving, {images} image(s) within {1000 * max_latency_s:g} ms cannot be "
            f"promised; try again in {_seconds(min(retry_s))} or allow more time.",
            min(retry_s),
        )
    raise LatencyError(
        f"{images} image(s) take at least {1000 * min(at_best):.0f} ms"
        + (f" with {models[0].id}" if len(models) == 1 else " with the fastest model")
        + f", more than the {1000 * max_latency_s:g} ms allowed; allow more, ask for fewer images or name a faster model."
    )


def undominated(models: Sequence[Resolved]) -> list[Resolved]:
    """The models, best first, without those that take as many evaluations of as large a network as a better one, or more.

    Such a one could only seem faster, by noise or because its lane is empty; its lane would share no batch with the others'.
    """
    kept: list[Resolved] = []
    for model in models:
        steps, size = len(model.plan), _SAME_SIZE * model.entry.manifest.parameters
        if not any(len(better.plan) <= steps and better.entry.manifest.parameters <= size for better in kept):
            kept.append(model)
    return kept


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
