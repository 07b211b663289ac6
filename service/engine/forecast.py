"""The forecast: estimate the time that work will take, and find the promises that it would break. Pure: it reads the scheduler.

Three kinds of answers:

    estimates   completion_s, wait_s, longest_wait_s, alone_s, at_best_s, backlog_s, exclusive_left_s
    promises    breaks_promise, delay_breaks_promise
    traffic     idle, overlap

Estimates assume weighted processor sharing. Until a lane of weight w has had `own_s` seconds of the device, another lane i of
weight w_i has had the smaller of its backlog and (w_i / w) own_s. Debts count as work. Since steps are not divisible, up to
one step of lane i comes on top. Rows that run exclusively come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from math import inf
from types import MappingProxyType

from service.engine.lane import Lane, Promise
from service.engine.scheduler import Scheduler

OVERLAP = 0.05  # requests count as arriving one after the other while fewer than this share of them overlap
_ROUNDING_S = 1e-6  # work that just fits its deadline must still fit after rounding
_MAX_PASSES = 6  # corrections of an estimate for the work that arrives meanwhile
_CONVERGED = 1.01  # stop when a pass changes the estimate by less than 1 %
_TIGHTEST = 8  # promised rows of a lane to check, of each of two kinds: checking all would take too long


class Forecast:
    """Estimates waiting times and finds promises in danger. Nothing here changes what the scheduler decides."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    # Traffic

    @property
    def idle(self) -> bool:
        """True while no row is admitted."""
        return not self._scheduler

    @property
    def overlap(self) -> float:
        """Share of recent requests that arrived while others were in progress."""
        return self._scheduler.demand.overlap

    # Estimates

    def backlog_s(self) -> float:
        """Estimate the device seconds of everything admitted."""
        return sum(lane.backlog_s for lane in self._scheduler.ring)

    def wait_s(self, model: str, *, flex: bool = False, now_s: float | None = None) -> float:
        """Estimate the seconds until the rows that the lane holds now are done, given fair shares. 0 without rows.

        now_s: clock reading; with it the other lanes' work is expected to keep arriving as it has of late.
        """
        lane = self._scheduler.lane(model, flex=flex)
        return self._expected_s(lane, lane.backlog_s, 0, now_s) if lane else 0.0

    def longest_wait_s(self, now_s: float | None = None) -> float:
        """Return the longest wait_s of the lanes that are not flex."""
        return max((self.wait_s(lane.model, now_s=now_s) for lane in self._scheduler.ring if not lane.flex), default=0.0)

    def completion_s(self, model: str, *, rows: int, steps: int, flex: bool = False, now_s: float | None = None) -> float:
        """Estimate the seconds until `rows` new rows of `steps` steps each would be done, behind all others of their lane.

        The estimate is rather too long than too short: the other lanes' steps in between are counted up to the scheduler's
        bound.
        now_s: clock reading; with it the other lanes' work is expected to keep arriving as it has of late.
        """
        lane = self._scheduler.lane(model, flex=flex)
        if now_s is not None:
            lane.costs.fade(now_s)
        own_s = lane.finish_s(rows, steps, running=lane is self._scheduler.running)
        return self._expected_s(lane, own_s, 1, now_s)

    def alone_s(self, model: str, *, rows: int, steps: int) -> float:
        """Estimate the seconds of `rows` rows of `steps` steps each on an idle device, at the speed that it has now."""
        return self._scheduler.lane(model).alone_s(rows, steps)

    def at_best_s(self, model: str, *, rows: int, steps: int) -> float:
        """Estimate the seconds of `rows` rows of `steps` steps each on an idle device, at the speed of its calibration."""
        return self._scheduler.lane(model).at_best_s(rows, steps)

    @property
    def exclusive_left_s(self) -> float:
        """Estimated seconds until no row runs exclusively any more. 0 while none does."""
        if self._scheduler.exclusive is None:
            return 0.0
        lane, rows, seconds = self._scheduler.exclusive
        return min(seconds, lane.alone_s(len(rows), max(lane.steps_left(row) for row in rows)))

    # Promises

    def breaks_promise(
        self, model: str, *, rows: int, steps: int, now_s: float, deadline_s: float = inf, flex: bool = False
    ) -> bool:
        """Return True if `rows` new rows of this deadline would make a promised row late that is in time without them.

        New rows delay others in three ways:

        - they lengthen the steps of their own lane;
        - they run before the rows of their lane that have later deadlines;
        - they take a share of the device from the other lanes.

        A row that is late by no more than the round robin's rounding counts as in time, and must not become later.
        now_s: clock reading.
        """
        joined = self._scheduler.lane(model, flex=flex)
        more = {joined: joined.alone_s(rows, steps)}
        for lane in self._scheduler.ring:
            promises = lane.promises(rows, steps, deadline_s) if lane is joined else lane.promises()
            for promise in self._tightest(lane, promises):
                left_s = promise.deadline_s - now_s
                before_s = self._shared_s(lane, promise.before_s, steps=1)
                after_s = self._shared_s(lane, promise.after_s, steps=1, more=more, newcomers=rows)
                if before_s <= left_s + self._rounding_s(lane) and after_s > max(left_s, before_s) + _ROUNDING_S:
                    return True
        return False

    def delay_breaks_promise(self, seconds: float, now_s: float) -> bool:
        """Return True if a pause of so many seconds would make a promised row late that is in time without it."""
        for lane in self._scheduler.ring:
            for promise in self._tightest(lane, lane.promises()):
                expected_s = now_s + self._shared_s(lane, promise.before_s, steps=1)
                if expected_s <= promise.deadline_s + _ROUNDING_S and promise.deadline_s < expected_s + seconds:
                    return True
        return False

    def _rounding_s(self, lane: Lane) -> float:
        """Return the seconds by which the round robin may be late for a lane: 2 Q w_i for each other lane i."""
        others = sum(other.weight for other in self._scheduler.ring if other is not lane)
        return _ROUNDING_S + 2 * self._scheduler.quantum_s * others

    def _tightest(self, lane: Lane, promises: Sequence[Promise]) -> Sequence[Promise]:
        """Return the promises with the least time to spare: when they hold, the others hold.

        The result depends on the speed of the lane. So take the tightest promises of both extreme cases: the lane has the
        device to itself, and every other lane takes its share.
        """
        if len(promises) <= 2 * _TIGHTEST:
            return promises
        busy = sum(other.weight for other in self._scheduler.ring) / lane.weight
        return [
            promise
            for slower in (1.0, busy)
            for promise in nsmallest(_TIGHTEST, promises, key=lambda p, slower=slower: p.deadline_s - slower * p.after_s)  # type: ignore[misc]
        ]

    # Shared time

    def _expected_s(self, lane: Lane, own_s: float, steps: int, now_s: float | None) -> float:
        """Estimate _shared_s, with the work that the other lanes receive in the meantime at their recent rates.

        While requests arrive one after the other (see OVERLAP), no such work is expected: a client that waits for each answer
        before it sends the next request does not delay its own request.
        """
        total_s = self._shared_s(lane, own_s, steps=steps)
        rates = {} if now_s is None else self._scheduler.demand.rates(now_s)
        rates.pop(lane, None)
        for _ in range(_MAX_PASSES if rates and self.overlap >= OVERLAP else 0):
            before_s, more = total_s, {other: rate * total_s for other, rate in rates.items()}
            total_s = self._shared_s(lane, own_s, steps=steps, more=more)
            if total_s <= _CONVERGED * before_s:
                break
        return total_s

    def _shared_s(
        self,
        lane: Lane,
        own_s: float,
        *,
        steps: int,
        more: Mapping[Lane, float] = MappingProxyType({}),
        newcomers: int = 0,
    ) -> float:
        """Return the seconds until a lane has had own_s of the device, while every other lane with work takes its share.

        steps: steps of each other lane that come on top of its share, since steps are not divisible.
        more: seconds of work to add to lanes, as if it were there. newcomers: rows by which this work widens their steps.
        """
        rounds_s = (own_s - min(lane.credit_s, 0.0)) / lane.weight
        total_s = own_s + self.exclusive_left_s
        for other in dict.fromkeys((*self._scheduler.ring, *more)):
            if other is not lane:
                step_s = other.step_s(newcomers if other in more else 0)
                share_s = other.weight * rounds_s + min(other.credit_s, 0.0) + steps * step_s
                total_s += min(other.backlog_s + more.get(other, 0.0), max(0.0, share_s))
        return total_s
