"""The scheduler's promises, driven without a device: nothing is lost, nothing starves, device time is shared."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.costs import StepCosts
from service.engine.scheduler import Batch, Scheduler

costs = st.floats(0.001, 1.0)


def lanes(*seconds: float, limit: int = 4) -> Scheduler:
    """Models m0, m1, ... whose steps take so long, whatever their batch size."""
    scheduler = Scheduler()
    for number, cost in enumerate(seconds):
        scheduler.add_model(f"m{number}", StepCosts({limit: cost}), limit)
    return scheduler


def run(scheduler: Scheduler, *seconds: float) -> tuple[Batch, tuple[int, ...]]:
    """One step that takes its model's `seconds` (1 each if not given); returns the batch and the rows that finished."""
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.charge(batch, seconds[int(batch.model[1:])] if seconds else 1.0)
    return batch, scheduler.advance(batch)


def test_nothing_to_do() -> None:
    scheduler = lanes(1.0)
    assert scheduler.schedule() is None
    assert scheduler.backlog_s() == 0
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
    scheduler.admit("m0", [5, 3, 4], steps=1)
    assert run(scheduler)[0].rows == (5, 3)
    assert run(scheduler)[0].rows == (4,)


def test_a_row_removed_while_it_runs_does_not_finish() -> None:
    scheduler = lanes(1.0)
    scheduler.admit("m0", [0, 1], steps=1)
    batch = scheduler.schedule()
    assert batch == Batch("m0", (0, 1))
    assert scheduler.remove(0) == 1
    assert scheduler.remove(0) == 0
    scheduler.charge(batch, 1.0)
    assert scheduler.advance(batch) == (1,)
    assert len(scheduler) == 0


def test_backlog_is_the_steps_left_at_the_width_that_the_rows_fill() -> None:
    scheduler = Scheduler()
    scheduler.add_model("m0", StepCosts({1: 1.0, 2: 1.5, 4: 2.0}), limit=4)
    scheduler.admit("m0", [0], steps=10)
    assert scheduler.backlog_s() == 10
    scheduler.admit("m0", [1], steps=10)
    assert scheduler.backlog_s() == 15
    scheduler.admit("m0", range(2, 8), steps=10)
    assert scheduler.backlog_s() == 40
    for row in range(8):
        scheduler.remove(row)
    assert scheduler.backlog_s() == 0


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
        scheduler.charge(batch, jitter * seconds[int(batch.model[1:])])
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
    assert scheduler.backlog_s() == 0


@given(st.lists(costs, min_size=2, max_size=5), st.integers(50, 300))
def test_device_time_is_shared_equally_between_models_with_work(seconds: list[float], batches: int) -> None:
    scheduler = lanes(*seconds)
    for number in range(len(seconds)):
        scheduler.admit(f"m{number}", range(100 * number, 100 * number + 8), steps=10**6)
    used: Counter[str] = Counter()
    for _ in range(batches):
        batch, _ = run(scheduler, *seconds)
        used[batch.model] += seconds[int(batch.model[1:])]  # type: ignore[assignment]
    shares = [used[f"m{number}"] for number in range(len(seconds))]
    assert max(shares) - min(shares) <= max(seconds) + 2 * min(seconds) + 1e-9


@given(st.lists(costs, min_size=2, max_size=5), st.data())
def test_no_model_starves_and_a_cheap_one_waits_one_batch_of_each_other(seconds: list[float], data: st.DataObject) -> None:
    scheduler = lanes(*seconds)
    quantum = min(seconds)
    admitted = 0
    since: dict[str, Counter[str]] = {}  # batches of others since the model last ran or found work
    for _ in range(200):
        for number in range(len(seconds)):
            name = f"m{number}"
            if name not in since and data.draw(st.booleans()):
                scheduler.admit(name, [admitted], steps=data.draw(st.integers(1, 20)))
                admitted += 1
                since[name] = Counter()
        if not len(scheduler):
            continue
        batch, finished = run(scheduler, *seconds)
        for name, others in since.items():
            if name != batch.model:
                others[batch.model] += 1
        since[batch.model] = Counter()
        if finished:
            del since[batch.model]
        for name, others in since.items():
            rounds = 1 + math.ceil(seconds[int(name[1:])] / quantum)
            assert all(count <= rounds for count in others.values())
            if seconds[int(name[1:])] == quantum:
                assert all(count <= 1 for count in others.values())


def test_a_new_model_runs_after_at_most_one_batch_of_each_other() -> None:
    seconds = (0.5, 0.001, 0.3)
    scheduler = lanes(*seconds)
    scheduler.admit("m0", [0], steps=1000)
    scheduler.admit("m1", [1], steps=1000)
    for _ in range(50):
        run(scheduler, *seconds)
    scheduler.admit("m2", [2], steps=1)
    assert "m2" in {run(scheduler, *seconds)[0].model for _ in range(3)}


def test_a_stalled_step_is_paid_back_without_counting_through_the_rounds() -> None:
    seconds = (0.001, 0.001)
    scheduler = lanes(*seconds)
    scheduler.admit("m0", [0], steps=10)
    scheduler.admit("m1", [1], steps=5)
    batch = scheduler.schedule()
    assert batch == Batch("m0", (0,))
    scheduler.charge(batch, 1e9)  # a trillion rounds of debt
    scheduler.advance(batch)
    assert [run(scheduler, *seconds)[0].model for _ in range(5)] == ["m1"] * 5
    assert run(scheduler, *seconds)[0].model == "m0", "alone, it runs on at once"


@pytest.mark.parametrize("rows", [1, 1000])
def test_membership(rows: int) -> None:
    scheduler = lanes(1.0)
    scheduler.admit("m0", range(rows), steps=1)
    assert len(scheduler) == rows
    assert 0 in scheduler
    scheduler.remove(0)
    assert 0 not in scheduler
