"""uvicorn, with a drain that answers: after SIGTERM new requests get 503 instead of a refused connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import uvicorn

_POLL_S = 0.1


class DrainingServer(uvicorn.Server):
    """Keeps accepting while what runs is finished, so that load balancers and clients hear that they should go elsewhere.

    uvicorn itself closes its sockets first of all.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[float], Awaitable[None]], drain_s: float) -> None:
        """drain(seconds): refuse new work, finish what runs within so many seconds, give up the rest."""
        super().__init__(config)
        self._drain = drain
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close. A second Ctrl+C gives up what runs."""
        draining = asyncio.ensure_future(self._drain(self._drain_s))
        while not draining.done() and not self.force_exit:
            await asyncio.wait((draining,), timeout=_POLL_S)
        if not draining.done():
            await self._drain(0)
        await draining
        await super().shutdown(sockets)
