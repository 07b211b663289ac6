"""Run a comparison: every model makes the same images, and its requests are timed.

    warm-up   every model once: its images are shown and compared, its times are not used
    rounds    every model once a round, in a new random order, one request at a time, so that slow moments of the machine
              and the traffic of others affect all models alike

In an isolated comparison, the measured requests run on the device without other work, for a limited number of device seconds in
all. Requests that do not fit are left out: they are never measured under other conditions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field

from models.catalogue import Resolved
from service.engine.engine import Engine
from service.engine.request import Failed, Finished, Generation, ImageSpec, OverloadedError, Timing
from service.engine.ticket import Ticket
from service.features.encode import FileStyle
from service.features.isolation import Isolation
from service.features.timing import slowest

_POLL_S = 0.05  # shortest pause between two attempts to be admitted


@dataclass(frozen=True)
class Comparison:
    """A comparison that is decided: every model makes the same images, from the same noises and of the same classes.

    repeats: measured rounds. seed: of the order. style: format of the image files that are shown.
    """

    models: tuple[Resolved, ...]
    images: tuple[ImageSpec, ...]
    repeats: int
    seed: int
    reference: Resolved
    isolated: bool = False
    style: FileStyle = field(default_factory=FileStyle)


@dataclass(frozen=True)
class Arrived:
    """An image of the warm-up."""

    model: Resolved
    image: Finished


@dataclass(frozen=True)
class Measured:
    """One measured request, with the timing of its slowest image. round: from 0. place: its turn in the round, from 0."""

    model: Resolved
    round: int
    place: int
    timing: Timing


class ComparisonRun:
    """A comparison in progress. Creating it admits its first request; call `cancel` in the end."""

    def __init__(self, engine: Engine, comparison: Comparison, isolation: Isolation) -> None:
        """Admit the first request. Raises what Engine.submit raises."""
        self._engine = engine
        self.comparison = comparison
        self.isolation = isolation
        self._order = random.Random(comparison.seed)
        self._warm_up = self._shuffled()
        self._held = ExitStack()  # keeps one version of each model, so that all images of a model come from it
        self._held.enter_context(engine.hold(comparison.models))
        try:
            self._ticket = engine.submit(Generation(self._warm_up[0], comparison.images))
        except BaseException:
            self._held.close()
            raise

    def cancel(self) -> None:
        """Cancel the request that is under way and release the models. A second call does nothing."""
        self._ticket.cancel()
        self._held.close()

    async def events(self) -> AsyncGenerator[Arrived | Measured, None]:
        """Yield the images of the warm-up as they arrive, then measurements. Raises RowFailedError and UnavailableError."""
        for number, model in enumerate(self._warm_up):
            ticket = self._ticket if number == 0 else await self._submit(model)
            async with aclosing(ticket.events()) as arriving:
                async for event in arriving:
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, Finished):
                        yield Arrived(model, event)
        if not self.comparison.isolated:
            async for measured in self._rounds(None):
                yield measured
            return
        async with self.isolation.turn() as alone_s:
            async for measured in self._rounds(alone_s):
                yield measured

    async def _rounds(self, alone_s: float | None) -> AsyncGenerator[Measured, None]:
        """Yield the measured rounds. alone_s: device seconds to run alone in all; None: run beside the traffic of others."""
        for number in range(self.comparison.repeats):
            for place, model in enumerate(self._shuffled()):
                ticket = await self._submit(model, exclusive_s=alone_s or 0.0)
                timing = slowest(await ticket.images())
                if alone_s is not None:
                    alone_s -= timing.total_s  # at least the device seconds that the request took
                    if alone_s <= 0:
                        return
                yield Measured(model, number, place, timing)

    async def _submit(self, model: Resolved, *, exclusive_s: float = 0.0) -> Ticket:
        """Admit the next request. Waits while the engine is overloaded; a new comparison would be refused then."""
        while True:
            try:
                self._ticket = self._engine.submit(Generation(model, self.comparison.images, exclusive_s=exclusive_s))
            except OverloadedError as error:
                await asyncio.sleep(max(error.retry_after_s, _POLL_S))
            else:
                return self._ticket

    def _shuffled(self) -> list[Resolved]:
        return self._order.sample(self.comparison.models, len(self.comparison.models))
