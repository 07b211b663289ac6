"""The scheduler: which rows run in the next step. Pure decisions: no I/O, no clock, no threads, no tensors.

A row is one image on its way through a plan; here it is a number with some steps left and a deadline. Rows of one model
share weights and therefore batches, whatever their requests, step counts and samplers. Each model has two lanes, one for
interactive rows and one for flex rows (work that can wait), and a step is one batch of one lane:

    inside a lane   earliest deadline, then age, up to the lane's largest bucket (lane.py)
    between lanes   weighted deficit round robin (Shreedhar & Varghese 1995), charged in measured device seconds: every
                    visit gives a lane one quantum times its weight of credit, a lane with credit runs one batch, and what
                    it really took is charged afterwards. Debt stays with a lane that has run out of rows; credit does not.

The quantum Q is the smallest calibrated step / weight of all models: a constant, small enough that no lane's share is lost
to rounding. A flex lane has FLEX_SHARE of its model's weight: it takes what the others leave idle, the places that an
interactive batch of its model would only fill with padding, and at least its small share when nothing is idle.

The bound, with s the longest step and w the weight of a lane: between finding work, or its last step, and its next step, a
lane m waits, for each other lane i, no longer than

    s_i + (w_i / w_m) s_m + 2 Q w_i   seconds of i's steps, and no more than one step of i where s_i / w_i > s_m / w_m + Q.

A lane that finds work and has no debt waits for at most one step of each other lane. So no lane starves, and a student
beside a teacher waits for one step of the teacher at a time, which max_step_ms caps.
Proof: m runs as soon as its credit is above 0. It starts with a debt of at most s_m, so the quanta granted until then sum
up to at most s_m / w_m + Q. Lanes are visited in turn, so i is granted w_i times that; it holds at most Q w_i before, and
overdraws its credit by less than one step, since it only runs with credit above 0.

Where single rows of several models run at the same time as quickly as one (the cores of a CPU), a batch with fewer rows than
that takes rows of other lanes beside it, which ride for nothing: the device would idle there. They take steps that nobody
else could have had, so the bound holds as it stands, where a step takes as long as the slowest row beside it.

Rows can be given the device for themselves (run_exclusively), for a bounded number of device seconds. These come on top of
the bound, once. They are charged like any others, so afterwards their lane waits until the others have had their shares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from math import floor, inf
from types import MappingProxyType

from service.engine.costs import StepCosts
from service.engine.lane import Lane, Promise

FLEX_SHARE = 0.05
_COMPANY_MEMORY = 0.1  # weight of the newest request in `company`
ALONE = 0.05  # of the last requests, met another: fewer count as none
_ROUNDING_S = 1e-6  # what just fits a deadline still does after rounding
_LITTLE = 0.001  # a demand of no account
_FORESEEN, _SETTLED = 6, 1.01  # times that an estimate is corrected for what arrives until then, unless it changes less
_TIGHTEST = 8  # promised rows of a lane that are looked at of each kind


@dataclass(frozen=True)
class Batch:
    """Rows of one model that run together for one step. flex: the lane that is charged is the model's flex lane."""

    model: str
    rows: tuple[int, ...]
    flex: bool = False


class Scheduler:
    """Decides at every step boundary. The caller executes: schedule, run the batch, charge, advance."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._lane_of: dict[int, Lane] = {}
        self._ring: deque[Lane] = deque()  # lanes with rows or debt; the head is visited next
        self._quanta_s: dict[str, float] = {}  # seconds of a single row's step over the weight, by model
        self._quantum_s = inf  # the smallest of them
        self._demanding: dict[Lane, None] = {}  # lanes that have run of late, whose work is expected to keep arriving
        self._running: Lane | None = None  # between schedule and charge
        self._exclusive: list[int] = []  # rows of one lane; nothing else runs while there are any
        self._exclusive_s = 0.0  # how long at most
        self.company = 0.0  # the share of the last requests that met others: about the utilisation, of Poisson arrivals

    def __len__(self) -> int:
        """Rows admitted and not finished."""
        return len(self._lane_of)

    def __contains__(self, row: int) -> bool:
        return row in self._lane_of

    def add_model(self, model: str, costs: StepCosts, weight: float = 1.0, abreast: int = 1) -> None:
        """Open the model's lanes. weight: its share of the device relative to the other models' with work.

        abreast: how many rows of it and other such models the device steps at the same time as quickly as one.
        """
        self._quanta_s[model] = costs.seconds(1) / weight
        self._quantum_s = min(self._quanta_s.values())
        self._lanes[model, False] = Lane(model, costs, weight, abreast=abreast)
        self._lanes[model, True] = Lane(model, costs, weight * FLEX_SHARE, flex=True, abreast=abreast)

    def remove_model(self, model: str) -> None:
        """Close the lanes of a model that has no rows any more."""
        for flex in (False, True):
            lane = self._lanes.pop((model, flex))
            self._demanding.pop(lane, None)
            if lane in self._ring:
                self._ring.remove(lane)
        del self._quanta_s[model]
        self._quantum_s = min(self._quanta_s.values(), default=inf)

    def admit(
        self,
        model: str,
        rows: Iterable[int],
        steps: int,
        *,
        deadline_s: float = inf,
        promised_s: float | None = None,
        flex: bool = False,
    ) -> None:
        """Queue rows of `steps` steps each. Row numbers are the caller's, grow and are never reused.

        deadline_s orders them within their lane. promised_s: the deadline that a client was promised, which breaks_promise
        looks after.
        """
        self.company += _COMPANY_MEMORY * (bool(self) - self.company)
        lane = self._lanes[model, flex]
        if lane not in self._ring:
            self._ring.append(lane)
        for row in rows:
            lane.add(row, steps, deadline_s, promised_s)
            self._lane_of[row] = lane

    def run_exclusively(self, rows: Iterable[int], seconds: float) -> None:
        """Run nothing but these rows of one lane until they are gone or have had so many device seconds."""
        self._exclusive, self._exclusive_s = list(rows), seconds

    @property
    def exclusive_left_s(self) -> float:
        """Estimated seconds until the device is shared again."""
        if not self._exclusive:
            return 0.0
        lane = self._lane_of[self._exclusive[0]]
        steps = max(lane.steps_left(row) for row in self._exclusive)
        return min(self._exclusive_s, lane.alone_s(len(self._exclusive), steps))

    def remove(self, row: int) -> int:
        """Forget a row, running or not; returns the steps it had left, 0 for a row that is not here."""
        lane = self._lane_of.get(row)
        left = lane.remove(row) if lane else 0
        self._forget(row)
        return left

    def schedule(self) -> Batch | None:
        """The next batch, or None when there is nothing to run. Decides only; `charge` and `advance` follow it."""
        if self._exclusive:
            self._running = lane = self._lane_of[self._exclusive[0]]
            return Batch(lane.model, tuple(self._exclusive[: lane.limit]), lane.flex)
        busy = [lane for lane in self._ring if lane]
        if not busy:
            for lane in self._ring:  # nobody was kept waiting
                lane.credit_s = 0.0
            self._ring.clear()
            return None
        self._skip_idle_rounds(busy)
        while True:
            lane = self._ring.popleft()
            lane.credit_s = min(lane.credit_s, 0.0) + self._quantum_s * lane.weight  # more could not be spent in a visit
            if lane or lane.credit_s < 0:
                self._ring.append(lane)
            else:
                lane.credit_s = 0.0
            if lane and lane.credit_s > 0:
                self._running = lane
                return Batch(lane.model, self._filled(lane), lane.flex)

    def beside(self, batch: Batch) -> list[Batch]:
        """Batches of other lanes to run at the same time as `batch`, charged to nobody; `advance` follows for each."""
        lane, taken, found = self._lanes[batch.model, batch.flex], len(batch.rows), []
        for other in self._ring if lane.abreast > taken and not self._exclusive else ():
            room = min(lane.abreast, other.abreast) - taken
            if other is not lane and room > 0 and (rows := [row for row in other.batch if row not in batch.rows][:room]):
                found.append(Batch(other.model, tuple(rows), other.flex))
                taken += len(rows)
        return found

    def charge(
        self, batch: Batch, seconds: float, *, learn: bool = True, alone: bool = True, now_s: float | None = None
    ) -> None:
        """Account for the device time that a batch took, whatever became of its rows.

        A step that stalled, as the machine was busy elsewhere, is charged a few times what it should have taken: a lane in
        debt for all of it would stand still while the others catch up.
        learn: the time tells what such a batch costs, which that of a batch in trouble does not, and not quite that of one
        that was not alone. now_s: clock reading; by it completion_s and wait_s know what is recent.
        """
        lane = self._lanes[batch.model, batch.flex]
        charged_s = lane.costs.fair(len(batch.rows), seconds) if learn else seconds
        lane.credit_s -= charged_s
        if now_s is not None:
            lane.ran(charged_s if alone else 0.0, now_s)  # what ran beside others has taken nobody's time
            self._demanding[lane] = None
        if not set(batch.rows).isdisjoint(self._exclusive):
            self._exclusive_s -= seconds
            if self._exclusive_s <= 0:
                self._exclusive = []
        if learn and alone:
            lane.costs.observe(len(batch.rows), seconds, now_s)
            lane.recover()
        self._running = None

    def advance(self, batch: Batch) -> tuple[int, ...]:
        """Count one step for each row of the batch that is still here; returns those whose last step it was."""
        finished = []
        for row in batch.rows:
            lane = self._lane_of.get(row)
            if lane is not None and lane.advance(row):
                self._forget(row)
                finished.append(row)
        return tuple(finished)

    def _forget(self, row: int) -> None:
        self._lane_of.pop(row, None)
        if row in self._exclusive:
            self._exclusive.remove(row)

    def shrink(self, model: str, rows: int) -> None:
        """Let the model's batches hold at most `rows` rows, since the device has no memory for more; recovers slowly."""
        for flex in (False, True):
            self._lanes[model, flex].shrink(rows)

    @property
    def active(self) -> int:
        """Rows in the next batch of their lane."""
        return sum(len(lane.batch) for lane in self._ring)

    def backlog_s(self) -> float:
        """Estimated device seconds of everything admitted."""
        return sum(lane.backlog_s for lane in self._ring)

    def wait_s(self, model: str, *, flex: bool = False, now_s: float | None = None) -> float:
        """Estimated seconds until what the lane holds now is done, given fair shares; 0 for a lane without rows.

        now_s: clock reading; with it the other lanes' work is expected to keep arriving as it has of late.
        """
        lane = self._lanes[model, flex]
        return self._foreseen_s(lane, lane.backlog_s, 0, now_s) if lane else 0.0

    def longest_wait_s(self, now_s: float | None = None) -> float:
        """The longest wait_s of the lanes that are not flex."""
        return max((self.wait_s(lane.model, now_s=now_s) for lane in self._ring if not lane.flex), default=0.0)

    def completion_s(self, model: str, rows: int, steps: int, *, flex: bool = False, now_s: float | None = None) -> float:
        """Estimated seconds until `rows` new rows of `steps` steps each would be done, behind all others of their lane.

        Leans to the late side: what the other lanes may run in between is counted up to the scheduler's bound.
        now_s: clock reading; with it the other lanes' work is expected to keep arriving as it has of late.
        """
        lane = self._lanes[model, flex]
        if now_s is not None:
            lane.costs.fade(now_s)
        return self._foreseen_s(lane, lane.finish_s(rows, steps, running=lane is self._running), 1, now_s)

    def alone_s(self, model: str, rows: int, steps: int) -> float:
        """Estimated seconds of `rows` rows of `steps` steps each on an idle device."""
        return self._lanes[model, False].alone_s(rows, steps)

    def at_best_s(self, model: str, rows: int, steps: int) -> float:
        """What alone_s gives where steps take as long as calibrated, whatever the machine does now."""
        return self._lanes[model, False].at_best_s(rows, steps)

    def breaks_promise(
        self, model: str, rows: int, steps: int, now_s: float, *, deadline_s: float = inf, flex: bool = False
    ) -> bool:
        """Whether `rows` new rows of this deadline would make a promised row late, or later, that is in time without them.

        They lengthen the steps of their own lane, go before its rows of later deadlines, and take a share of the device from
        the other lanes. A row that is late by no more than the round robin's rounding counts as in time. now_s: clock reading.
        """
        joined = self._lanes[model, flex]
        more = {joined: joined.alone_s(rows, steps)}
        for lane in self._ring:
            promises = lane.promises(rows, steps, deadline_s) if lane is joined else lane.promises()
            for promise in self._tightest(lane, promises):
                left_s = promise.deadline_s - now_s
                before_s = self._shared_s(lane, promise.before_s, steps=1)
                after_s = self._shared_s(lane, promise.after_s, steps=1, more=more, newcomers=rows)
                if before_s <= left_s + self._rounding_s(lane) and after_s > max(left_s, before_s) + _ROUNDING_S:
                    return True
        return False

    def delay_breaks_promise(self, seconds: float, now_s: float) -> bool:
        """Whether a promised row that is in time would be late if it were held up for so long."""
        for lane in self._ring:
            for promise in self._tightest(lane, lane.promises()):
                expected_s = now_s + self._shared_s(lane, promise.before_s, steps=1)
                if expected_s <= promise.deadline_s + _ROUNDING_S and promise.deadline_s < expected_s + seconds:
                    return True
        return False

    def _rounding_s(self, lane: Lane) -> float:
        """What the round robin may be off by: 2 Q w_i for each other lane."""
        return _ROUNDING_S + 2 * self._quantum_s * sum(other.weight for other in self._ring if other is not lane)

    def _tightest(self, lane: Lane, promises: Sequence[Promise]) -> Sequence[Promise]:
        """Those with the least time to spare, whether the other lanes run or not: the rest follow from them."""
        if len(promises) <= 2 * _TIGHTEST:
            return promises
        busy = sum(other.weight for other in self._ring) / lane.weight
        return [
            promise
            for slower in (1.0, busy)
            for promise in nsmallest(_TIGHTEST, promises, key=lambda p, slower=slower: p.deadline_s - slower * p.after_s)  # type: ignore[misc]
        ]

    def _foreseen_s(self, lane: Lane, own_s: float, steps: int, now_s: float | None) -> float:
        """_shared_s, where until then the other lanes receive as much more work as they have run of late.

        Where requests hardly ever meet, nothing is expected: who sends one after the other does not add to them.
        """
        total_s = self._shared_s(lane, own_s, steps=steps)
        rates = {} if now_s is None else {other: other.demand(now_s) for other in self._demanding}
        for other, rate in rates.items():
            if rate < _LITTLE:
                del self._demanding[other]
        rates.pop(lane, None)
        for _ in range(_FORESEEN if rates and self.company >= ALONE else 0):
            before_s, more = total_s, {other: rate * total_s for other, rate in rates.items()}
            total_s = self._shared_s(lane, own_s, steps=steps, more=more)
            if total_s <= _SETTLED * before_s:
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
        """Seconds until a lane has had own_s of the device while every other lane with work takes its share.

        Weighted processor sharing: until then lane i has had the smaller of its backlog and w_i / w of own_s, where debts
        count as work and up to `steps` of its steps come on top, since steps are not divisible. more: seconds of work that
        lanes are imagined to have on top of theirs, which makes their steps wider by `newcomers` rows. Rows that have the
        device for themselves come before all that.
        """
        rounds_s = (own_s - min(lane.credit_s, 0.0)) / lane.weight
        total_s = own_s + self.exclusive_left_s
        for other in dict.fromkeys((*self._ring, *more)):
            if other is not lane:
                step_s = other.step_s(newcomers if other in more else 0)
                share_s = other.weight * rounds_s + min(other.credit_s, 0.0) + steps * step_s
                total_s += min(other.backlog_s + more.get(other, 0.0), max(0.0, share_s))
        return total_s

    def _filled(self, lane: Lane) -> tuple[int, ...]:
        """The lane's batch, its padding replaced by flex rows of the same model, which ride for nothing."""
        rows = lane.batch
        flex = self._lanes[lane.model, True]
        room = lane.costs.room(len(rows))
        return rows + flex.batch[:room] if room and flex and not lane.flex else rows

    def _skip_idle_rounds(self, busy: list[Lane]) -> None:
        """Grant at once the whole rounds in which every lane with rows would still be in debt."""
        rounds = floor(min(-lane.credit_s / lane.weight for lane in busy) / self._quantum_s)
        if rounds > 0:
            for lane in self._ring:
                lane.credit_s += rounds * self._quantum_s * lane.weight
