"""A zip written while it is read: files in, bytes out, nothing held but one file. Equal files give equal bytes."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from typing import IO, cast

_PIECE = 1 << 16  # bytes handed on at once
_MODE = 0o644 << 16


class _Pipe:
    """What was written and not taken yet; a file that cannot be sought, which zipfile notices by the missing tell."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def write(self, data: bytes) -> int:
        self._pending += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def __len__(self) -> int:
        return len(self._pending)

    def take(self) -> bytes:
        taken, self._pending = bytes(self._pending), bytearray()
        return taken


async def zip_stream(files: AsyncIterator[tuple[str, bytes]]) -> AsyncIterator[bytes]:
    """A zip of (name, content) pairs, stored: images are compressed already."""
    pipe = _Pipe()
    with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_STORED) as archive:
        async for name, content in files:
            info = zipfile.ZipInfo(name)  # dated 1980, so that equal files give equal archives
            info.external_attr = _MODE
            archive.writestr(info, content)
            if len(pipe) >= _PIECE:
                yield pipe.take()
    yield pipe.take()
