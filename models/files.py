"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield the path of a draft beside `path`, and rename the draft to `path` when the block ends without an error.

    A killed process, an error or a full disk leaves the file at `path` as it was. A missing folder is created.
    The draft's name holds the process id, so processes that write the same file do not disturb each other.
    Raises OSError when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        with open(draft, "rb") as file:
            os.fsync(file.fileno())  # without it, a power cut may keep the new name and lose the content
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(path: Path) -> None:
    """Remove the drafts of `path` that killed processes left. Call it only when no other process writes `path`."""
    for draft in path.parent.glob(f".{path.name}.*.tmp"):
        draft.unlink(missing_ok=True)
