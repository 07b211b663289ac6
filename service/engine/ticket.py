"""A ticket: the event loop's end of one request in the engine."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress

from service.engine.request import EngineError, Event, Failed, Finished, Generation, Preview


def hand_over(told: Sequence[tuple[Ticket, Event | EngineError]]) -> None:
    """From another thread: tell each ticket's reader, and wake each event loop once for all of it."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[tuple[Ticket, Event | EngineError]]] = defaultdict(list)
    for ticket, event in told:
        by_loop[ticket.loop].append((ticket, event))
    for loop, events in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_put, events)


def _put(events: Sequence[tuple[Ticket, Event | EngineError]]) -> None:
    for ticket, event in events:
        ticket.put(event)


class Ticket:
    """What `Engine.submit` returns: the request's images as they are made. Belongs to the submitting event loop.

    Small, because many may wait: 100,000 queued requests are 100,000 of these.
    """

    __slots__ = (
        "_cancel",
        "_events",
        "_reader",
        "_unread",
        "compute_s",
        "ended_s",
        "estimated_s",
        "generation",
        "loop",
        "numbers",
        "started_s",
        "submitted_s",
        "unfinished",
    )

    def __init__(
        self,
        generation: Generation,
        loop: asyncio.AbstractEventLoop,
        cancel: Callable[[Ticket], None],
        *,
        first: int,
        estimated_s: float,
    ) -> None:
        """first: number of the first row, the others follow; estimated_s: seconds until the last image should be done."""
        self.generation = generation
        self.loop = loop
        self.numbers = range(first, first + len(generation.images))
        self.estimated_s = estimated_s
        self.submitted_s = time.perf_counter()
        self.started_s: float | None = None  # the engine's: when the first row ran
        self.compute_s = 0.0  # the engine's: device seconds of the batches that its slowest image has ridden in
        self.ended_s: float | None = None  # when the last image was read, or the rest was given up
        self.unfinished = len(generation.images)  # the engine's
        self._cancel = cancel
        self._events: list[Event | EngineError] = []
        self._reader: asyncio.Future[None] | None = None
        self._unread = len(generation.images)

    @property
    def started(self) -> bool:
        """Whether a row has run."""
        return self.started_s is not None

    async def events(self) -> AsyncGenerator[Event]:
        """Previews, finished and failed images in the order they come about; ends after the last image. Read it once.

        Leaving early cancels what is left. Raises UnavailableError when the engine stopped, or RequestCancelledError.
        """
        try:
            while self._unread:
                if not self._events:
                    self._reader = self.loop.create_future()
                    await self._reader
                events, self._events = self._events, []
                for event in events:
                    if isinstance(event, EngineError):
                        raise event
                    if not isinstance(event, Preview):
                        self._read()
                    yield event
        finally:
            self.cancel()

    async def images(self) -> list[Finished]:
        """Every image, in request order. When one fails the rest is cancelled, since the answer needs them all.

        Raises RowFailedError, and what `events` raises.
        """
        finished = []
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    finished.append(event)
        return sorted(finished, key=lambda image: image.position)

    def _read(self) -> None:
        self._unread -= 1
        if not self._unread:
            self.ended_s = time.perf_counter()

    def cancel(self) -> None:
        """Give up what is unfinished; idempotent. Rows leave at the next step boundary."""
        if self.ended_s is None:
            self.ended_s = time.perf_counter()
        self._cancel(self)

    def put(self, event: Event | EngineError) -> None:
        """Hand over one event; in the event loop only."""
        self._events.append(event)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
