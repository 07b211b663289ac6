"""A zip archive that is written while it is sent. Only one file is held at a time. Equal files give equal bytes.

zipstream-ng would stamp each entry with the time of day, and offers no way to set it: no two archives would be equal.
"""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from typing import IO, cast

_PIECE_BYTES = 1 << 16  # sent at once: few pieces for small files, little memory for large ones
_MODE = 0o644 << 16  # a file that everyone may read: zip keeps the Unix mode in the upper half


class _Pipe:
    """A buffer that zipfile writes to and zip_stream takes from. It has no `tell`, so zipfile writes as for a stream."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def write(self, data: bytes) -> int:
        self._pending += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no buffer below. zipfile calls it."""

    def __len__(self) -> int:
        return len(self._pending)

    def take(self) -> bytes:
        taken, self._pending = bytes(self._pending), bytearray()
        return taken


async def zip_stream(files: AsyncIterator[tuple[str, bytes]]) -> AsyncIterator[bytes]:
    """Yield the zip of (name, content) pairs in pieces. The files are stored as they are: images are compressed already."""
    pipe = _Pipe()
    with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_STORED) as archive:
        async for name, content in files:
            info = zipfile.ZipInfo(name)  # dated 1980 unless told otherwise, so equal files give equal archives
            info.external_attr = _MODE
            archive.writestr(info, content)
            if len(pipe) >= _PIECE_BYTES:
                yield pipe.take()
    yield pipe.take()
