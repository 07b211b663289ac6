"""Blobs and samples of the store: expiry and limits. The rules are the same in this process and in Redis."""

from __future__ import annotations

import asyncio

import pytest

from service.store.base import BlobGroup, Store

pytestmark = pytest.mark.anyio
GROUP = BlobGroup("room", max_bytes=100)


async def test_a_stored_blob_is_found(store: Store) -> None:
    assert await store.blobs.get(GROUP, ["a"]) == [None]
    await store.blobs.put(GROUP, "a", b"\x00\xff", 60)
    await store.blobs.put(GROUP, "a:b", b"", 60)
    assert await store.blobs.get(GROUP, ["a:b", "none", "a"]) == [b"", None, b"\x00\xff"]
    assert await store.blobs.get(BlobGroup("other", 100), ["a"]) == [None]
    await store.blobs.put(GROUP, "a", b"new", 60)
    assert await store.blobs.get(GROUP, ["a"]) == [b"new"]
    await store.blobs.delete(GROUP, "a")
    assert await store.blobs.get(GROUP, ["a"]) == [None]


async def test_adding_does_not_overwrite(store: Store) -> None:
    assert await store.blobs.add(GROUP, "a", b"first", 60)
    assert not await store.blobs.add(GROUP, "a", b"second", 60)
    assert await store.blobs.get(GROUP, ["a"]) == [b"first"]


async def test_only_one_of_many_adds_wins(store: Store) -> None:
    wins = await asyncio.gather(*(store.blobs.add(GROUP, "a", b"%d" % number, 60) for number in range(20)))
    assert sum(wins) == 1
    assert await store.blobs.get(GROUP, ["a"]) == [b"%d" % wins.index(True)]


async def test_blobs_expire(store: Store) -> None:
    await store.blobs.put(GROUP, "a", b"x", 0.05)
    await store.blobs.put(GROUP, "b", b"x", 60)
    async with asyncio.timeout(30):
        while await store.blobs.get(GROUP, ["a"]) != [None]:
            await asyncio.sleep(0.02)
    assert await store.blobs.add(GROUP, "a", b"y", 60)
    assert await store.blobs.get(GROUP, ["a", "b"]) == [b"y", b"x"]


async def test_a_group_is_bounded(store: Store) -> None:
    for number in range(10):
        await store.blobs.put(GROUP, f"k{number}", bytes([number]) * 30, 60 + number)
    found = await store.blobs.get(GROUP, [f"k{number}" for number in range(10)])
    assert found == [None] * 7 + [bytes([number]) * 30 for number in (7, 8, 9)]
    await store.blobs.put(GROUP, "k9", b"x" * 40, 90)  # replaced: 30 + 30 + 40 still fit
    assert await store.blobs.get(GROUP, ["k7", "k8", "k9"]) == [bytes([7]) * 30, bytes([8]) * 30, b"x" * 40]
    await store.blobs.put(GROUP, "k10", b"x" * 1, 91)
    assert await store.blobs.get(GROUP, ["k7", "k8"]) == [None, bytes([8]) * 30]


async def test_a_blob_larger_than_its_group_is_not_stored(store: Store) -> None:
    await store.blobs.put(GROUP, "small", b"x" * 100, 60)
    await store.blobs.put(GROUP, "large", b"x" * 101, 60)
    assert await store.blobs.get(GROUP, ["small", "large"]) == [b"x" * 100, None]
    await store.blobs.put(GROUP, "small", b"x" * 101, 60)  # the old value is outdated
    assert await store.blobs.get(GROUP, ["small"]) == [None]


async def test_samples_keep_the_latest_and_count_all(store: Store) -> None:
    assert await store.samples.recent("s") == (0, [])
    for number in range(5):
        await store.samples.append("s", b"%d" % number, keep=3)
    assert await store.samples.recent("s") == (5, [b"4", b"3", b"2"])
    assert await store.samples.recent("other") == (0, [])
