"""The `sfddm-train` command: teacher, distill, progressive, sample, export, evaluate, report."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any

import typer
from pydantic import ValidationError

from training.commands.distill import distill
from training.commands.export import export
from training.commands.progressive import progressive
from training.commands.sample import sample
from training.commands.teacher import teacher
from training.evaluation.cli import evaluate, report

app = typer.Typer(
    name="sfddm-train",
    help="Train diffusion teachers, distil them into students of any step count, measure and export them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (teacher, distill, progressive, sample, export, evaluate, report):
    app.command()(command)

_INTERRUPTED = 130  # exit status of a command that Ctrl-C stopped, as a shell gives it


def _one_sentence(run: Callable[[], Any]) -> int:
    """Run the command and return its exit status.

    A known error becomes one sentence on stderr and status 1, a wrong command line one sentence and status 2.
    """
    from models.catalogue import UnknownModelError
    from models.manifest import ManifestError
    from models.validation import describe_error
    from training.errors import TrainingError

    usage: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        status = run() or 0
        if status == _INTERRUPTED:  # typer turns Ctrl-C into this status
            raise KeyboardInterrupt
        return status
    except usage as error:
        message = error.format_message()  # type: ignore[attr-defined]  # names the option
        if message:  # it is empty when no command was given and the help has been printed
            print(f"sfddm-train: {message}", file=sys.stderr)
        return 2
    except (TrainingError, ManifestError, UnknownModelError, ValueError) as error:
        message = describe_error(error) if isinstance(error, ValidationError) else str(error)
        print(f"sfddm-train: {message}", file=sys.stderr)
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space or choose another folder" if full else "check the path and its permissions, or choose another"
        print(f"sfddm-train: {place}{error.strerror or error}; {remedy}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print(
            "sfddm-train: interrupted; trainings go on from a checkpoint with --resume, evaluate from its cache",
            file=sys.stderr,
        )
        return _INTERRUPTED


def main() -> None:
    """Run `sfddm-train` and exit with its status."""
    sys.exit(_one_sentence(lambda: app(prog_name="sfddm-train", standalone_mode=False)))


if __name__ == "__main__":
    main()
