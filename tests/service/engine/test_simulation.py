"""The scheduler on a simulated clock: no row is lost, and no lane waits longer than the bound.

Tens of thousands of requests by default. A million:

    SFDDM_SIMULATED_REQUESTS=1000000 pytest tests/service/engine/test_simulation.py
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from itertools import pairwise

import pytest

from service.engine.costs import StepCosts
from service.engine.forecast import Forecast
from service.engine.scheduler import FLEX_SHARE, Batch, Scheduler, StepReport

REQUESTS = int(os.environ.get("SFDDM_SIMULATED_REQUESTS", "20000"))
STEPS = {"student-004": 4, "student-016": 16, "dpmpp-032": 32, "teacher": 64}
WEIGHTS = {"student-004": 2.0, "student-016": 1.0, "dpmpp-032": 1.0, "teacher": 0.5}
SHARES = {"student-004": 0.5, "student-016": 0.4, "dpmpp-032": 0.08, "teacher": 0.02}  # of the requests
CURVE = {1: 0.004, 4: 0.012, 16: 0.04, 32: 0.078}
IMAGE_S = CURVE[32] / 32 * sum(STEPS[model] * share for model, share in SHARES.items())  # at full batches


@pytest.mark.parametrize("abreast", [1, 3])
def test_many_requests_in_bursts(abreast: int) -> None:
    """Bursts above the device's capacity and calm below it, with cancellations, deadlines, two classes and varying steps.

    abreast: rows of several models that the device steps at the same time as quickly as one.
    """
    chance, costs = random.Random(1), StepCosts(CURVE)
    scheduler = Scheduler()
    for model, weight in WEIGHTS.items():
        scheduler.add_model(model, StepCosts(CURVE), weight=weight, abreast=abreast)
    now_s, next_s, admitted, finished, removed = 0.0, 0.0, 0, 0, 0
    steps_left: dict[int, int] = {}
    longest: defaultdict[tuple[str, bool], float] = defaultdict(float)
    waits: defaultdict[tuple[str, bool], defaultdict[tuple[str, bool], float]] = defaultdict(lambda: defaultdict(float))
    rows_of: defaultdict[tuple[str, bool], int] = defaultdict(int)
    lane_of: dict[int, tuple[str, bool]] = {}
    quantum_s = min(CURVE[1] / weight for weight in WEIGHTS.values())

    def share(lane: tuple[str, bool]) -> float:
        return WEIGHTS[lane[0]] * (FLEX_SHARE if lane[1] else 1)

    def left(row: int) -> None:
        lane = lane_of.pop(row)
        rows_of[lane] -= 1
        if not rows_of[lane]:
            waits.pop(lane, None)

    while admitted < REQUESTS or len(scheduler):
        while admitted < REQUESTS and (next_s <= now_s or not len(scheduler)):
            now_s = max(now_s, next_s)
            load = 1.5 if int(now_s / 10) % 3 == 0 else 0.6
            next_s = now_s + chance.expovariate(load / IMAGE_S)
            model = chance.choices(list(SHARES), list(SHARES.values()))[0]
            flex = chance.random() < 0.1
            scheduler.admit(model, [admitted], STEPS[model], deadline_s=now_s + chance.choice([1.0, 10.0, 60.0]), flex=flex)
            steps_left[admitted], lane_of[admitted] = STEPS[model], (model, flex)
            rows_of[model, flex] += 1
            admitted += 1
            if chance.random() < 0.05:
                gone = chance.randrange(admitted)
                if gone in scheduler:
                    assert scheduler.remove(gone) == steps_left.pop(gone)
                    left(gone)
                    removed += 1
        batch = scheduler.schedule()
        assert (batch is None) == (len(scheduler) == 0)
        if batch is None:
            continue
        runs = (batch.model, batch.flex)
        beside = scheduler.beside(batch)
        if beside:
            assert sum(len(each.rows) for each in (batch, *beside)) <= abreast
            assert len({runs, *((each.model, each.flex) for each in beside)}) == 1 + len(beside)
        took_s = costs.seconds(len(batch.rows)) * chance.uniform(0.8, 1.3)
        now_s += took_s
        longest[runs] = max(longest[runs], took_s)
        for lane, rows in rows_of.items():
            if rows and lane != runs:
                waits[lane][runs] += took_s  # also if its rows run beside the batch: below, their wait begins again
                bound_s = longest[runs] + share(runs) * (longest[lane] / share(lane) + 2 * quantum_s)
                assert waits[lane][runs] <= bound_s + 1e-9, (lane, runs)
        waits.pop(runs, None)
        scheduler.charge(batch, StepReport(took_s))
        for each in (batch, *beside):
            waits.pop((each.model, each.flex), None)
            _count_steps(each, steps_left)
            for row in scheduler.advance(each):
                assert steps_left.pop(row) == 0
                left(row)
                finished += 1
    assert finished + removed == REQUESTS
    assert not steps_left
    assert Forecast(scheduler).backlog_s() == 0


def _count_steps(batch: Batch, steps_left: dict[int, int]) -> None:
    assert len(set(batch.rows)) == len(batch.rows) <= max(CURVE)
    for row in batch.rows:
        steps_left[row] -= 1


def test_rows_of_one_lane_run_in_order_of_deadline_and_age() -> None:
    """With equal plans and ordered deadlines, rows finish in the order of their arrival, whatever the other lanes do."""
    scheduler = Scheduler()
    for model in ("a", "b"):
        scheduler.add_model(model, StepCosts(CURVE))
    scheduler.admit("b", range(10_000, 10_064), steps=500)
    scheduler.admit("a", range(1000), steps=8, deadline_s=60.0)
    done: list[int] = []
    while len(done) < 1000:
        batch = scheduler.schedule()
        assert batch is not None
        scheduler.charge(batch, StepReport(CURVE[32]))
        done.extend(row for row in scheduler.advance(batch) if row < 10_000)
    assert all(earlier < later for earlier, later in pairwise(done))
