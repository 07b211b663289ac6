"""A ticket: where an event loop receives the images of one request."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress

from service.engine.request import EngineError, Event, Failed, Finished, Generation, Preview


def hand_over(told: Sequence[tuple[Ticket, Event | EngineError]]) -> None:
    """Tell each ticket's reader, from another thread. Wakes each event loop once for all of its events."""
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
    """A request in the engine, as `Engine.submit` returns it. Belongs to the event loop that submitted it.

    Kept small, because many may wait: 100,000 queued requests are 100,000 tickets.
    """

    __slots__ = (
        "_cancel",
        "_clock",
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
        submitted_s: float,
        estimated_s: float,
        clock: Callable[[], float],
    ) -> None:
        """first: number of the first row; the others follow. submitted_s: reading of the engine's clock.

        estimated_s: seconds until the last image should be done. cancel: takes the rest of this ticket out of the engine.
        """
        self.generation = generation
        self.loop = loop
        self.numbers = range(first, first + len(generation.images))
        self.estimated_s = estimated_s
        self.submitted_s = submitted_s
        self.started_s: float | None = None  # written by the engine: when the first row ran
        self.compute_s = 0.0  # written by the engine: seconds of the batches of its slowest image
        self.ended_s: float | None = None  # when the last image was read, or the rest was cancelled
        self.unfinished = len(generation.images)  # written by the engine: rows that are not finished
        self._cancel = cancel
        self._clock = clock
        self._events: list[Event | EngineError] = []
        self._reader: asyncio.Future[None] | None = None
        self._unread = len(generation.images)

    @property
    def started(self) -> bool:
        """True once a row has run."""
        return self.started_s is not None

    async def events(self) -> AsyncGenerator[Event]:
        """Yield previews, finished and failed images as they are made, until the last image. Read it once.

        Leaving early cancels the rest. Raises UnavailableError when the engine stopped, or RequestCancelledError.
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
        """Return every image, in request order. When one fails, cancel the rest, since the answer needs all of them.

        Raises RowFailedError, and the errors of `events`.
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
            self.ended_s = self._clock()

    def cancel(self) -> None:
        """Cancel the unfinished images. Rows leave at the next step boundary. A second call does nothing."""
        if self.ended_s is None:
            self.ended_s = self._clock()
        self._cancel(self)

    def put(self, event: Event | EngineError) -> None:
        """Hand over one event. Call it in the event loop."""
        self._events.append(event)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
