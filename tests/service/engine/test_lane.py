"""Inside a lane: earliest deadline first, then age. Estimates are exact where rows are equally long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.costs import StepCosts
from service.engine.lane import Lane


def lane(limit: int) -> Lane:
    return Lane("m", StepCosts({limit: 1.0}), 1.0)


def run(one: Lane) -> list[int]:
    """Run one step of the lane's batch. Return the rows whose last step it was."""
    return [number for number in one.batch if one.advance(number)]


@given(st.integers(1, 5), st.data())
def test_the_batch_is_the_earliest_deadlines_then_the_oldest(limit: int, data: st.DataObject) -> None:
    one = lane(limit)
    here: dict[int, tuple[float, int]] = {}  # number -> deadline, steps left
    for number in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["add", "add", "remove", "step", "shrink"]))
        if action == "add":
            deadline_s, steps = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 4))
            one.add(number, steps, float(deadline_s))
            here[number] = (deadline_s, steps)
        elif action == "remove" and here:
            gone = data.draw(st.sampled_from(sorted(here)))
            assert one.remove(gone) == here.pop(gone)[1]
            assert one.remove(gone) == 0
        elif action == "shrink":
            one.shrink(data.draw(st.integers(1, 5)))
        else:
            for runs in one.batch:
                deadline_s, left = here.pop(runs)
                assert one.advance(runs) == (left == 1)
                if left > 1:
                    here[runs] = (deadline_s, left - 1)
        expected = sorted(here, key=lambda row: (here[row][0], row))[: one.limit]
        assert list(one.batch) == expected
        assert len(one) == len(here)
        assert one.backlog_s == (sum(left for _, left in here.values()) / len(expected) if expected else 0)


def test_a_row_is_overtaken_only_by_rows_that_arrive_before_its_deadline() -> None:
    """Urgent rows arrive once a second, each due in 3 s, beside a row that is due at 10 s."""
    one = lane(1)
    one.add(0, 1, 10.0)
    for second in range(1, 100):
        one.add(second, 1, second + 3.0)
        if 0 in run(one):
            break
    assert second <= 11


def test_a_displaced_row_keeps_its_steps() -> None:
    one = lane(1)
    one.add(0, 3, 9.0)
    run(one)
    one.add(1, 1, 5.0)
    assert one.batch == (1,)
    assert run(one) == [1]
    assert one.batch == (0,)
    assert one.remove(0) == 2


def test_lack_of_memory_shrinks_the_batch_and_good_batches_restore_it_bucket_by_bucket() -> None:
    one = Lane("m", StepCosts({1: 1.0, 2: 1.5, 4: 2.0, 8: 3.0}), 1.0)
    for number in range(10):
        one.add(number, 10**6, 0.0)
    one.shrink(3)
    assert len(one.batch) == 3
    one.shrink(5)
    assert len(one.batch) == 3, "it only shrinks"
    sizes = []
    for _ in range(3000):
        one.recover()
        sizes.append(len(one.batch))
    assert sorted(set(sizes)) == [3, 4, 8]
    one.shrink(0)
    assert len(one.batch) == 1


@given(st.integers(1, 4), st.integers(1, 8), st.lists(st.integers(0, 7), max_size=12), st.integers(1, 9))
def test_the_steps_to_the_end_of_a_request(limit: int, steps: int, ages: list[int], rows: int) -> None:
    """Behind equal rows of different progress, the estimate is the time of running them all, in steps of one second."""
    one = lane(limit)
    for number, age in enumerate(sorted(ages, reverse=True)):
        one.add(number, steps, float(number))
        if number < limit:
            for _ in range(min(age, steps - 1)):
                one.advance(number)
    estimated = one.finish_s(rows, steps, running=False)
    newcomers = range(100, 100 + rows)
    for number in newcomers:
        one.add(number, steps, float(number))
    taken = 0
    while any(number in one for number in newcomers):
        run(one)
        taken += 1
    assert estimated == pytest.approx(taken)


def test_a_hundred_thousand_waiting_rows_are_queued_estimated_run_and_cancelled() -> None:
    one = lane(4)
    for number in range(100_000):
        one.add(number, 16, 60.0)
    for _ in range(1000):
        run(one)
        one.finish_s(1, 16, running=False)
    for number in range(100_000):
        one.remove(number)
    assert len(one) == one.backlog_s == 0
    one.add(100_000, 1, 0.0)
    assert one.batch == (100_000,)
