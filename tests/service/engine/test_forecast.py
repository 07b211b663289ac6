"""The forecast without a device: estimates are not too early, and they expect the traffic that keeps arriving."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.costs import StepCosts
from service.engine.forecast import Forecast
from service.engine.scheduler import Scheduler, StepReport
from tests.service.engine.scheduling import costs, lanes, run


def test_backlog_is_the_steps_left_at_the_width_that_the_rows_fill() -> None:
    scheduler = Scheduler()
    scheduler.add_model("m0", StepCosts({1: 1.0, 2: 1.5, 4: 2.0}))
    scheduler.admit("m0", [0], steps=10)
    assert Forecast(scheduler).backlog_s() == 10
    scheduler.admit("m0", [1], steps=10)
    assert Forecast(scheduler).backlog_s() == 15
    scheduler.admit("m0", range(2, 8), steps=10)
    assert Forecast(scheduler).backlog_s() == 40
    for row in range(8):
        scheduler.remove(row)
    assert Forecast(scheduler).backlog_s() == 0


@given(st.lists(st.tuples(costs, st.integers(1, 20)), min_size=1, max_size=4), st.integers(1, 20))
def test_the_estimate_of_a_request_is_not_too_early(models: list[tuple[float, int]], steps: int) -> None:
    """Beside any backlog of other models, a lone request is done by its estimate. The estimate is no longer than all work."""
    seconds = [cost for cost, _ in models] + [0.01]
    scheduler = lanes(*seconds)
    for number, (_, left) in enumerate(models):
        scheduler.admit(f"m{number}", [number], steps=left)
    own = f"m{len(models)}"
    estimate_s = Forecast(scheduler).completion_s(own, rows=1, steps=steps)
    assert estimate_s <= Forecast(scheduler).backlog_s() + steps * 0.01 + 1e-9
    scheduler.admit(own, [100], steps)
    now_s = 0.0
    while 100 in scheduler:
        batch, _ = run(scheduler, *seconds)
        now_s += seconds[int(batch.model[1:])]
    assert now_s <= estimate_s + 1e-9


# The other model needs 0.2, 0.4 and all of the device, and gets at most half of it: 10 s / 0.8, 10 s / 0.6, 10 s / 0.5.
@pytest.mark.parametrize(("every_s", "expected_s"), [(0.1, 12.5), (0.05, 16.7), (0.02, 20.0)])
def test_estimates_expect_what_keeps_arriving(every_s: float, expected_s: float) -> None:
    """A request of 10 s beside a model whose requests of 20 ms keep arriving, even if none is there at its admission."""
    scheduler, chance = lanes(0.01, 0.01, limit=1), random.Random(0)
    now_s, next_s, arrived, estimate_s, came_s = 0.0, 0.0, 0, 0.0, 0.0
    while not came_s or 0 in scheduler:
        while next_s <= now_s:
            arrived += 1
            next_s += chance.expovariate(1 / every_s)
            scheduler.admit("m1", [arrived], steps=2)
        if now_s > 100 and not came_s and not Forecast(scheduler).wait_s("m1") > 0.02:
            came_s, estimate_s = now_s, Forecast(scheduler).completion_s("m0", rows=1, steps=1000, now_s=now_s)
            scheduler.admit("m0", [0], steps=1000)
            assert Forecast(scheduler).wait_s("m0", now_s=now_s) == pytest.approx(estimate_s, rel=0.01)
        if scheduler:
            batch = scheduler.schedule()
            assert batch is not None
            now_s += 0.01
            scheduler.charge(batch, StepReport(0.01, now_s=now_s))
            scheduler.advance(batch)
        else:
            now_s = next_s
    assert estimate_s == pytest.approx(expected_s, rel=0.15)
    assert now_s - came_s == pytest.approx(estimate_s, rel=0.15)
    assert (
        Forecast(scheduler).completion_s("m0", rows=1, steps=1000, now_s=now_s + 300) < 10.1 + Forecast(scheduler).backlog_s()
    ), "demand is forgotten"


def test_rows_that_run_beside_a_batch_add_nothing_to_estimates() -> None:
    """A model whose single rows run on an idle core lengthens no estimate of the others."""
    scheduler = Scheduler()
    for model in ("m0", "m1"):
        scheduler.add_model(model, StepCosts({1: 0.01}), abreast=2)
    scheduler.admit("m0", [0], steps=10**6)
    scheduler.admit("m1", [1], steps=10**6)
    now_s, ran = 0.0, 0
    for _ in range(2000):
        batch = scheduler.schedule()
        assert batch is not None
        beside = scheduler.beside(batch)
        now_s += 0.01
        scheduler.charge(batch, StepReport(0.01, alone=not beside, now_s=now_s))
        for each in (batch, *beside):
            scheduler.advance(each)
            ran += 1
    assert ran == 4000
    for row in (0, 1):
        scheduler.remove(row)
    assert Forecast(scheduler).completion_s("m0", rows=1, steps=100, now_s=now_s) == pytest.approx(
        Forecast(scheduler).alone_s("m0", rows=1, steps=100), rel=0.05
    )
