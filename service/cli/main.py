"""The sfddm command: serve models; generate, compare and list them here or on a server.

One module per command, named after it. Slow imports are inside the commands, so that --help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from service import __version__
from service.cli.compare import compare
from service.cli.config import show_config
from service.cli.failures import failures_logged, print_error, sentence
from service.cli.generate import generate
from service.cli.models import list_models
from service.cli.options import Config, Zoo, read_settings
from service.cli.reload import reload_models

app = typer.Typer(
    name="sfddm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line. A failure is one sentence on stderr and exit code 1; 2 for a wrong command line."""
    try:
        sys.exit(app(prog_name="sfddm", standalone_mode=False))
    except typer.Abort:  # Ctrl+C
        sys.exit(130)
    except typer.TyperException as error:  # its message names the option
        if message := error.format_message():  # empty without a command: the help has been printed
            print_error(message)
        sys.exit(error.exit_code)
    except Exception as error:
        reason = sentence(error)
        if reason is None:
            raise
        print_error(reason)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sfddm {__version__}")
        raise typer.Exit


@app.callback()
def sfddm(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve a diffusion teacher and the students distilled from it."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 lets the system choose.")] = None,
    zoo: Zoo = None,
    default_model: Annotated[str | None, typer.Option(help="Model of requests that name none.")] = None,
    max_n: Annotated[int | None, typer.Option(help="Most images in one request.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most rows in one network evaluation.")] = None,
    max_backlog_s: Annotated[float | None, typer.Option(help="Seconds of queued work above which requests get 429.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads that evaluate; default: every usable core.")] = None,
    log_format: Annotated[str | None, typer.Option(metavar="console|json", help="How log lines are written to stderr.")] = None,
    config: Config = None,
) -> None:
    """Serve models over HTTP, with a web page at /.

    Options override environment variables (SFDDM_PORT, SFDDM_ZOOS separated by commas, ...), which override the
    configuration file; `sfddm config` shows what is in force.
    """
    from service.observability.logs import configure_logging
    from service.settings.sources import wanted_log_format

    options = {
        "host": host,
        "port": port,
        "zoos": zoo,
        "default_model": default_model,
        "max_n": max_n,
        "max_batch": max_batch,
        "max_backlog_s": max_backlog_s,
        "threads": threads,
        "log_format": log_format,
    }
    if wanted_log_format(log_format, config) == "json":
        configure_logging("json", "info")
        with failures_logged():
            _serve(config, options)
    else:
        _serve(config, options)


def _serve(config: Path | None, options: Mapping[str, Any]) -> None:
    """Listen, load the models and serve until a signal comes. Raises the error that keeps the server from starting."""
    from service.cli.serve import serve_until_stopped

    serve_until_stopped(read_settings(config, **options))


app.command()(generate)
app.command()(compare)
app.command("models")(list_models)
app.command("reload")(reload_models)
app.command("config")(show_config)

if __name__ == "__main__":
    main()
