"""Tasks end even if a cancellation is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.engine.tasks import end, in_daemon

pytestmark = pytest.mark.anyio


async def test_a_task_that_swallows_a_cancellation_ends() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert swallowed == 3


async def test_failed_and_finished_tasks_are_ended_already() -> None:
    async def fails() -> None:
        raise ValueError("not for the reader")

    failed, done = asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait((failed, done))
    await end(failed, done)


async def test_work_in_a_daemon_gives_its_result_or_its_error() -> None:
    def fails() -> None:
        raise ValueError("for the caller")

    assert await in_daemon(lambda: threading.current_thread().daemon, "test") is True
    with pytest.raises(ValueError, match="for the caller"):
        await in_daemon(fails, "test")
