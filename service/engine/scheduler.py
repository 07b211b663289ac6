"""The scheduler: which rows run in the next step. Pure decisions: no I/O, no clock, no threads, no tensors.

A row is one image on its way through a plan; here it is a number with some steps left. Rows of one model share weights
and therefore batches, whatever their requests, step counts and samplers. Each model has a lane:

    inside a lane   oldest first, up to the lane's batch limit
    between lanes   deficit round robin (Shreedhar & Varghese 1995), charged in measured device seconds: every visit
                    gives a lane one quantum of credit, a lane with credit runs one batch, and what it really took is
                    charged afterwards

The quantum is the step time of the cheapest lane with work. So a lane as cheap as any runs once a round and waits for
at most one batch of each other lane, a dearer lane skips rounds until it has saved for the step it took, and no lane
starves: it runs at least once in 1 + ceil(its longest step / quantum) rounds.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import floor

from service.engine.costs import StepCosts


@dataclass(frozen=True)
class Batch:
    """Rows of one model that run together for one step."""

    model: str
    rows: tuple[int, ...]


@dataclass
class _Lane:
    """One model's rows, oldest first: row -> steps left."""

    model: str
    costs: StepCosts
    limit: int
    rows: OrderedDict[int, int] = field(default_factory=OrderedDict)
    steps_left: int = 0
    credit_s: float = 0.0

    @property
    def step_s(self) -> float:
        """Estimated seconds of the next batch."""
        return self.costs.seconds(min(len(self.rows), self.limit))

    @property
    def backlog_s(self) -> float:
        """Estimated seconds of all steps left, at the batch size that the lane's rows now fill."""
        width = min(len(self.rows), self.limit)
        return self.steps_left / width * self.costs.seconds(width) if width else 0.0


class Scheduler:
    """Decides at every step boundary. The caller executes: schedule, run the batch, charge, advance."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._lane_of: dict[int, _Lane] = {}
        self._ring: deque[_Lane] = deque()  # lanes with rows; the head is visited next

    def __len__(self) -> int:
        """Rows admitted and not finished."""
        return len(self._lane_of)

    def __contains__(self, row: int) -> bool:
        return row in self._lane_of

    def add_model(self, model: str, costs: StepCosts, limit: int) -> None:
        """Open a lane. limit: most rows in one of its batches."""
        self._lanes[model] = _Lane(model, costs, limit)

    def admit(self, model: str, rows: Iterable[int], steps: int) -> None:
        """Queue rows of `steps` steps each behind the model's others. Row numbers are the caller's and never reused."""
        lane = self._lanes[model]
        if not lane.rows:
            self._ring.append(lane)
        for row in rows:
            lane.rows[row] = steps
            lane.steps_left += steps
            self._lane_of[row] = lane

    def remove(self, row: int) -> int:
        """Forget a row, running or not; returns the steps it had left, 0 for a row that is not here."""
        lane = self._lane_of.pop(row, None)
        if lane is None:
            return 0
        left = lane.rows.pop(row)
        lane.steps_left -= left
        if not lane.rows:
            lane.credit_s = 0.0  # neither hoard credit nor carry debt while there is nothing to run
            self._ring.remove(lane)
        return left

    def schedule(self) -> Batch | None:
        """The next batch, or None when there is nothing to run. Decides only; `charge` and `advance` follow it."""
        if not self._ring:
            return None
        quantum = min(lane.step_s for lane in self._ring)
        self._skip_idle_rounds(quantum)
        while True:
            lane = self._ring[0]
            self._ring.rotate(-1)
            lane.credit_s = min(lane.credit_s + quantum, quantum)  # one batch a visit: more could not be spent
            if lane.credit_s > 0:
                return Batch(lane.model, tuple(islice(lane.rows, lane.limit)))

    def charge(self, batch: Batch, seconds: float) -> None:
        """Account for the device time that a batch took, whatever became of its rows."""
        lane = self._lanes[batch.model]
        lane.costs.observe(len(batch.rows), seconds)
        if lane.rows:
            lane.credit_s -= seconds

    def advance(self, batch: Batch) -> tuple[int, ...]:
        """Count one step for each row of the batch that is still here; returns those whose last step it was."""
        finished = []
        for row in batch.rows:
            lane = self._lane_of.get(row)
            if lane is None:
                continue
            if lane.rows[row] == 1:
                self.remove(row)
                finished.append(row)
            else:
                lane.rows[row] -= 1
                lane.steps_left -= 1
        return tuple(finished)

    def backlog_s(self) -> float:
        """Estimated device seconds of everything admitted."""
        return sum(lane.backlog_s for lane in self._ring)

    def _skip_idle_rounds(self, quantum: float) -> None:
        """Grant at once the whole rounds in which every lane would still be in debt."""
        rounds = floor(min(-lane.credit_s for lane in self._ring) / quantum)
        if rounds > 0:
            for lane in self._ring:
                lane.credit_s += rounds * quantum
