"""A simulated fleet: replicas that use the engine's scheduler and admission on a clock of calibrated step times.

A replica drives one scheduler as the engine does (schedule, charge, advance; admission; estimates). Its clock advances by the
calibrated time of each batch, with 5 % noise. Arrivals are Poisson with bursts of twice the calm rate, and 1 % of the clients
leave before their answer. benchmarks/fleet.py uses it to find how many replicas a day needs.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from models.catalogue import Resolved
from service.engine.admission import Admission
from service.engine.costs import StepCosts
from service.engine.forecast import Forecast
from service.engine.request import EngineError
from service.engine.scheduler import Batch, Scheduler, StepReport

BURST, BURST_S, CALM_S = 2.0, 5.0, 35.0
LIMIT_S, LEAVES, NOISE = 60.0, 0.01, 0.05


@dataclass
class Request:
    """A request for images of one model; deadline_s counts from its arrival."""

    model: Resolved
    images: int
    arrived_s: float
    deadline_s: float | None
    estimate_s: float = 0.0
    left: int = 0
    numbers: range = range(0)


@dataclass
class Tally:
    """Counts the outcomes of a window's requests and the device time that they used."""

    latency: dict[str, list[float]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    offered: int = 0
    refused: int = 0
    late: int = 0
    busy_s: float = 0.0
    steps: int = 0
    wasted: int = 0


@dataclass
class Mix:
    """A kind of traffic. draw: returns a request's candidate models (best first), images and deadline."""

    name: str
    draw: Callable[[random.Random], tuple[Sequence[Resolved], int, float | None]]
    row_steps: float  # steps of an image in the mean: row steps a second / row_steps = images a second
    weights: Mapping[str, float] = field(default_factory=dict)


class Replica:
    """Runs the engine's schedule -> execute -> deliver with the calibrated time of a batch instead of a device."""

    def __init__(
        self, costs: Mapping[str, dict[int, float]], mix: Mix, tally: Tally, quality: Mapping[str, float], seed: int
    ) -> None:
        self.scheduler = Scheduler()
        self.forecast = Forecast(self.scheduler)
        self._admission = Admission(self.forecast, LIMIT_S)
        for model, curve in costs.items():
            self.scheduler.add_model(model, StepCosts(curve), weight=mix.weights.get(model, 1.0))
        self._truth = {model: StepCosts(curve) for model, curve in costs.items()}
        self._requests: dict[int, Request] = {}
        self._numbers = count()
        self._tally, self._quality, self._random = tally, quality, random.Random(seed)
        self.batch: Batch | None = None
        self._seconds = 0.0

    def submit(self, models: Sequence[Resolved], images: int, now_s: float, deadline_s: float | None) -> Request | None:
        """Admit a request as Engine.choose and Engine.submit do; return None when it is refused."""
        self._tally.offered += 1
        try:
            model = models[0]
            if deadline_s is not None:
                model = self._admission.choose(models, images=images, max_latency_s=deadline_s, now_s=now_s, flex=False)
            self._admission.check_backlog(model, now_s, flex=False)
        except EngineError:
            self._tally.refused += 1
            return None
        entry, steps = model.entry.id, len(model.plan)
        estimate_s = self.forecast.completion_s(entry, rows=images, steps=steps, now_s=now_s)
        request = Request(model, images, now_s, deadline_s, estimate_s, images)
        first = next(self._numbers)
        request.numbers = range(first, first + images)
        for _ in range(images - 1):
            next(self._numbers)
        self._requests.update(dict.fromkeys(request.numbers, request))
        due_s = now_s + min(deadline_s or LIMIT_S, LIMIT_S)
        promised_s = None if deadline_s is None else now_s + deadline_s
        self.scheduler.admit(entry, request.numbers, steps, deadline_s=due_s, promised_s=promised_s)
        return request

    def leave(self, request: Request) -> None:
        """Cancel a request whose client has left: its rows leave at the next step boundary."""
        for number in request.numbers:
            if self._requests.pop(number, None) is not None:
                self._tally.wasted += len(request.model.plan) - self.scheduler.remove(number)

    def begin(self) -> float | None:
        """Start the next batch and return its seconds; None when there is nothing to run."""
        self.batch = self.scheduler.schedule()
        if self.batch is None:
            return None
        noise = 1 + NOISE * self._random.gauss(0, 1)
        self._seconds = self._truth[self.batch.model].seconds(len(self.batch.rows)) * max(noise, 0.5)
        return self._seconds

    def end(self, now_s: float) -> None:
        """Finish the batch at now_s."""
        assert self.batch is not None
        tally = self._tally
        tally.busy_s += self._seconds
        tally.steps += len(self.batch.rows)
        self.scheduler.charge(self.batch, StepReport(self._seconds, now_s=now_s))
        for number in self.scheduler.advance(self.batch):
            request = self._requests.pop(number)
            request.left -= 1
            if request.left == 0:
                took_s = now_s - request.arrived_s
                tally.latency.setdefault(request.model.entry.manifest.kind, []).append(took_s)
                tally.ratios.append(took_s / request.estimate_s)
                tally.quality.append(self._quality.get(request.model.id, math.nan))
                tally.late += request.deadline_s is not None and took_s > request.deadline_s
        self.batch = None


def arrivals(rate: float, window_s: float, images: float, chance: random.Random) -> Iterator[float]:
    """Yield the arrival times of requests in bursts: on average `images` images each and `rate` images a second."""
    calm = rate / images / ((CALM_S + BURST * BURST_S) / (CALM_S + BURST_S))
    now_s, bursting = 0.0, False
    until_s = chance.expovariate(1 / CALM_S)
    while now_s < window_s:
        gap_s = chance.expovariate(calm * (BURST if bursting else 1))
        if now_s + gap_s > until_s:
            now_s, bursting = until_s, not bursting
            until_s += chance.expovariate(1 / (BURST_S if bursting else CALM_S))
            continue
        now_s += gap_s
        yield now_s


def simulate(
    costs: Mapping[str, dict[int, float]],
    mix: Mix,
    rate: float,
    replicas: int,
    window_s: float,
    quality: Mapping[str, float],
    seed: int,
) -> Tally:
    """Simulate a window of `rate` images a second; requests that are unfinished at its end are still run to completion."""
    tally, chance = Tally(), random.Random(seed)
    fleet = [Replica(costs, mix, tally, quality, seed + number) for number in range(replicas)]
    order = count()
    events: list[tuple[float, int, Callable[[float], None]]] = []

    def at(when_s: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (when_s, next(order), what))

    def run(replica: Replica, now_s: float) -> None:
        seconds = replica.begin()
        if seconds is not None:
            at(now_s + seconds, lambda then_s: (replica.end(then_s), run(replica, then_s))[1])

    mean_images = sum(mix.draw(random.Random(i))[1] for i in range(2000)) / 2000
    for when_s in arrivals(rate, window_s, mean_images, chance):
        while events and events[0][0] <= when_s:
            then_s, _, what = heapq.heappop(events)
            what(then_s)
        pair = chance.sample(fleet, min(2, replicas))
        replica = min(pair, key=lambda one: one.forecast.backlog_s())
        models, images, deadline_s = mix.draw(chance)
        request = replica.submit(models, images, when_s, deadline_s)
        if request is None:
            continue
        if chance.random() < LEAVES:
            at(when_s + chance.uniform(0, 2 * request.estimate_s), lambda _, r=replica, q=request: r.leave(q))  # type: ignore[misc]
        if replica.batch is None:
            run(replica, when_s)
    while events:
        then_s, _, what = heapq.heappop(events)
        what(then_s)
    return tally
