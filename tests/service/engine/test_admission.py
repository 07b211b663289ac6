"""Admission: which requests are taken, what is promised, and that promises are kept."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.catalogue import Catalogue, Resolved
from service.engine.admission import Admission, undominated
from service.engine.costs import StepCosts
from service.engine.forecast import Forecast
from service.engine.request import LatencyError, OverloadedError
from service.engine.scheduler import Scheduler, StepReport


@dataclass
class Device:
    """A scheduler on a clock of its own that runs every batch in exactly its calibrated time."""

    scheduler: Scheduler
    costs: StepCosts = field(default_factory=lambda: StepCosts({1: 0.01, 64: 0.64}))
    now_s: float = 0.0
    done_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forecast = Forecast(self.scheduler)

    def choose(
        self,
        models: list[Resolved],
        *,
        within_s: float,
        images: int = 1,
        max_backlog_s: float = 60.0,
        now_s: float | None = None,
    ) -> Resolved:
        """Choose as the engine does, by default now."""
        admission = Admission(self.forecast, max_backlog_s)
        now_s = self.now_s if now_s is None else now_s
        return admission.choose(models, images=images, max_latency_s=within_s, now_s=now_s, flex=False)

    def check_exclusive(self, model: Resolved) -> None:
        """Ask for one image that runs exclusively for a minute at most."""
        Admission(self.forecast, 60.0).check_exclusive(model, images=1, seconds=60.0, now_s=self.now_s)

    def run(self, until_s: float = float("inf")) -> None:
        while self.now_s < until_s and (batch := self.scheduler.schedule()) is not None:
            seconds = self.costs.calibrated(len(batch.rows))
            self.now_s += seconds
            self.scheduler.charge(batch, StepReport(seconds, now_s=self.now_s))
            self.done_s.update(dict.fromkeys(self.scheduler.advance(batch), self.now_s))


@pytest.fixture
def device(tiny_catalogue: Catalogue) -> Device:
    """Every model takes 10 ms a row and step, at most 4 rows at once."""
    scheduler = Scheduler()
    for model in tiny_catalogue.entries:
        scheduler.add_model(model, StepCosts({1: 0.01, 4: 0.04}))
    return Device(scheduler)


def check(device: Device, model: Resolved, limit_s: float) -> None:
    Admission(device.forecast, limit_s).check_backlog(model, device.now_s, flex=False)


def test_a_teacher_backlog_does_not_shut_out_students(tiny_catalogue: Catalogue, device: Device) -> None:
    teacher, student = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/student-004")
    check(device, teacher, limit_s=1.0)
    device.scheduler.admit("tiny/teacher", range(8), steps=32)  # 2.56 s: alone more than the limit
    with pytest.raises(
        OverloadedError, match=r"tiny/teacher takes about 2\.6 s, more than the 1 s allowed; try again in 1\.6 s"
    ):
        check(device, teacher, limit_s=1.0)
    for number in range(10, 20):  # 40 ms each: the student's own lane is what counts
        check(device, student, limit_s=1.0)
        device.scheduler.admit("tiny/student-004", [number], steps=4)


def test_each_lane_holds_at_most_the_limit_and_one_request(tiny_catalogue: Catalogue, device: Device) -> None:
    student = tiny_catalogue.resolve("tiny/student-004")
    admitted = 0
    while device.forecast.wait_s("tiny/student-004") <= 1.0:
        check(device, student, limit_s=1.0)
        device.scheduler.admit("tiny/student-004", [admitted], steps=4)
        admitted += 1
    with pytest.raises(OverloadedError):
        check(device, student, limit_s=1.0)
    assert admitted * 0.04 == pytest.approx(1.0, abs=0.05)
    assert device.forecast.backlog_s() == pytest.approx(1.0, abs=0.05)


def test_requests_are_refused_when_the_longest_wait_exceeds_the_limit(tiny_catalogue: Catalogue, device: Device) -> None:
    scheduler, forecast, student = device.scheduler, device.forecast, tiny_catalogue.resolve("tiny/student-004")
    assert forecast.longest_wait_s() == 0
    scheduler.admit("tiny/teacher", range(100, 104), steps=32, flex=True)
    assert forecast.longest_wait_s() == 0, "flex work can wait"
    scheduler.admit("tiny/student-004", range(8), steps=4)
    scheduler.admit("plain/teacher", [200], steps=1)
    longest_s = forecast.longest_wait_s()
    assert 0 < longest_s < forecast.backlog_s(), "the other lanes' work is not all ahead of one lane's"
    check(device, student, limit_s=longest_s)
    with pytest.raises(OverloadedError):
        check(device, student, limit_s=0.99 * longest_s)


@given(st.integers(0, 30), st.integers(1, 8))
def test_the_time_to_retry_is_honest(tiny_catalogue: Catalogue, students: int, teachers: int) -> None:
    """A refused request that returns after its retry time is taken."""
    scheduler = Scheduler()
    for name in tiny_catalogue.entries:
        scheduler.add_model(name, StepCosts({1: 0.01, 4: 0.04}))
    device = Device(scheduler)
    teacher = tiny_catalogue.resolve("tiny/teacher")
    scheduler.admit("tiny/teacher", range(1000, 1000 + teachers), steps=32)
    if students:
        scheduler.admit("tiny/student-004", range(students), steps=4)
    if device.forecast.wait_s("tiny/teacher") > 0.2:
        with pytest.raises(OverloadedError) as refused:
            check(device, teacher, limit_s=0.2)
        device.run(until_s=refused.value.retry_after_s + 0.09)  # one step of each lane, since steps are not divisible
    check(device, teacher, limit_s=0.2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["tiny/student-008", "tiny/student-004"]),
            st.integers(1, 3),
            st.floats(0.05, 2.0),
            st.floats(0, 0.3),
        ),
        min_size=1,
        max_size=40,
    )
)
@example(
    [
        ("tiny/student-008", 2, 0.6, 0.0),
        ("tiny/student-008", 3, 1.0, 0.015625),
        ("tiny/student-008", 3, 1.0, 0.0625),
        ("tiny/student-004", 2, 1.0, 0.125),
        ("tiny/student-008", 1, 1.0, 0.125),
    ]
)
@pytest.mark.parametrize("curve", [{1: 0.01, 64: 0.64}, {1: 0.006, 2: 0.01, 4: 0.016}])
def test_promises_are_kept(
    tiny_catalogue: Catalogue, curve: dict[int, float], requests: list[tuple[str, int, float, float]]
) -> None:
    """Two models. A request is taken only if its latency fits and it breaks no promise. Then every one is done in time.

    In time means to within the rounding of the round robin. With the second curve a batch holds four rows, so that promised
    rows wait.
    """
    scheduler = Scheduler()
    for name in ("tiny/student-008", "tiny/student-004"):
        scheduler.add_model(name, StepCosts(curve))
    device = Device(scheduler, StepCosts(curve))
    due: dict[int, float] = {}
    for number, (name, images, latency_s, pause_s) in enumerate(requests):
        device.run(until_s=device.now_s + pause_s)
        model = tiny_catalogue.resolve(name)
        try:
            device.choose([model], images=images, within_s=latency_s)
        except (OverloadedError, LatencyError):
            continue
        rows = range(100 * number, 100 * number + images)
        deadline_s = device.now_s + latency_s
        scheduler.admit(name, rows, steps=len(model.plan), deadline_s=deadline_s, promised_s=deadline_s)
        due.update(dict.fromkeys(rows, deadline_s))
    device.run()
    for row, due_s in due.items():
        assert device.done_s[row] <= due_s + 2 * curve[1] + 1e-6  # 2 Q of the other lane, see scheduler.py


def test_the_best_model_that_fits(tiny_catalogue: Catalogue, device: Device) -> None:
    names = ["tiny/teacher", "tiny/student-008", "tiny/student-004"]  # 320, 80 and 40 ms alone
    models = [tiny_catalogue.resolve(name) for name in names]

    def chosen(max_latency_s: float, images: int = 1) -> str:
        return device.choose(models, images=images, within_s=max_latency_s).id

    assert chosen(0.46) == "tiny/teacher", "an idle device, of which three tenths of the time are left to others"
    assert [chosen(seconds) for seconds in (0.45, 0.12)] == ["tiny/student-008"] * 2
    assert [chosen(seconds) for seconds in (0.11, 0.05)] == ["tiny/student-004"] * 2
    assert device.choose(models[:1], within_s=0.33, now_s=0.0) is models[0], "it only just fits"
    assert chosen(0.9, images=2) == "tiny/student-008"
    device.scheduler.admit("tiny/teacher", range(4), steps=32)
    assert chosen(1.0) == "tiny/student-008", "the teacher is busy for longer"
    device.scheduler.admit("tiny/student-008", range(10, 14), steps=8)
    assert chosen(0.3) == "tiny/student-004"
    with pytest.raises(OverloadedError, match=r"1 image\(s\) within 40 ms cannot be promised; try again in"):
        chosen(0.04)
    with pytest.raises(LatencyError, match=r"4 image\(s\) take at least 160 ms with the fastest model, more than the 90 ms"):
        chosen(0.09, images=4)


def test_beside_others_a_request_uses_less_of_its_limit(tiny_catalogue: Catalogue, device: Device) -> None:
    """Beside a student's image of 80 ms the teacher's 320 ms fit within 0.5 s, but not within 0.3 of it."""
    models = [tiny_catalogue.resolve(name) for name in ("tiny/teacher", "tiny/student-004")]

    def chosen(max_latency_s: float) -> str:
        return device.choose(models, within_s=max_latency_s).id

    assert chosen(0.5) == "tiny/teacher"
    device.scheduler.admit("tiny/student-008", [0], steps=8)
    assert chosen(0.5) == "tiny/student-004"
    assert chosen(2.0) == "tiny/teacher"
    device.run()
    device.scheduler.admit("tiny/student-008", [1], steps=8)
    device.scheduler.admit("tiny/student-008", [2], steps=8)
    device.run()
    assert chosen(0.5) == "tiny/student-004", "requests meet here, so the next one may soon be joined"
    for number in range(3, 20):
        device.scheduler.admit("tiny/student-008", [number], steps=8)
        device.run()
    assert chosen(0.5) == "tiny/teacher", "one after the other"


def test_a_model_that_another_dominates_is_never_chosen(tiny_catalogue: Catalogue, device: Device) -> None:
    """It is not chosen even if its steps are estimated at half their time, or if the better model's lane is full."""
    names = ["tiny/student-004", "tiny/teacher@ddim-008", "tiny/teacher@ddim-004", "tiny/teacher@ddim-002"]
    models = [tiny_catalogue.resolve(name) for name in names]
    assert [model.id for model in undominated(models)] == [names[0], names[3]]
    device.scheduler.remove_model("tiny/teacher")
    device.scheduler.add_model("tiny/teacher", StepCosts({1: 0.005, 4: 0.02}))

    def chosen(max_latency_s: float, limit_s: float = 60.0) -> str:
        return device.choose(models, within_s=max_latency_s, max_backlog_s=limit_s).id

    assert chosen(1.0) == names[0]
    assert chosen(0.03) == names[3], "two steps of 5 ms are faster, and worse"
    device.scheduler.admit("tiny/student-004", range(40), steps=4)
    assert chosen(1.0, limit_s=0.5) == names[3]


def test_arrivals_together_cannot_be_promised_the_same_device(tiny_catalogue: Catalogue, device: Device) -> None:
    model = tiny_catalogue.resolve("tiny/student-008")
    admitted = 0
    for number in range(100):
        try:
            device.choose([model], within_s=0.5)
        except OverloadedError:
            continue
        device.scheduler.admit("tiny/student-008", [number], steps=8, deadline_s=0.5, promised_s=0.5)
        admitted += 1
    device.run()
    assert 0 < admitted < 100
    assert max(device.done_s.values()) <= 0.5


def test_exclusive_time_breaks_no_promise_and_counts_in_every_estimate(tiny_catalogue: Catalogue, device: Device) -> None:
    """A student image takes 40 ms. One with a promise of 100 ms leaves no room for a teacher image of 320 ms."""
    teacher, student = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/student-004")
    device.scheduler.admit(student.id, [0], steps=4, deadline_s=0.1, promised_s=0.1)
    with pytest.raises(OverloadedError, match="promised") as refused:
        device.check_exclusive(teacher)
    assert refused.value.retry_after_s == pytest.approx(0.32)
    device.run()
    assert device.done_s[0] <= 0.1
    device.check_exclusive(teacher)
    device.scheduler.admit(teacher.id, [1], steps=32)
    device.scheduler.run_exclusively([1], 60.0)
    with pytest.raises(OverloadedError, match="promised"):
        device.check_exclusive(student)
    with pytest.raises(OverloadedError, match="cannot be promised"):
        device.choose([student], within_s=0.2)
    assert device.choose([student], within_s=0.6) == student


def test_promises_hold_in_a_rush(tiny_catalogue: Catalogue) -> None:
    """Twice the load that the device can serve, limits of half a second, three models with batches of four rows."""
    curve, chance = {1: 0.006, 2: 0.01, 4: 0.016}, random.Random(0)
    names = ["tiny/teacher", "tiny/student-008", "tiny/student-004"]
    models, scheduler = [tiny_catalogue.resolve(name) for name in names], Scheduler()
    for model in models:
        scheduler.add_model(model.id, StepCosts(curve))
    device, due, refused = Device(scheduler, StepCosts(curve)), {}, 0
    next_s = 0.0
    for number in range(1500):
        next_s += chance.expovariate(60)
        device.run(until_s=next_s)
        device.now_s = max(device.now_s, next_s)
        images = chance.choice([1, 2, 4])
        try:
            model = device.choose(chance.choice([models, models[1:2]]), images=images, within_s=0.5)
        except OverloadedError:
            refused += 1
            continue
        rows, deadline_s = range(100 * number, 100 * number + images), device.now_s + 0.5
        scheduler.admit(model.id, rows, len(model.plan), deadline_s=deadline_s, promised_s=deadline_s)
        due.update(dict.fromkeys(rows, deadline_s))
    device.run()
    assert 300 < refused < 1200
    late = [device.done_s[row] - due_s for row, due_s in due.items() if device.done_s[row] > due_s]
    assert max(late, default=0.0) <= 2 * 2 * curve[1], "2 Q of each other lane"


def test_a_promise_longer_than_the_backlog_is_kept_too(tiny_catalogue: Catalogue) -> None:
    scheduler = Scheduler()
    for name in ("tiny/teacher", "tiny/student-008"):
        scheduler.add_model(name, StepCosts({1: 1.0}))
    teacher, student = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/student-008")
    scheduler.admit(teacher.id, [0, 1], steps=32, deadline_s=60.0, promised_s=70.0)
    device = Device(scheduler)
    with pytest.raises(OverloadedError):
        device.choose([student], within_s=3600.0)
    scheduler.remove(1)
    assert device.choose([student], within_s=3600.0) is student


def test_a_busy_second_shuts_no_model_out(tiny_catalogue: Catalogue, device: Device) -> None:
    """For a moment, steps take three times as long. A request is refused with a time to retry, and taken a minute later."""
    student = tiny_catalogue.resolve("tiny/student-008")
    device.scheduler.admit(student.id, [0], steps=60)
    while (batch := device.scheduler.schedule()) is not None:
        device.now_s += 0.03
        device.scheduler.charge(batch, StepReport(0.03, now_s=device.now_s))
        device.scheduler.advance(batch)

    def ask(now_s: float) -> Resolved:
        return device.choose([student], within_s=0.1, now_s=now_s)  # 80 ms as calibrated

    with pytest.raises(OverloadedError):
        ask(device.now_s)
    assert ask(device.now_s + 60) is student
    with pytest.raises(LatencyError, match="at least 80 ms"):
        device.choose([student], within_s=0.07)


def test_the_time_to_retry_expects_what_keeps_arriving(tiny_catalogue: Catalogue) -> None:
    """The teacher's lane is too long while students keep arriving. At the time to retry it is within the limit."""
    chance, scheduler = random.Random(1), Scheduler()
    teacher, student = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/student-004")
    for model in (teacher, student):
        scheduler.add_model(model.id, StepCosts({1: 0.01}))
    device, number, next_s, told_s = Device(scheduler, StepCosts({1: 0.01})), 1000, 0.0, 0.0
    while not told_s or device.now_s < told_s:
        if next_s <= device.now_s:
            number, next_s = number + 1, next_s + chance.expovariate(10)
            scheduler.admit(student.id, [number], steps=4)
        elif not scheduler:
            device.now_s = next_s
        else:
            device.run(until_s=device.now_s + 0.001)
        if device.now_s > 40 and not told_s:
            scheduler.admit(teacher.id, range(100), steps=32)  # 32 s alone
            with pytest.raises(OverloadedError) as refused:
                check(device, teacher, limit_s=20.0)
            told_s = device.now_s + refused.value.retry_after_s
    assert device.forecast.wait_s(teacher.id, now_s=device.now_s) == pytest.approx(20.0, rel=0.15)
    assert told_s > 40 + 1.3 * 12, "students take 40 % meanwhile"
