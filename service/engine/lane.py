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
from heapq import heapify, heappop, heappush
from math import exp

from service.engine.costs import StepCosts

_RECOVERY_STEPS = 1000  # batches without trouble after which the next larger bucket is tried again
_DEMAND_S = 20.0  # what arrived so long ago counts 1/e in the demand
_Key = tuple[float, int]  # deadline, number: numbers grow with age


@dataclass(slots=True)
class _Row:
    deadline_s: float
    left: int
    promised: bool
    active: bool = False


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

    @property
    def step_s(self) -> float:
        """Estimated seconds of the next step, of one row for a lane without rows."""
        return self.costs.seconds(len(self._active) or 1)

    @property
    def backlog_s(self) -> float:
        """Estimated device seconds of all steps left, at the width that the rows now fill."""
        width = len(self._active)
        return self._steps_left / width * self.costs.seconds(width) if width else 0.0

    def expect(self, rows: int, steps: int, now_s: float) -> None:
        """Learn from `rows` new rows of `steps` steps, already added, how much work keeps arriving."""
        width = len(self._active)
        self._demand = self.demand(now_s) + rows * steps * self.costs.seconds(width) / width / _DEMAND_S
        self._demand_at_s = now_s

    def demand(self, now_s: float) -> float:
        """Device seconds of work that arrive per second, over about the last _DEMAND_S."""
        return self._demand * exp((self._demand_at_s - now_s) / _DEMAND_S)

    def add(self, number: int, steps: int, deadline_s: float, *, promised: bool = False) -> None:
        """Queue a row; numbers grow and are never reused. promised: its deadline is one that a client was promised."""
        self._rows[number] = _Row(deadline_s, steps, promised)
        self._steps_left += steps
        heappush(self._waiting, (deadline_s, number))
        self._fill()

    def remove(self, number: int) -> int:
        """Forget a row; returns the steps it had left, 0 for a row that is not here."""
        row = self._rows.pop(number, None)
        if row is None:
            return 0
        self._steps_left -= row.left
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
        waves = -(-rows // self.limit)
        return waves * steps * self.costs.seconds(min(rows, self.limit))

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

    def tightest(self, newcomers: int) -> tuple[float, float, float] | None:
        """The promised active row with the least time to spare beside so many newcomers; None where none is promised.

        Returns its deadline and the device seconds of this lane that it still needs, without and with them.
        """
        width = len(self._active)
        now_s = self.costs.seconds(width) if width else 0.0
        then_s = self.costs.seconds(min(width + newcomers, self.limit)) if newcomers else now_s
        promised = [row for _, number in self._active if (row := self._rows[number]).promised]
        if not promised:
            return None
        row = min(promised, key=lambda row: row.deadline_s - row.left * then_s)
        return row.deadline_s, row.left * now_s, row.left * then_s

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
