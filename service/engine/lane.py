"""A lane: one model's rows of one class, earliest deadline first, then age. Pure: no I/O, no clock, no tensors.

The rows with the earliest deadlines, as many as a batch may hold, are `active`: they are the lane's next batch. All others
wait in a heap, so that a step touches active rows only, however many wait. A new row with an earlier deadline takes the place
of the active row with the latest one. That row keeps what it has computed and waits.

Every row has a deadline. The engine gives a row without a latency limit the longest time that the service queues anything.
So a row is overtaken only by rows that arrive before its deadline, and within a lane nothing starves.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from service.engine.costs import StepCosts

_RECOVERY_STEPS = 1000  # batches without trouble before the next larger bucket is tried: failing again must be rare
_Key = tuple[float, int]  # deadline, number: numbers grow with age


@dataclass(slots=True)
class _Place:
    """A row's place in its lane. left: steps left. active: the row is in the next batch."""

    deadline_s: float
    left: int
    promised_s: float | None
    active: bool = False


@dataclass(frozen=True)
class Promise:
    """The deadline of a promised row, and the device seconds of its lane until the row is done.

    before_s: without the new rows asked about. after_s: with them.
    """

    deadline_s: float
    before_s: float
    after_s: float


class Lane:
    """Rows of one model and class: interactive, or flex where `flex` is set."""

    def __init__(self, model: str, costs: StepCosts, weight: float, *, flex: bool = False, abreast: int = 1) -> None:
        """weight: the lane's share of the device relative to other lanes, above 0. abreast: see Scheduler.add_model."""
        self.model = model
        self.costs = costs
        self.weight = weight
        self.flex = flex
        self.abreast = abreast
        self.limit = costs.largest
        self.credit_s = 0.0  # written by the scheduler: device seconds granted and not used
        self._rows: dict[int, _Place] = {}
        self._active: list[_Key] = []  # sorted
        self._waiting: list[_Key] = []  # a heap; keys of removed rows stay until they reach the top
        self._steps_left = 0
        self._promised = 0  # rows
        self._calm_steps = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    @property
    def batch(self) -> tuple[int, ...]:
        """The rows of the next step, earliest deadline first."""
        return tuple(number for _, number in self._active)

    def step_s(self, newcomers: int = 0) -> float:
        """Estimate the seconds of the next step with so many new rows, or of a step of one row for a lane without rows."""
        return self.costs.seconds(min(len(self._active) + newcomers, self.limit) or 1)

    @property
    def backlog_s(self) -> float:
        """Estimated device seconds of all steps left, in batches as large as the next one."""
        width = len(self._active)
        return self._steps_left / width * self.costs.seconds(width) if width else 0.0

    def add(self, number: int, steps: int, deadline_s: float, promised_s: float | None = None) -> None:
        """Queue a row. Numbers grow and are never reused.

        deadline_s: orders the row within the lane. promised_s: the deadline that a client was promised, if any.
        """
        self._rows[number] = _Place(deadline_s, steps, promised_s)
        self._promised += promised_s is not None
        self._steps_left += steps
        heappush(self._waiting, (deadline_s, number))
        self._fill()

    def remove(self, number: int) -> int:
        """Forget a row. Return the steps it had left, 0 for a row that is not here."""
        row = self._rows.pop(number, None)
        if row is None:
            return 0
        self._steps_left -= row.left
        self._promised -= row.promised_s is not None
        if row.active:
            self._active.remove((row.deadline_s, number))
            self._fill()
        elif len(self._waiting) > 2 * len(self._rows) + 2:  # mostly keys of removed rows: clearing is cheap per removal
            self._waiting = [key for key in self._waiting if key[1] in self._rows]
            heapify(self._waiting)
        return row.left

    def advance(self, number: int) -> bool:
        """Count one step of a row. Return True if it was the last one: then the row is gone. False for a row not here."""
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
        """Return the steps left of a row that is here."""
        return self._rows[number].left

    def shrink(self, limit: int) -> None:
        """Limit batches to `limit` rows, until many batches have gone well."""
        self.limit, self._calm_steps = max(1, min(limit, self.limit)), 0
        while len(self._active) > self.limit:
            self._demote()

    def recover(self) -> None:
        """Count a batch that went well. After many of them, raise a reduced limit to the next larger bucket."""
        if self.limit < self.costs.largest:
            self._calm_steps += 1
            if self._calm_steps == _RECOVERY_STEPS:
                self.limit, self._calm_steps = self.costs.bucket(self.limit + 1), 0
                self._fill()

    def alone_s(self, rows: int, steps: int) -> float:
        """Estimate the seconds of `rows` rows of `steps` steps each on an idle device, at the speed that it has now."""
        return self._waves(rows) * steps * self.costs.seconds(min(rows, self.limit))

    def at_best_s(self, rows: int, steps: int) -> float:
        """Estimate the seconds of `rows` rows of `steps` steps each on an idle device, at the speed of its calibration."""
        return self._waves(rows) * steps * self.costs.calibrated(min(rows, self.limit))

    def _waves(self, rows: int) -> int:
        """Return the number of batches that `rows` rows fill."""
        return -(-rows // self.limit)

    def finish_s(self, rows: int, steps: int, *, running: bool) -> float:
        """Estimate the device seconds of this lane until `rows` new rows of `steps` steps each are done, behind all others.

        running: a batch of this lane is on the device, and new rows join after it.
        The number of steps is exact if the waiting rows are equally long. If not, each counts as long as their mean.
        """
        width = min(len(self._rows) + rows, self.limit)
        if len(self._rows) + rows <= self.limit:
            return (steps + running) * self.costs.seconds(width)
        active = [self._rows[number].left for _, number in self._active]
        waiting = len(self._rows) - len(active)
        mean = (self._steps_left - sum(active)) / waiting if waiting else 0.0
        rounds, extra = divmod(waiting, self.limit)
        # Steps until each place of the batch is free: first for the waiting rows, then for the new ones.
        places = sorted([*map(float, active), *[0.0] * (self.limit - len(active))])
        places = sorted(left + mean * (rounds + (place < extra)) for place, left in enumerate(places))
        waves, last = divmod(rows - 1, self.limit)
        done = max(places[last] + steps * (waves + 1), places[-1] + steps * waves if waves else 0.0)
        return done * self.costs.seconds(width)

    def promises(self, rows: int = 0, steps: int = 0, deadline_s: float = inf) -> list[Promise]:
        """Return every promised row, as if `rows` new rows of `steps` steps each and this deadline joined it.

        Earliest deadline first. The number of steps is exact: each row takes the first place of the batch that is free. All
        steps count as long as a step of the present size.
        """
        if not self._promised:
            return []
        now_s = self.costs.seconds(len(self._active))
        then_s = self.costs.seconds(min(len(self._rows) + rows, self.limit))
        last_s = max(row.deadline_s for row in self._rows.values() if row.promised_s is not None)
        order = self._active + sorted(key for key in self._waiting if key[0] <= last_s and key[1] in self._rows)
        before = [0] * self.limit  # heaps: steps until each place of the batch is free
        after = [0] * self.limit
        found, joined = [], False
        for key_s, number in order:
            row = self._rows[number]
            if rows and not joined and deadline_s < key_s:
                joined = True
                for _ in range(rows):
                    heapreplace(after, after[0] + steps)
            done, later = before[0] + row.left, after[0] + row.left
            heapreplace(before, done)
            heapreplace(after, later)
            if row.promised_s is not None:
                found.append(Promise(row.promised_s, done * now_s, later * then_s))
        return found

    def _fill(self) -> None:
        """Make the rows with the earliest deadlines active, up to the limit."""
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
        """Send the active row with the latest deadline back to wait."""
        key = self._active.pop()
        self._rows[key[1]].active = False
        heappush(self._waiting, key)
