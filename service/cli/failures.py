"""Explain failures of the sfddm command: one sentence for a failure that a user can cause, a traceback for a bug."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError
from rich.markup import escape

from models.validation import describe_error
from service.cli.console import stderr
from service.observability.masking import mask_credentials


class CommandError(Exception):
    """A failure of a command that its user can cause. The message is one sentence: what was wrong and what to do."""


def sentence(error: Exception) -> str | None:
    """Return the sentence for the user, or None for a bug."""
    if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
        return "ONNX Runtime is not installed; install sfddm-serve with the extra cpu (pip install '.[cpu]'), or gpu."
    if not isinstance(error, _expected()):
        return None
    return f"{describe_error(error)}." if isinstance(error, ValidationError) else str(error)


def print_error(message: str) -> None:
    """Print a failure to stderr, without the credentials of urls."""
    stderr.print("[bold red]Error:[/]", escape(mask_credentials(message)))


@contextmanager
def failures_logged() -> Iterator[None]:
    """Log a failure inside the block as the event `not_started`, and exit with 1.

    For a server that logs JSON: a failure printed as text would be the only line that is not JSON.
    """
    import structlog

    try:
        yield
    except Exception as error:
        message = sentence(error)
        reason = mask_credentials(message or repr(error))
        structlog.get_logger("service.cli").error("not_started", reason=reason, exc_info=message is None)
        raise typer.Exit(1) from error


def _expected() -> tuple[type[Exception], ...]:
    """Return the exceptions that a user can cause. Imported only when something has failed, as their modules are large."""
    from models.catalogue import UnknownModelError
    from models.runtime.base import BackendError
    from service.engine.request import EngineError
    from service.features.errors import InvalidRequestError
    from service.features.service import StartupError
    from service.settings.sources import ConfigurationError

    ours = (CommandError, ConfigurationError, StartupError, InvalidRequestError, UnknownModelError, BackendError, EngineError)
    return (*ours, ValidationError)
