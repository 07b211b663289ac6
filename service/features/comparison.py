"""A comparison of models on the same noises: what is run, in which order, and what the numbers mean.

    warm-up   every model once; its images are the ones that are shown and compared, its times count for nothing
    rounds    every model once a round, in a new random order, one request at a time, so that slow moments of the machine
              and the traffic of others fall on all models alike

Isolated, the measured requests have the device to themselves, for at most so many device seconds in all; whatever does not
fit is left out, and never measured under other conditions.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Resolved
from service.engine.engine import Engine
from service.engine.request import Failed, Finished, Generation, ImageSpec, OverloadedError, Timing
from service.engine.ticket import Ticket

LEAST_ROUNDS = 6  # the range of n measurements holds their median with 1 - 2/2**n: 97 % of 6, but 94 % of 5
_RESAMPLES = 2000
_MINUTE_S = 60.0
_POLL_S = 0.05  # at least, between two attempts to be admitted


@dataclass(frozen=True)
class Comparison:
    """What to run: every model makes the same images (their noises and class), `repeats` measured times."""

    models: tuple[Resolved, ...]
    images: tuple[ImageSpec, ...]
    repeats: int
    seed: int
    isolated: bool = False


@dataclass(frozen=True)
class Arrived:
    """An image of the warm-up."""

    model: Resolved
    image: Finished


@dataclass(frozen=True)
class Measured:
    """One measured request: its timing is that of its slowest image. round counts from 0, place is its turn in it."""

    model: Resolved
    round: int
    place: int
    timing: Timing


class Isolation:
    """The device seconds a minute that all isolated comparisons together may have alone, so that none can halt the service."""

    def __init__(self, seconds_a_minute: float) -> None:
        self.seconds = seconds_a_minute
        self._turn = asyncio.Lock()
        self._last_s = -_MINUTE_S

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """The device seconds of one turn; turns begin a minute apart, and the next one waits for this one to end."""
        async with self._turn:
            await asyncio.sleep(max(0.0, self._last_s + _MINUTE_S - time.monotonic()))
            self._last_s = time.monotonic()
            yield self.seconds


class Run:
    """One comparison under way; `cancel` it at last. Creating it admits its first request; raises what Engine.submit does."""

    def __init__(self, engine: Engine, comparison: Comparison, isolation: Isolation) -> None:
        self._engine = engine
        self._comparison = comparison
        self._isolation = isolation
        self._order = random.Random(comparison.seed)
        self._warm_up = self._shuffled()
        self._held = ExitStack()  # from its first image to its last a comparison is of one version of each model
        self._held.enter_context(engine.hold(comparison.models))
        try:
            self._ticket = engine.submit(Generation(self._warm_up[0], comparison.images))
        except BaseException:
            self._held.close()
            raise

    def cancel(self) -> None:
        """Give up the request that is under way, and let go of the models; idempotent."""
        self._ticket.cancel()
        self._held.close()

    async def events(self) -> AsyncGenerator[Arrived | Measured, None]:
        """Images as they arrive, then measurements. Raises RowFailedError and UnavailableError."""
        for number, model in enumerate(self._warm_up):
            ticket = self._ticket if number == 0 else await self._submit(model)
            async with aclosing(ticket.events()) as arriving:
                async for event in arriving:
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, Finished):
                        yield Arrived(model, event)
        if not self._comparison.isolated:
            async for measured in self._rounds(None):
                yield measured
            return
        async with self._isolation.turn() as alone_s:
            async for measured in self._rounds(alone_s):
                yield measured

    async def _rounds(self, alone_s: float | None) -> AsyncGenerator[Measured, None]:
        """The measured rounds; alone_s: device seconds to have alone in all, None: beside the traffic of others."""
        for number in range(self._comparison.repeats):
            for place, model in enumerate(self._shuffled()):
                ticket = await self._submit(model, exclusive_s=alone_s or 0.0)
                timing = slowest(await ticket.images())
                if alone_s is not None:
                    alone_s -= timing.total_s  # no less than the device seconds it took
                    if alone_s <= 0:
                        return
                yield Measured(model, number, place, timing)

    async def _submit(self, model: Resolved, *, exclusive_s: float = 0.0) -> Ticket:
        """Admit the next request; a comparison that has begun waits where a new one would be refused."""
        while True:
            try:
                self._ticket = self._engine.submit(Generation(model, self._comparison.images, exclusive_s=exclusive_s))
            except OverloadedError as error:
                await asyncio.sleep(max(error.retry_after_s, _POLL_S))
            else:
                return self._ticket

    def _shuffled(self) -> list[Resolved]:
        return self._order.sample(self._comparison.models, len(self._comparison.models))


def slowest(images: Sequence[Finished]) -> Timing:
    """A request lasts as long as its slowest image; its mean batch is the images' mean. Recalled images count if all are."""
    timings = [image.timing for image in images if not image.cached] or [image.timing for image in images]
    return Timing(
        queue_s=max(timing.queue_s for timing in timings),
        compute_s=max(timing.compute_s for timing in timings),
        total_s=max(timing.total_s for timing in timings),
        mean_batch=sum(timing.mean_batch for timing in timings) / len(timings),
        estimated_s=timings[0].estimated_s,
    )


def complete_rounds(measured: Sequence[Measured], models: int) -> int:
    """How many rounds have every model in them; a cut last round does not count."""
    return len(measured) // models


def device_s(step_ms: Mapping[int, float], steps: int, images: int) -> float:
    """Estimated device seconds of one request for `images` images, in batches as large as they get.

    step_ms: batch size -> milliseconds of one step, as calibrated; without any the estimate is 0.
    """
    if not step_ms:
        return 0.0
    full, rest = divmod(images, max(step_ms))
    rest_ms = step_ms[min(size for size in step_ms if size >= rest)] if rest else 0.0
    return steps * (full * step_ms[max(step_ms)] + rest_ms) / 1000


def speed_up(reference_s: Sequence[float], model_s: Sequence[float], seed: int) -> tuple[float, tuple[float, float] | None]:
    """median(reference) / median(model), and its 95 % bootstrap interval, from the seconds of the same rounds.

    Percentile bootstrap (Efron & Tibshirani 1993, chapter 13) over rounds: a round's two times are drawn together, since
    what slowed one of them slowed the other. None for fewer than LEAST_ROUNDS: an interval of them would claim too much.
    """
    pairs: NDArray[np.float64] = np.array([reference_s, model_s], dtype=np.float64)
    middle = np.median(pairs, axis=1)
    ratio = float(middle[0] / middle[1])
    if pairs.shape[1] < LEAST_ROUNDS:
        return ratio, None
    draws = np.random.default_rng(seed).integers(0, pairs.shape[1], (_RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, draws], axis=2)
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    return ratio, (float(low), float(high))
