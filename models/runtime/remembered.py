"""Measurements kept on disk from one start to the next: one JSON file each, named by the hash of its key.

The key holds all that the measurement depends on. A folder that is lost, damaged or read-only does not stop a start: it is
logged as a warning, and the next start measures again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from models.files import write_atomically

log = structlog.get_logger(__name__)

T = TypeVar("T")
Key = Mapping[str, str | float]


def recall(folder: Path | None, kind: str, key: Key, read: Callable[[Mapping[str, Any]], T]) -> T | None:
    """Return what `read` builds from the fields remembered under a key.

    Returns None when nothing is remembered, or when the file is damaged or `read` raises an error.
    """
    if folder is None:
        return None
    path = _place(folder, kind, key)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] != key:
            raise ValueError("it is of something else")
        return read(stored)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning(f"{kind}_ignored", path=str(path), error=str(error))
        return None


def remember(folder: Path | None, kind: str, key: Key, fields: Mapping[str, Any]) -> None:
    """Store fields under a key. JSON must be able to hold them."""
    if folder is None:
        return
    path = _place(folder, kind, key)
    try:
        with write_atomically(path) as draft:
            draft.write_text(json.dumps({"key": key, **fields}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        log.warning(f"{kind}_not_kept", path=str(path), error=str(error))


def _place(folder: Path, kind: str, key: Key) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / kind / f"{digest[:32]}.json"
