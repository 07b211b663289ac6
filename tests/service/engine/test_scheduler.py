"""The scheduler without a device: no row is lost, no lane starves, and device time is shared."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.costs import StepCosts
from service.engine.forecast import Forecast
from service.engine.scheduler import FLEX_SHARE, Batch, Scheduler, StepReport
from tests.service.engine.scheduling import costs, lanes, run


def test_nothing_to_do() -> None:
    scheduler = lanes(1.0)
    assert scheduler.schedule() is None
    assert Forecast(scheduler).backlog_s() == 0
    assert len(scheduler) == 0


def test_rows_join_and_leave_at_step_boundaries() -> None:
    scheduler = lanes(1.0)
    scheduler.admit("m0", [0, 1], steps=2)
    assert run(scheduler) == (Batch("m0", (0, 1)), ())
    scheduler.admit("m0", [2], steps=3)
    assert run(scheduler) == (Batch("m0", (0, 1, 2)), (0, 1))
    assert run(scheduler) == (Batch("m0", (2,)), ())
    assert run(scheduler) == (Batch("m0", (2,)), (2,))
    assert scheduler.schedule() is None


def test_oldest_first_up_to_the_limit() -> None:
    scheduler = lanes(1.0, limit=2)
    scheduler.admit("m0", [3, 4, 5], steps=1)
    assert run(scheduler)[0].rows == (3, 4)
    assert run(scheduler)[0].rows == (5,)


def test_a_row_removed_while_it_runs_does_not_finish() -> None:
    scheduler = lanes(1.0)
    scheduler.admit("m0", [0, 1], steps=1)
    batch = scheduler.schedule()
    assert batch == Batch("m0", (0, 1))
    assert scheduler.remove(0) == 1
    assert scheduler.remove(0) == 0
    scheduler.charge(batch, StepReport(1.0))
    assert scheduler.advance(batch) == (1,)
    assert len(scheduler) == 0


@given(st.data())
def test_every_row_takes_its_steps_and_finishes_once_unless_removed(data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 5))
    seconds = data.draw(st.lists(costs, min_size=1, max_size=4))
    scheduler = lanes(*seconds, limit=limit)
    steps_of: dict[int, int] = {}
    model_of: dict[int, str] = {}
    removed: set[int] = set()
    finished: list[int] = []
    taken: Counter[int] = Counter()

    def step(jitter: float) -> None:
        batch = scheduler.schedule()
        if batch is None:
            assert len(scheduler) == 0
            return
        waiting = [
            row for row, model in model_of.items() if model == batch.model and row not in removed and row not in finished
        ]
        assert list(batch.rows) == waiting[:limit], "the oldest rows of the model, and nothing else"
        scheduler.charge(batch, StepReport(jitter * seconds[int(batch.model[1:])]))
        taken.update(batch.rows)
        finished.extend(scheduler.advance(batch))

    for _ in range(data.draw(st.integers(1, 30))):
        action = data.draw(st.sampled_from(["admit", "remove", "step", "step"]))
        if action == "admit":
            number, steps = data.draw(st.integers(0, len(seconds) - 1)), data.draw(st.integers(1, 6))
            rows = range(len(steps_of), len(steps_of) + data.draw(st.integers(1, 6)))
            scheduler.admit(f"m{number}", rows, steps)
            steps_of.update(dict.fromkeys(rows, steps))
            model_of.update(dict.fromkeys(rows, f"m{number}"))
        elif action == "remove" and steps_of:
            row = data.draw(st.sampled_from(sorted(steps_of)))
            left = scheduler.remove(row)
            assert left == (0 if row in finished or row in removed else steps_of[row] - taken[row])
            if row not in finished:
                removed.add(row)
        else:
            step(data.draw(st.floats(0.2, 5)))
    for _ in range(sum(steps_of.values())):
        step(1.0)

    assert scheduler.schedule() is None
    assert sorted(finished) == sorted(steps_of.keys() - removed)
    assert all(taken[row] == steps_of[row] for row in finished)
    assert Forecast(scheduler).backlog_s() == 0


weights = st.floats(0.25, 4.0)


def shared(seconds: list[float], weight: list[float], flex: list[bool]) -> Scheduler:
    scheduler = Scheduler()
    for number, (cost, share) in enumerate(zip(seconds, weight, strict=True)):
        scheduler.add_model(f"m{number}", StepCosts({4: cost}), weight=share)
        scheduler.admit(f"m{number}", range(100 * number, 100 * number + 8), steps=10**6, flex=flex[number])
    return scheduler


@given(st.lists(st.tuples(costs, weights, st.booleans()), min_size=2, max_size=5), st.integers(50, 300))
def test_device_time_is_shared_by_weight_between_models_with_work(
    models: list[tuple[float, float, bool]], batches: int
) -> None:
    seconds, weight, flex = (list(column) for column in zip(*models, strict=True))
    scheduler = shared(seconds, weight, flex)
    used: Counter[str] = Counter()
    for _ in range(batches):
        batch, _ = run(scheduler, *seconds)
        used[batch.model] += seconds[int(batch.model[1:])]  # type: ignore[assignment]
    share = [w * (FLEX_SHARE if waits else 1) for w, waits in zip(weight, flex, strict=True)]
    quantum = min(cost / w for cost, w in zip(seconds, weight, strict=True))
    rounds = [used[f"m{number}"] / share[number] for number in range(len(models))]
    slack = [cost / w + 2 * quantum for cost, w in zip(seconds, share, strict=True)]
    for i, j in permutations(range(len(models)), 2):
        assert rounds[i] - rounds[j] <= slack[i] + slack[j] + 1e-9


@given(st.lists(st.tuples(costs, weights, st.booleans()), min_size=2, max_size=5), st.data())
def test_the_bound_on_waiting(models: list[tuple[float, float, bool]], data: st.DataObject) -> None:
    """The bound of the module's docstring, while models find work and lose it as they please."""
    seconds, weight, flex = (list(column) for column in zip(*models, strict=True))
    scheduler = Scheduler()
    for number, (cost, share) in enumerate(zip(seconds, weight, strict=True)):
        scheduler.add_model(f"m{number}", StepCosts({4: cost}), weight=share)
    share = [w * (FLEX_SHARE if waits else 1) for w, waits in zip(weight, flex, strict=True)]
    quantum = min(cost / w for cost, w in zip(seconds, weight, strict=True))
    longest: Counter[int] = Counter()
    waited: dict[int, Counter[int]] = {}  # model with work -> batches of others since it found work or ran
    row = 0
    for _ in range(200):
        for number in range(len(models)):
            if number not in waited and data.draw(st.booleans()):
                scheduler.admit(f"m{number}", [row], steps=data.draw(st.integers(1, 20)), flex=flex[number])
                row += 1
                waited[number] = Counter()
        batch = scheduler.schedule()
        if batch is None:
            continue
        runs = int(batch.model[1:])
        took = seconds[runs] * data.draw(st.floats(0.5, 2))
        longest[runs] = max(longest[runs], took)  # type: ignore[assignment]
        scheduler.charge(batch, StepReport(took))
        for number, others in waited.items():
            if number != runs:
                others[runs] += took  # type: ignore[assignment]
                m_s = longest[number] / share[number]
                bound = longest[runs] + share[runs] * (m_s + 2 * quantum)
                assert others[runs] <= bound + 1e-9, (number, runs)
        if scheduler.advance(batch):
            del waited[runs]
        else:
            waited[runs] = Counter()


def test_a_student_waits_for_one_step_of_each_slower_model_at_a_time() -> None:
    seconds = (0.1, 0.004, 0.05)
    scheduler = shared(list(seconds), [1.0] * 3, [False] * 3)
    since: Counter[str] = Counter()
    for _ in range(5000):
        batch, _ = run(scheduler, *seconds)
        if batch.model == "m1":
            since.clear()
        since[batch.model] += 1
        assert since["m0"] <= 1
        assert since["m2"] <= 1


def test_debt_outlives_the_row_that_made_it() -> None:
    """A model whose requests are one long step each cannot exceed its share, although its lane empties every time."""
    seconds, used = (0.1, 0.001), Counter[str]()
    scheduler = lanes(*seconds)
    scheduler.admit("m1", [0], steps=10**6)
    for number in range(1, 2000):
        if number not in scheduler and Forecast(scheduler).wait_s("m0") == 0:
            scheduler.admit("m0", [number], steps=1)
        batch, _ = run(scheduler, *seconds)
        used[batch.model] += seconds[int(batch.model[1:])]  # type: ignore[assignment]
    assert used["m0"] <= used["m1"] + 0.1 + 1e-9


def test_flex_rows_take_what_is_idle_and_a_small_share_when_nothing_is() -> None:
    scheduler, used = lanes(1.0, 1.0), Counter[tuple[str, bool]]()
    scheduler.admit("m0", range(4), steps=10**6, flex=True)
    assert run(scheduler)[0] == Batch("m0", (0, 1, 2, 3), flex=True)
    scheduler.admit("m1", [10], steps=2000)
    for _ in range(1000):
        batch, _ = run(scheduler)
        used[batch.model, batch.flex] += 1
    assert used["m0", True] / 1000 == pytest.approx(FLEX_SHARE / (1 + FLEX_SHARE), abs=0.005)


def test_flex_rows_take_the_places_of_padding() -> None:
    scheduler = Scheduler()
    scheduler.add_model("m0", StepCosts({2: 1.0, 8: 2.0}, padded=lambda rows: 2 if rows <= 2 else 8))
    scheduler.admit("m0", range(4), steps=2, flex=True)
    scheduler.admit("m0", range(10, 15), steps=1)
    batch = scheduler.schedule()
    while batch is not None and batch.flex:
        scheduler.charge(batch, StepReport(2.0))
        scheduler.advance(batch)
        batch = scheduler.schedule()
    assert batch == Batch("m0", (10, 11, 12, 13, 14, 0, 1, 2))


def test_an_earlier_deadline_goes_first() -> None:
    scheduler = lanes(1.0, limit=1)
    scheduler.admit("m0", [0], steps=2, deadline_s=9.0)
    run(scheduler)
    scheduler.admit("m0", [1], steps=1, deadline_s=5.0)
    scheduler.admit("m0", [2], steps=1, deadline_s=9.0)
    assert [run(scheduler)[0].rows for _ in range(3)] == [(1,), (0,), (2,)]


def test_out_of_memory_shrinks_both_classes_of_a_model() -> None:
    scheduler = lanes(1.0, 1.0)
    for model in ("m0", "m1"):
        scheduler.admit(model, range(8) if model == "m0" else range(10, 18), steps=9)
    scheduler.shrink("m0", 2)
    assert {len(run(scheduler)[0].rows) for _ in range(1)} | {len(run(scheduler)[0].rows)} == {2, 4}


def test_a_new_model_runs_after_at_most_one_batch_of_each_other() -> None:
    seconds = (0.5, 0.001, 0.3)
    scheduler = lanes(*seconds)
    scheduler.admit("m0", [0], steps=1000)
    scheduler.admit("m1", [1], steps=1000)
    for _ in range(50):
        run(scheduler, *seconds)
    scheduler.admit("m2", [2], steps=1)
    assert "m2" in {run(scheduler, *seconds)[0].model for _ in range(3)}


@pytest.mark.parametrize("alone", [True, False])
def test_a_stalled_step_keeps_its_lane_waiting_for_a_few_steps_only(alone: bool) -> None:
    seconds = (0.001, 0.001)
    scheduler = lanes(*seconds)
    scheduler.admit("m0", [0], steps=1000)
    scheduler.admit("m1", [1], steps=1000)
    batch = scheduler.schedule()
    assert batch == Batch("m0", (0,))
    scheduler.charge(batch, StepReport(1.0, alone=alone))  # a thousand times as long as it should have taken
    scheduler.advance(batch)
    assert "m0" in {run(scheduler, *seconds)[0].model for _ in range(6)}


def test_a_large_debt_is_paid_back_without_counting_the_rounds() -> None:
    seconds = (0.001, 0.001)
    scheduler = lanes(*seconds)
    scheduler.admit("m0", [0], steps=10)
    scheduler.admit("m1", [1], steps=5)
    batch = scheduler.schedule()
    assert batch == Batch("m0", (0,))
    scheduler.charge(batch, StepReport(1e9, clean=False))  # 10^12 rounds of debt
    scheduler.advance(batch)
    assert [run(scheduler, *seconds)[0].model for _ in range(5)] == ["m1"] * 5
    assert run(scheduler, *seconds)[0].model == "m0", "alone, it runs on at once"


def test_idle_places_beside_a_batch_go_to_the_earliest_rows_of_other_lanes() -> None:
    scheduler = Scheduler()
    for model, abreast in (("m0", 4), ("m1", 4), ("m2", 1), ("m3", 3)):
        scheduler.add_model(model, StepCosts({4: 1.0}), abreast=abreast)
    scheduler.admit("m0", [0], steps=9)
    scheduler.admit("m2", [1], steps=9)  # its runtime takes one batch at a time
    scheduler.admit("m3", [2, 3], steps=9)
    scheduler.admit("m3", [4], steps=9, deadline_s=1.0)
    scheduler.admit("m1", [5, 6], steps=9)
    batch = scheduler.schedule()
    assert batch == Batch("m0", (0,))
    assert scheduler.beside(batch) == [Batch("m3", (4, 2)), Batch("m1", (5,))]
    scheduler.charge(batch, StepReport(1.0))
    assert scheduler.beside(Batch("m2", (1,))) == []
    assert scheduler.beside(Batch("m3", (2, 3, 4))) == [], "its runtime is full at three"
    assert scheduler.beside(Batch("m1", (5, 6))) == [Batch("m3", (4,)), Batch("m0", (0,))]
    scheduler.run_exclusively([5, 6], 1.0)
    assert scheduler.beside(Batch("m1", (5, 6))) == []


def test_rows_beside_a_batch_are_not_charged() -> None:
    """A row that runs beside others gets every step, and its lane has no debt when more rows arrive."""
    scheduler = Scheduler()
    for model in ("m0", "m1", "m2"):
        scheduler.add_model(model, StepCosts({4: 1.0}), abreast=2)
    scheduler.admit("m0", [0], steps=100)
    scheduler.admit("m1", [1], steps=100)
    for _ in range(50):
        batch = scheduler.schedule()
        assert batch is not None
        beside = scheduler.beside(batch)
        assert {batch.model, *(each.model for each in beside)} == {"m0", "m1"}
        scheduler.charge(batch, StepReport(1.0))
        for each in (batch, *beside):
            scheduler.advance(each)
    assert {scheduler.remove(0), scheduler.remove(1)} == {50}
    scheduler.admit("m0", range(2, 6), steps=8)
    scheduler.admit("m2", range(6, 10), steps=8)
    assert Counter(run(scheduler)[0].model for _ in range(16)) == {"m0": 8, "m2": 8}


@pytest.mark.parametrize("rows", [1, 1000])
def test_membership(rows: int) -> None:
    scheduler = lanes(1.0)
    scheduler.admit("m0", range(rows), steps=1)
    assert len(scheduler) == rows
    assert 0 in scheduler
    scheduler.remove(0)
    assert 0 not in scheduler


def test_exclusive_rows_have_the_device_until_they_are_done_and_their_lane_pays() -> None:
    scheduler = lanes(1.0, 1.0, limit=2)
    scheduler.admit("m0", [0], steps=9)
    scheduler.admit("m1", [1], steps=9)
    scheduler.admit("m1", [2, 3, 4], steps=2)
    shared_s = Forecast(scheduler).wait_s("m0")
    scheduler.run_exclusively([2, 3, 4], seconds=100)
    assert Forecast(scheduler).exclusive_left_s == 4
    assert Forecast(scheduler).wait_s("m0") == shared_s + 4
    assert [run(scheduler)[0].rows for _ in range(4)] == [(2, 3), (2, 3), (4,), (4,)]
    assert Forecast(scheduler).exclusive_left_s == 0
    assert [run(scheduler)[0].model for _ in range(4)] == ["m0"] * 4, "m1 has had four seconds"


def test_exclusive_time_is_bounded_and_ends_with_its_rows() -> None:
    scheduler = lanes(1.0, 1.0, limit=4)
    scheduler.admit("m0", [0], steps=9)
    scheduler.admit("m1", [1, 2], steps=9)
    scheduler.run_exclusively([1, 2], seconds=1.5)
    assert Forecast(scheduler).exclusive_left_s == 1.5
    assert [run(scheduler)[0].model for _ in range(3)] == ["m1", "m1", "m0"]
    scheduler.admit("m1", [3, 4], steps=9)
    scheduler.run_exclusively([3, 4], seconds=100)
    scheduler.remove(3)
    assert run(scheduler)[0].rows == (4,)
    scheduler.remove(4)
    assert Forecast(scheduler).exclusive_left_s == 0
    assert run(scheduler)[0].model == "m0"


def test_exclusive_batches_are_no_larger_than_the_memory_allows() -> None:
    scheduler = lanes(1.0, limit=4)
    scheduler.admit("m0", [0, 1, 2, 3], steps=1)
    scheduler.run_exclusively([0, 1, 2, 3], seconds=100)
    scheduler.shrink("m0", 2)
    assert run(scheduler) == (Batch("m0", (0, 1)), (0, 1))
