"""The device time that isolated comparisons may take from the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MINUTE_S = 60.0


class Isolation:
    """Limits the device seconds per minute in which isolated comparisons run alone, so that they cannot halt the service."""

    def __init__(self, seconds_a_minute: float) -> None:
        """Take the device seconds that all isolated comparisons together may have alone in a minute."""
        self.seconds = seconds_a_minute
        self._turn = asyncio.Lock()
        self._last_s = -_MINUTE_S

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a turn and yield its device seconds. Turns begin a minute apart at least, and never overlap."""
        async with self._turn:
            await asyncio.sleep(max(0.0, self._last_s + _MINUTE_S - time.monotonic()))
            self._last_s = time.monotonic()
            yield self.seconds
