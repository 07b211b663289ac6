"""Helpers for asyncio: end tasks reliably, and run work in daemon threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

T = TypeVar("T")

_AGAIN_S = 0.05  # between two cancellations: so short that a lost one causes no noticeable delay


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended, whatever their results.

    Cancels repeatedly, because one cancellation can be lost. redis-py sends with asyncio.wait_for, and that of Python 3.11
    loses a cancellation that arrives just when its wait ends (https://github.com/python/cpython/issues/86296). A loop around
    it would then never end.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # reads the exceptions, so that asyncio does not warn of them


async def in_daemon(work: Callable[[], T], name: str) -> T:
    """Run `work` in a daemon thread. Return its result or raise its exception. The process can end while the thread runs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
