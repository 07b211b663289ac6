"""Zip archives that are written while they are sent."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator

import pytest

from service.features.archive import zip_stream

pytestmark = pytest.mark.anyio


async def files(count: int, size: int) -> AsyncIterator[tuple[str, bytes]]:
    for number in range(count):
        yield f"{number:06d}.png", bytes([number % 256]) * size


async def read(count: int, size: int) -> list[bytes]:
    return [piece async for piece in zip_stream(files(count, size))]


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 0), (3, 100_000), (65_600, 1)])  # the last needs zip64
async def test_what_goes_in_comes_out(count: int, size: int) -> None:
    pieces = await read(count, size)
    archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces)))
    assert archive.testzip() is None
    assert len(archive.namelist()) == count
    if count:
        assert archive.read(f"{count - 1:06d}.png") == bytes([(count - 1) % 256]) * size


async def test_it_comes_in_small_pieces_and_always_the_same() -> None:
    pieces = await read(100, 10_000)
    assert max(map(len, pieces)) < 100_000
    assert b"".join(pieces) == b"".join(await read(100, 10_000))
