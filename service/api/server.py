"""uvicorn with a drain: after SIGTERM new requests get 503 instead of a refused connection, and the process ends in time.

    0 ... drain_s         running requests finish; requests whose body has not come are answered at once (body.py)
    _ANSWER_S after that  requests that are left fail with 503, and their answers are written
    then                  tasks that are left are cancelled, and connections are closed

SIGHUP reloads the models.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable

import uvicorn

_POLL_S = 0.1  # longest time until a second Ctrl+C is noticed
_ANSWER_S = 1  # shortest time for writing the last answers


class DrainingServer(uvicorn.Server):
    """Accepts connections while running requests finish, so that load balancers and clients get a 503 and go elsewhere.

    uvicorn itself would close its sockets first.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Callable[[float], Awaitable[None]],
        drain_s: float,
        reload: Callable[[], None],
    ) -> None:
        """Take uvicorn's configuration and two callbacks.

        drain(seconds): refuses new work, finishes running requests within so many seconds, and gives up the rest.
        reload: called in the event loop at SIGHUP.
        """
        super().__init__(config)
        self._drain = drain
        self._drain_s = drain_s
        self._reload = reload

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and handle SIGHUP."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close. A second Ctrl+C gives up running requests."""
        end_s = time.monotonic() + self._drain_s
        draining = asyncio.ensure_future(self._drain(self._drain_s))
        while not draining.done() and not self.force_exit:
            await asyncio.wait((draining,), timeout=_POLL_S)
        if not draining.done():
            await self._drain(0)
        await draining
        # Only answers that are being written are left, and clients that do not read theirs.
        self.config.timeout_graceful_shutdown = max(_ANSWER_S, int(end_s - time.monotonic()))
        await super().shutdown(sockets)
