"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_S = 0.05


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended, whatever their results.

    Cancels more than once: asyncio.wait_for of Python 3.11, which redis-py sends with, loses a cancellation that arrives as
    the wait itself ends (https://github.com/python/cpython/issues/86296), and a loop around it would go on forever.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # so that nobody warns of exceptions never looked at
