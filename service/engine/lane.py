"""A lane: one model's rows of one class, earliest deadline first, then age. Pure: no I/O, no clock, no tensors.

The rows with the earliest deadlines, as many as a batch may hold, are `active`: they are the lane's next batch. All others
wait in a heap, so a step touches active rows only, however many wait. A newcomer with an earlier deadline takes the place
of the active row with the latest one, which keeps what it has computed and waits for its turn.

Every row has a deadline (the engine gives rows without one of their own the longest that the service queues anything), so
a row is only ever overtaken by rows that arrive before its deadline: within a lane nothing starves.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from math import exp, inf

from service.engine.costs import StepCosts

_RECOVERY_STEPS = 1000  # batches without trouble after which the next larger bucket is tried again
_DEMAND_S = 10.0  # what ran so long ago counts 1/e in the demand
_Key = tuple[float, int]  # deadline, number: numbers grow with age


@dataclass(slots=True)
class _Row:
    deadline_s: float
    left: int
    promised_s: float | None
    active: bool = False


@dataclass(frozen=True)
class Promise:
    """A promised row: its deadline, and the device seconds of its lane until it is done, without newcomers and with them."""

    deadline_s: float
    before_s: float
    after_s: float


class Lane:
    """Rows of one model and class: interactive, or flex where `flex` is set."""

    def __init__(self, model: str, costs: StepCosts, weight: float, *, flex: bool = False, abreast: int = 1) -> None:
        """weight: the lane's share of the device relative to other lanes, above 0; abreast: see Scheduler.add_model."""
        self.model = model
        self.costs = costs
        self.weight = weight
        self.flex = flex
        self.abreast = abreast
        self.limit = costs.largest
        self.credit_s = 0.0  # the scheduler's account of device time
        self._rows: dict[int, _Row] = {}
        self._active: list[_Key] = []  # sorted
        self._waiting: list[_Key] = []  # a heap; rows removed while they wait stay until they surface
        self._steps_left = 0
        self._promised = 0  # rows
        self._calm_steps = 0
        self._demand = 0.0
        self._demand_at_s = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    @property
    def batch(self) -> tuple[int, ...]:
        """The rows of the next step, earliest deadline first."""
        return tuple(number for _, number in self._active)

    def step_s(self, newcomers: int = 0) -> float:
        """Estimated seconds of the next step beside so many newcomers, of one row for a lane without rows."""
        return self.costs.seconds(min(len(self._active) + newcomers, self.limit) or 1)

    @property
    def backlog_s(self) -> float:
        """Estimated device seconds of all steps left, at the width that the rows now fill."""
        width = len(self._active)
        return self._steps_left / width * self.costs.seconds(width) if width else 0.0

    def ran(self, seconds: float, now_s: float) -> None:
        """Learn from a step charged at clock reading now_s how much of the device this lane keeps taking."""
        self._demand = self.demand(now_s) + seconds / _DEMAND_S
        self._demand_at_s = now_s

    def demand(self, now_s: float) -> float:
        """Device seconds a second that the lane was charged, over about the last _DEMAND_S."""
        return self._demand * exp((self._demand_at_s - now_s) / _DEMAND_S)

    def add(self, number: int, steps: int, deadline_s: float, promised_s: float | None = None) -> None:
        """Queue a row; numbers grow and are never reused. deadline_s orders it; promised_s: the one a client was promised."""
        self._rows[number] = _Row(deadline_s, steps, promised_s)
        self._promised += promised_s is not None
        self._steps_left += steps
        heappush(self._waiting, (deadline_s, number))
        self._fill()

    def remove(self, number: int) -> int:
        """Forget a row; returns the steps it had left, 0 for a row that is not here."""
        row = self._rows.pop(number, None)
        if row is None:
            return 0
        self._steps_left -= row.left
        self._promised -= row.promised_s is not None
        if row.active:
            self._active.remove((row.deadline_s, number))
            self._fill()
        elif len(self._waiting) > 2 * len(self._rows) + 2:  # mostly rows that are gone: each pays for its own clearing
            self._waiting = [key for key in self._waiting if key[1] in self._rows]
            heapify(self._waiting)
        return row.left

    def advance(self, number: int) -> bool:
        """Count one step of a row; True when it was its last and the row is gone. False for a row that is not here."""
        row = self._rows.get(number)
        if row is None:
            return False
        if row.left == 1:
            self.remove(number)
            return True
        row.left -= 1
        self._steps_left -= 1
        return False

    def steps_left(self, number: int) -> int:
        """Of a row that is here."""
        return self._rows[number].left

    def shrink(self, limit: int) -> None:
        """Hold at most `limit` rows in a batch, until many batches have gone well."""
        self.limit, self._calm_steps = max(1, min(limit, self.limit)), 0
        while len(self._active) > self.limit:
            self._demote()

    def recover(self) -> None:
        """Count a batch that went well; after many of them at a reduced limit the next larger bucket is tried again."""
        if self.limit < self.costs.largest:
            self._calm_steps += 1
            if self._calm_steps == _RECOVERY_STEPS:
                self.limit, self._calm_steps = self.costs.bucket(self.limit + 1), 0
                self._fill()

    def alone_s(self, rows: int, steps: int) -> float:
        """Estimated seconds of `rows` new rows of `steps` steps each on an idle device."""
        return self._waves(rows) * steps * self.costs.seconds(min(rows, self.limit))

    def at_best_s(self, rows: int, steps: int) -> float:
        """What alone_s gives where steps take as long as calibrated, whatever the machine does now."""
        return self._waves(rows) * steps * self.costs.calibrated(min(rows, self.limit))

    def _waves(self, rows: int) -> int:
        return -(-rows // self.limit)

    def finish_s(self, rows: int, steps: int, *, running: bool) -> float:
        """Estimated device seconds of this lane until `rows` new rows of `steps` steps each, behind all others, are done.

        running: a batch of this lane is on the device, and newcomers join after it. Exact in steps where the waiting rows
        are equally long; where they differ, their mean stands for each of them.
        """
        width = min(len(self._rows) + rows, self.limit)
        if len(self._rows) + rows <= self.limit:
            return (steps + running) * self.costs.seconds(width)
        active = [self._rows[number].left for _, number in self._active]
        waiting = len(self._rows) - len(active)
        mean = (self._steps_left - sum(active)) / waiting if waiting else 0.0
        rounds, extra = divmod(waiting, self.limit)
        places = sorted(
            [*map(float, active), *[0.0] * (self.limit - len(active))]
        )  # steps until each place of the batch is free
        places = sorted(left + mean * (rounds + (place < extra)) for place, left in enumerate(places))
        waves, last = divmod(rows - 1, self.limit)
        done = max(places[last] + steps * (waves + 1), places[-1] + steps * waves if waves else 0.0)
        return done * self.costs.seconds(width)

    def promises(self, rows: int = 0, steps: int = 0, deadline_s: float = inf) -> list[Promise]:
        """Every promised row, beside `rows` newcomers of `steps` steps each and this deadline, earliest deadline first.

        Exact in steps: each row takes the first place of the batch that is free. Steps count as wide as the batch is now.
        """
        if not self._promised:
            return []
        now_s = self.costs.seconds(len(self._active))
        then_s = self.costs.seconds(min(len(self._rows) + rows, self.limit))
        last_s = max(row.deadline_s for row in self._rows.values() if row.promised_s is not None)
        order = self._active + sorted(key for key in self._waiting if key[0] <= last_s and key[1] in self._rows)
        before = [0] * self.limit  # heaps: steps until each place of the batch is free
        after = [0] * self.limit
        found, come = [], False
        for key_s, number in order:
            row = self._rows[number]
            if rows and not come and deadline_s < key_s:
                come = True
                for _ in range(rows):
                    heapreplace(after, after[0] + steps)
            done, later = before[0] + row.left, after[0] + row.left
            heapreplace(before, done)
            heapreplace(after, later)
            if row.promised_s is not None:
                found.append(Promise(row.promised_s, done * now_s, later * then_s))
        return found

    def _fill(self) -> None:
        """Make the earliest deadlines active, up to the limit."""
        while self._waiting:
            key = self._waiting[0]
            row = self._rows.get(key[1])
            full = len(self._active) >= self.limit
            if row is not None and full and key > self._active[-1]:
                return
            heappop(self._waiting)
            if row is not None:
                if full:
                    self._demote()
                row.active = True
                insort(self._active, key)

    def _demote(self) -> None:
        key = self._active.pop()
        self._rows[key[1]].active = False
        heappush(self._waiting, key)
