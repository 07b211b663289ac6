"""The scheduler: which rows run in the next step. Pure decisions: no I/O, no clock, no threads, no tensors.

A row is one image on its way through a plan. Here it is a number with some steps left and a deadline. Rows of one model
share weights and therefore batches, whatever their requests, step counts and samplers. Each model has two lanes: one for
interactive rows and one for flex rows, which are work that can wait. A step runs one batch of one lane:

    inside a lane   earliest deadline, then age, up to the lane's largest bucket (lane.py)
    between lanes   weighted deficit round robin (Shreedhar & Varghese 1995), charged in measured device seconds. Every visit
                    gives a lane a credit of one quantum times its weight. A lane with credit runs one batch, and the time
                    that the batch took is charged afterwards. A lane without rows keeps its debt and loses its credit.

forecast.py estimates the waiting times that follow from these decisions.

The quantum Q is the smallest quotient, over all models, of the seconds of a one-row step and the model's weight. It is so
small that rounding costs no lane its share.

A flex lane has FLEX_SHARE of its model's weight. It gets three things: the time that no other lane uses, the places that an
interactive batch of its model would fill with padding, and its small share when nothing is idle.

The bound. Let s be the longest step and w the weight of a lane. A lane m that has found work, or has run a step, waits for its
next step, on account of each other lane i, no longer than

    s_i + (w_i / w_m) s_m + 2 Q w_i   seconds of i's steps, and no more than one step of i where s_i / w_i > s_m / w_m + Q.

A lane that finds work and has no debt waits for at most one step of each other lane. So no lane starves. A student beside a
teacher waits for one step of the teacher at a time, and max_step_ms limits that step.
Proof: m runs as soon as its credit is above 0. It starts with a debt of at most s_m, so the quanta granted until then sum
up to at most s_m / w_m + Q. Lanes are visited in turn, so i is granted w_i times that. Lane i holds at most Q w_i before, and
overdraws its credit by less than one step, since it only runs with credit above 0.

Batches side by side. On the cores of a CPU, single rows of several models can run at the same time as quickly as one. There
a batch with fewer rows than that takes rows of other lanes beside it. These rows are charged nothing, since the device would
be idle there. They take steps that nobody else could have had, so the bound holds unchanged, where a step takes as long as
the slowest row beside it.

Exclusive rows (run_exclusively) have the device to themselves, for a bounded number of device seconds. This time comes on top
of the bound, once. It is charged like any other, so afterwards their lane waits until the others have had their shares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, inf

from service.engine.costs import StepCosts
from service.engine.demand import Demand
from service.engine.lane import Lane

FLEX_SHARE = 0.05  # of its model's weight: above 0, so that flex work never starves, and too little to slow down others


@dataclass(frozen=True)
class Batch:
    """Rows of one model that run together for one step. flex: the model's flex lane is charged."""

    model: str
    rows: tuple[int, ...]
    flex: bool = False


@dataclass(frozen=True)
class StepReport:
    """The time of one step of a batch, and the conditions it was measured in.

    seconds   device time
    clean     the batch did not fail, so the cost model can learn from the time
    alone     no other batch ran at the same time. Only then is the time the cost of such a batch
    now_s     clock reading at the end; with it the demand is updated
    """

    seconds: float
    clean: bool = True
    alone: bool = True
    now_s: float | None = None


class Scheduler:
    """Decides at every step boundary. The caller repeats: schedule, run the batch, charge, advance."""

    def __init__(self) -> None:
        self.demand = Demand()
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._lane_of: dict[int, Lane] = {}
        self._ring: deque[Lane] = deque()  # lanes with rows or debt; the head is visited next
        self._quanta_s: dict[str, float] = {}  # by model: seconds of a step of one row, divided by the weight
        self._quantum_s = inf  # the smallest of them
        self._running: Lane | None = None  # between schedule and charge
        self._exclusive: list[int] = []  # rows of one lane; nothing else runs while there are any
        self._exclusive_s = 0.0  # device seconds that these rows may still take

    # Rows and models that come and go

    def add_model(self, model: str, costs: StepCosts, *, weight: float = 1.0, abreast: int = 1) -> None:
        """Open the two lanes of a model.

        weight: its share of the device, relative to the other models with work.
        abreast: single rows, of this and other such models, that the device steps side by side in the time of one.
        """
        self._quanta_s[model] = costs.seconds(1) / weight
        self._quantum_s = min(self._quanta_s.values())
        self._lanes[model, False] = Lane(model, costs, weight, abreast=abreast)
        self._lanes[model, True] = Lane(model, costs, weight * FLEX_SHARE, flex=True, abreast=abreast)

    def remove_model(self, model: str) -> None:
        """Close the lanes of a model that has no rows any more."""
        for flex in (False, True):
            lane = self._lanes.pop((model, flex))
            self.demand.forget(lane)
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
        """Queue rows of `steps` steps each. The caller numbers the rows: numbers grow and are never reused.

        deadline_s: orders the rows within their lane. promised_s: the deadline that a client was promised, if any.
        """
        self.demand.arrived(others=bool(self))
        lane = self._lanes[model, flex]
        if lane not in self._ring:
            self._ring.append(lane)
        for row in rows:
            lane.add(row, steps, deadline_s, promised_s)
            self._lane_of[row] = lane

    def run_exclusively(self, rows: Iterable[int], seconds: float) -> None:
        """Run only these rows, all of one lane, until they are gone or have used so many device seconds."""
        self._exclusive, self._exclusive_s = list(rows), seconds

    def remove(self, row: int) -> int:
        """Forget a row, running or not. Return the steps it had left, 0 for a row that is not here."""
        lane = self._lane_of.get(row)
        left = lane.remove(row) if lane else 0
        self._forget(row)
        return left

    def shrink(self, model: str, rows: int) -> None:
        """Limit the model's batches to `rows` rows, since the device has no memory for more. Recovers slowly."""
        for flex in (False, True):
            self._lanes[model, flex].shrink(rows)

    # Decide, charge, advance

    def schedule(self) -> Batch | None:
        """Return the next batch, or None when there is nothing to run. `charge` and `advance` must follow."""
        if self._exclusive:
            self._running = lane = self._lane_of[self._exclusive[0]]
            return Batch(lane.model, tuple(self._exclusive[: lane.limit]), lane.flex)
        busy = [lane for lane in self._ring if lane]
        if not busy:
            for lane in self._ring:  # no lane has rows, so nobody waits: cancel the debts
                lane.credit_s = 0.0
            self._ring.clear()
            return None
        self._skip_idle_rounds(busy)
        while True:
            lane = self._ring.popleft()
            lane.credit_s = min(lane.credit_s, 0.0) + self._quantum_s * lane.weight  # credit of earlier visits is not kept
            if lane or lane.credit_s < 0:
                self._ring.append(lane)
            else:
                lane.credit_s = 0.0
            if lane and lane.credit_s > 0:
                self._running = lane
                return Batch(lane.model, self._filled(lane), lane.flex)

    def beside(self, batch: Batch) -> list[Batch]:
        """Return batches of other lanes to run at the same time as `batch`. They are not charged; `advance` must follow."""
        lane, taken, found = self._lanes[batch.model, batch.flex], len(batch.rows), []
        for other in self._ring if lane.abreast > taken and not self._exclusive else ():
            room = min(lane.abreast, other.abreast) - taken
            if other is not lane and room > 0 and (rows := [row for row in other.batch if row not in batch.rows][:room]):
                found.append(Batch(other.model, tuple(rows), other.flex))
                taken += len(rows)
        return found

    def charge(self, batch: Batch, report: StepReport) -> None:
        """Charge a lane for the device time that its batch took, whatever became of the rows.

        A step that stalled because the machine was busy elsewhere is charged a few times its estimate and no more. Otherwise
        its lane would be in debt and stand still while the others catch up.
        """
        lane = self._lanes[batch.model, batch.flex]
        charged_s = lane.costs.fair(len(batch.rows), report.seconds) if report.clean else report.seconds
        lane.credit_s -= charged_s
        if report.now_s is not None:
            self.demand.ran(lane, charged_s if report.alone else 0.0, report.now_s)  # beside others it took no time from them
        if not set(batch.rows).isdisjoint(self._exclusive):
            self._exclusive_s -= report.seconds
            if self._exclusive_s <= 0:
                self._exclusive = []
        if report.clean and report.alone:
            lane.costs.observe(len(batch.rows), report.seconds, report.now_s)
            lane.recover()
        self._running = None

    def advance(self, batch: Batch) -> tuple[int, ...]:
        """Count one step for each row of the batch that is still here. Return the rows whose last step it was."""
        finished = []
        for row in batch.rows:
            lane = self._lane_of.get(row)
            if lane is not None and lane.advance(row):
                self._forget(row)
                finished.append(row)
        return tuple(finished)

    # Read by the forecast

    def __len__(self) -> int:
        """Return the number of rows that are admitted and not finished."""
        return len(self._lane_of)

    def __contains__(self, row: int) -> bool:
        return row in self._lane_of

    def lane(self, model: str, *, flex: bool = False) -> Lane:
        """Return a lane of a model."""
        return self._lanes[model, flex]

    @property
    def ring(self) -> Sequence[Lane]:
        """The lanes with rows or debt, in the order of their next visits."""
        return self._ring

    @property
    def quantum_s(self) -> float:
        """Seconds of credit that a visit gives a lane of weight 1."""
        return self._quantum_s

    @property
    def running(self) -> Lane | None:
        """The lane whose batch is on the device."""
        return self._running

    @property
    def exclusive(self) -> tuple[Lane, Sequence[int], float] | None:
        """The lane and the rows that run alone now, and the device seconds that they may still take."""
        return (self._lane_of[self._exclusive[0]], self._exclusive, self._exclusive_s) if self._exclusive else None

    def _forget(self, row: int) -> None:
        self._lane_of.pop(row, None)
        if row in self._exclusive:
            self._exclusive.remove(row)

    def _filled(self, lane: Lane) -> tuple[int, ...]:
        """Return the lane's batch. Flex rows of the same model take the places that would be padding, at no cost."""
        rows = lane.batch
        flex = self._lanes[lane.model, True]
        room = lane.costs.room(len(rows))
        return rows + flex.batch[:room] if room and flex and not lane.flex else rows

    def _skip_idle_rounds(self, busy: list[Lane]) -> None:
        """Grant at once all whole rounds in which every lane with rows would still be in debt."""
        rounds = floor(min(-lane.credit_s / lane.weight for lane in busy) / self._quantum_s)
        if rounds > 0:
            for lane in self._ring:
                lane.credit_s += rounds * self._quantum_s * lane.weight
