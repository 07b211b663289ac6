"""Admission: which requests are taken, and which model an `auto` request gets. Pure: it reads the forecast.

The backlog. A request is refused while the work already admitted to its own lane (its model, its class) would take longer
than max_backlog_s, given the share of the device that the lane gets beside the other lanes' admitted work. Consequences:

- A backlog of teacher images does not shut out students: their lane is short, and fair sharing lets it pass.
- A request that alone is longer than the limit is taken when its lane is empty. Otherwise it would be refused for ever.
- Each lane holds at most the limit and one request.

Work counts from the moment of its admission, so requests that arrive together are not all promised the same idle device. The
time to retry is the estimated time until the lane's work is within the limit.

Promises. A request with a latency limit is a promise. It is taken only under two conditions:

- its estimated completion, behind everything that its lane holds, is within the limit;
- it makes no promised row late that is in time now. New rows can delay a promised row in three ways: they lengthen its steps,
  run before it, or take a share of the device from its lane.

Rows run earliest deadline first. A request without a limit is never refused for the sake of a promise, so it can make one
late; sfddm_deadlines_total counts the promises met and missed. Images that are to run exclusively (an isolated comparison's)
are refused when they would break a promise.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.catalogue import Resolved
from service.engine.forecast import OVERLAP, Forecast
from service.engine.request import LatencyError, OverloadedError

# `auto` first looks for a model that needs at most this share of the latency limit. If the first requests used their whole
# limit for quality, later ones would find no room beside them. On an idle device whose requests hardly ever overlap, the
# share is 1 - FIRST_SHARE. The value comes from runs of benchmarks/fleet.py with auto within 1 s.
FIRST_SHARE = 0.3
_FORGOTTEN_S = 7.0  # without new work, the demand of a lane falls to half in this time (demand.py)
_SAME_SIZE = 1.02  # networks whose sizes are within 2 % are alike: they differ in the length of their label tables only


class Admission:
    """Decides about requests, given the forecast at this moment."""

    def __init__(self, forecast: Forecast, max_backlog_s: float) -> None:
        """max_backlog_s: most seconds of work that a lane may hold when another request is taken."""
        self._forecast = forecast
        self._max_backlog_s = max_backlog_s

    def check_backlog(self, model: Resolved, now_s: float, *, flex: bool) -> None:
        """Raise OverloadedError when the model's lane holds more work than the limit."""
        wait_s = self._forecast.wait_s(model.entry.key, flex=flex, now_s=now_s)
        over_s = wait_s - self._max_backlog_s
        if over_s > 0:
            raise OverloadedError(
                f"The work waiting for {model.entry.id} takes about {_seconds(wait_s)}, more than the "
                f"{self._max_backlog_s:g} s allowed; try again in {_seconds(over_s)}.",
                over_s,
            )

    def check_exclusive(self, model: Resolved, *, images: int, seconds: float, now_s: float) -> None:
        """Raise OverloadedError unless `images` images may run exclusively now, for `seconds` at most.

        Refuses while other images run exclusively, and when the exclusive run would break a promise.
        """
        needed_s = min(seconds, self._forecast.alone_s(model.entry.key, rows=images, steps=len(model.plan)))
        left_s = self._forecast.exclusive_left_s
        if left_s or self._forecast.delay_breaks_promise(needed_s, now_s):
            raise OverloadedError("Other work has been promised the device; try again in a moment.", left_s or needed_s)

    def choose(self, models: Sequence[Resolved], *, images: int, max_latency_s: float, now_s: float, flex: bool) -> Resolved:
        """Return the first of `models`, best first, whose estimated completion of `images` images fits max_latency_s.

        A model that fits with headroom comes before a better one that only just fits: its promise can be kept when others
        join, and it leaves them room. A model that another one dominates is never chosen, whatever is estimated.
        Raises OverloadedError when no model fits now but one would later, LatencyError when none fits on an idle device.
        """
        forecast, models = self._forecast, undominated(models)
        expected = [
            forecast.completion_s(model.entry.key, rows=images, steps=len(model.plan), flex=flex, now_s=now_s)
            for model in models
        ]
        share = 1 - FIRST_SHARE if forecast.idle and forecast.overlap < OVERLAP else FIRST_SHARE
        for within_s in (share * max_latency_s, max_latency_s):
            for model, expected_s in zip(models, expected, strict=True):
                if expected_s <= within_s and self._has_room(
                    model, images=images, max_latency_s=max_latency_s, now_s=now_s, flex=flex
                ):
                    return model
        at_best = [forecast.at_best_s(model.entry.key, rows=images, steps=len(model.plan)) for model in models]
        retries_s = [
            self._retry_s(model, images=images, max_latency_s=max_latency_s, expected_s=expected_s, now_s=now_s, flex=flex)
            for model, expected_s, best_s in zip(models, expected, at_best, strict=True)
            if best_s <= max_latency_s
        ]
        if retries_s:
            raise OverloadedError(
                f"With the work that is waiting and keeps arriving, {images} image(s) within {1000 * max_latency_s:g} ms "
                f"cannot be promised; try again in {_seconds(min(retries_s))} or allow more time.",
                min(retries_s),
            )
        raise LatencyError(
            f"{images} image(s) take at least {1000 * min(at_best):.0f} ms"
            + (f" with {models[0].id}" if len(models) == 1 else " with the fastest model")
            + f", more than the {1000 * max_latency_s:g} ms allowed; allow more, ask for fewer images or name a faster model."
        )

    def _has_room(self, model: Resolved, *, images: int, max_latency_s: float, now_s: float, flex: bool) -> bool:
        """Return True if the model's lane is within the backlog limit and the images would break no promise."""
        forecast, key, steps = self._forecast, model.entry.key, len(model.plan)
        if forecast.wait_s(key, flex=flex, now_s=now_s) > self._max_backlog_s:
            return False
        deadline_s = now_s + min(max_latency_s, self._max_backlog_s)
        return not forecast.breaks_promise(key, rows=images, steps=steps, now_s=now_s, deadline_s=deadline_s, flex=flex)

    def _retry_s(
        self, model: Resolved, *, images: int, max_latency_s: float, expected_s: float, now_s: float, flex: bool
    ) -> float:
        """Estimate the seconds until a model that does not fit now would fit."""
        forecast, key = self._forecast, model.entry.key
        backlog_s = forecast.wait_s(key, flex=flex, now_s=now_s)
        retry_s = max(expected_s - max_latency_s, backlog_s - self._max_backlog_s)
        if forecast.idle or forecast.completion_s(key, rows=images, steps=len(model.plan), flex=flex) <= max_latency_s:
            return max(retry_s, _FORGOTTEN_S)  # the obstacle is not admitted work, but remembered demand or a promise
        return retry_s


def undominated(models: Sequence[Resolved]) -> list[Resolved]:
    """Return the models, best first, without those that a better one dominates.

    A better model dominates when its network is no larger and its plan no longer. The dominated one could only seem faster,
    by noise or because its lane is empty, and its lane would share no batch with the others'.
    """
    kept: list[Resolved] = []
    for model in models:
        steps, size = len(model.plan), _SAME_SIZE * model.entry.manifest.parameters
        if not any(len(better.plan) <= steps and better.entry.manifest.parameters <= size for better in kept):
            kept.append(model)
    return kept


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
