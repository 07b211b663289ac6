"""uvicorn, with a drain that answers and ends in time: after SIGTERM new requests get 503 instead of a refused connection.

    0 ... drain_s       what runs is finished; requests whose body has not come are answered at once (service.api.body)
    then, _ANSWER_S     what is left has failed with 503, and its answers are written
    then                tasks that are left are cancelled, and connections closed

SIGHUP reloads the models.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable

import uvicorn

_POLL_S = 0.1
_ANSWER_S = 1


class DrainingServer(uvicorn.Server):
    """Keeps accepting while what runs is finished, so that load balancers and clients hear that they should go elsewhere.

    uvicorn itself closes its sockets first of all.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Callable[[float], Awaitable[None]],
        drain_s: float,
        reload: Callable[[], None],
    ) -> None:
        """drain(seconds): refuse new work, finish what runs within so many seconds, give up the rest.

        reload: called in the event loop at SIGHUP.
        """
        super().__init__(config)
        self._drain = drain
        self._drain_s = drain_s
        self._reload = reload

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and heed SIGHUP."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close. A second Ctrl+C gives up what runs."""
        end_s = time.monotonic() + self._drain_s
        draining = asyncio.ensure_future(self._drain(self._drain_s))
        while not draining.done() and not self.force_exit:
            await asyncio.wait((draining,), timeout=_POLL_S)
        if not draining.done():
            await self._drain(0)
        await draining
        # What runs now is answers on their way, and clients that do not read theirs.
        self.config.timeout_graceful_shutdown = max(_ANSWER_S, int(end_s - time.monotonic()))
        await super().shutdown(sockets)
