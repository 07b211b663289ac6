"""A ticket: the event loop's end of one request in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from service.engine.request import EngineError, Finished, ImageSpec, Preview

Event = Preview | Finished


class Ticket:
    """What `Engine.submit` returns: the request's images as they are made. Belongs to the submitting event loop."""

    def __init__(self, specs: Sequence[ImageSpec], loop: asyncio.AbstractEventLoop, cancel: Callable[[Ticket], None]) -> None:
        self.specs = tuple(specs)
        self.loop = loop
        self._cancel = cancel
        self._events: asyncio.Queue[Event | EngineError] = asyncio.Queue()
        self._unread = len(self.specs)

    async def events(self) -> AsyncGenerator[Event]:
        """Previews and finished images in the order they are made; ends after the last image. Read it once.

        Leaving early cancels what is left. Raises RowFailedError, UnavailableError when the engine stopped, or
        RequestCancelledError.
        """
        try:
            while self._unread:
                event = await self._events.get()
                if isinstance(event, EngineError):
                    raise event
                if isinstance(event, Finished):
                    self._unread -= 1
                yield event
        finally:
            self.cancel()

    async def images(self) -> list[Finished]:
        """Every image, in request order. Raises what `events` raises."""
        finished = [event async for event in self.events() if isinstance(event, Finished)]
        return sorted(finished, key=lambda image: image.position)

    def cancel(self) -> None:
        """Give up what is unfinished; idempotent. Rows leave at the next step boundary."""
        self._cancel(self)

    def put(self, event: Event | EngineError) -> None:
        """Hand over one event; in the event loop only."""
        self._events.put_nowait(event)
