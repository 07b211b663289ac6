"""The consoles of the sfddm command: results go to stdout, progress and failures to stderr."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPE_COLUMNS = 200  # a pipe has no width; no table of ours is wider

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """Return the console for tables: as wide as the terminal, or wide enough for any table in a pipe or file."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)
