"""Logging of the runtimes that training uses."""

from __future__ import annotations

import logging
import sys


def log_only_warnings() -> None:
    """Write warnings of the runtimes to stderr. Drop their other lines, which would break up the progress bars."""
    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
