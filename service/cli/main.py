"""The sfddm command: serve models; generate, compare and list them here or on a server.

Heavy imports live inside the commands, so that --help is quick.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from models.validation import describe_error
from service.observability.masking import mask_credentials
from service.settings.model import Settings

app = typer.Typer(
    name="sfddm",
    help="Serve a diffusion teacher and the students distilled from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_UNLIMITED_S = 1e9  # one user on one machine: nobody else waits
_MOST_IMAGES = 1024
_MOST_ISOLATED_S = 60.0
_PIPE_COLUMNS = 200
_stderr = Console(stderr=True, highlight=False, soft_wrap=True)
_server_log: Any = None  # where a server that logs JSON says what others print

Zoo = Annotated[
    list[Path] | None,
    typer.Option(
        "--zoo",
        metavar="FOLDER",
        help="A folder of model folders; repeat for several. Default: the models that ship with sfddm.",
    ),
]

Url = Annotated[str | None, typer.Option(metavar="URL", help="Ask a running server, such as http://127.0.0.1:8000, instead.")]
Scale = Annotated[int, typer.Option(min=1, max=64, help="Enlarge each pixel to this many.")]


Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML; default: SFDDM_CONFIG.")]


def main() -> None:
    """Entry point: failures that a user can cause are one sentence on stderr; exit code 1, 2 for a wrong command line.

    Those of a server that logs JSON are events of its log.
    """
    try:
        sys.exit(app(prog_name="sfddm", standalone_mode=False))
    except typer.Abort:  # Ctrl+C
        sys.exit(130)
    except Exception as error:
        usage = isinstance(error, _click_error())
        message = error.format_message() if usage else _sentence(error)  # type: ignore[attr-defined]  # names the option
        if message == "":  # no command at all: the help has been printed
            sys.exit(2)
        if _server_log is not None:
            _server_log.error("not_started", reason=mask_credentials(message or repr(error)), exc_info=message is None)
        elif message is None:
            raise
        else:
            _stderr.print("[bold red]Error:[/]", escape(mask_credentials(message)))
        sys.exit(2 if usage else 1)


def _sentence(error: Exception) -> str | None:
    """What to tell the user; None for a bug."""
    if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
        return "ONNX Runtime is not installed; install sfddm-serve with the extra cpu (pip install '.[cpu]'), or gpu."
    if not isinstance(error, _expected()):
        return None
    return f"{describe_error(error)}." if isinstance(error, ValidationError) else str(error)


def _click_error() -> type[Exception]:
    """What typer raises for a command line that it cannot read."""
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _expected() -> tuple[type[Exception], ...]:
    """What a user can cause; everything else is a bug and shows its traceback."""
    from models.catalogue import UnknownModelError
    from models.runtime.base import BackendError
    from service.cli.local import OutputError
    from service.cli.remote import RemoteError
    from service.cli.serve import ListenError
    from service.engine.request import EngineError
    from service.features.errors import InvalidRequestError
    from service.features.service import StartupError
    from service.settings.sources import ConfigurationError

    ours = (ListenError, ConfigurationError, RemoteError, StartupError, OutputError, BackendError, EngineError)
    return (*ours, InvalidRequestError, UnknownModelError, ValidationError)


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
    import structlog

    from service.observability.logs import configure_logging
    from service.settings.sources import wanted_log_format

    if wanted_log_format(log_format, config) == "json":
        global _server_log
        configure_logging("json", "info")
        _server_log = structlog.get_logger("service.cli")

    from service.cli.serve import serve_until_stopped

    settings = _settings(
        config,
        host=host,
        port=port,
        zoos=zoo,
        default_model=default_model,
        max_n=max_n,
        max_batch=max_batch,
        max_backlog_s=max_backlog_s,
        threads=threads,
        log_format=log_format,
    )
    serve_until_stopped(settings, _announce)


def _announce(url: str) -> None:
    """Say where the server listens, in its log if that is JSON."""
    if _server_log is None:
        _stderr.print(f"Serving on {url} (stop with Ctrl+C)")
    else:
        _server_log.info("serving", url=url)


def _settings(config: Path | None = None, **options: Any) -> Settings:
    """Settings from the configuration file and the environment, overridden by options. Raises ConfigurationError."""
    from service.settings.sources import read_configuration

    return read_configuration(options, config).settings


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="A class name, or nothing for a class per image.")] = "",
    model: Annotated[str | None, typer.Option(help="Model id or variant; default: student-016.")] = None,
    label: Annotated[int | None, typer.Option(help="Class label, instead of a prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same bytes; default: random.")] = None,
    n: Annotated[int, typer.Option("-n", help="Images.")] = 1,
    out: Annotated[Path, typer.Option(help="A file for one image or a grid, or an existing folder for single files.")] = Path(
        "sfddm.png"
    ),
    scale: Scale = 1,
    zoo: Zoo = None,
    url: Url = None,
) -> None:
    """Generate images on this machine, or on a server with --url."""
    from service.cli import remote
    from service.cli.comparison_table import pixels_of
    from service.cli.local import Picture, check_output, generate_images, save_images
    from service.observability.logs import configure_logging
    from service.schema.images import GenerationRequest

    configure_logging("console", "warning")
    check_output(out)
    request = GenerationRequest(**_given(prompt=prompt, model=model, class_label=label, seed=seed, n=n))
    if url is not None:
        with _stderr.status(f"Waiting for {escape(mask_credentials(url))}"):
            answer = remote.generate(url, request)
        used, first, seconds = answer.model, answer.seed, answer.timing.total_s
        pictures = [Picture(image.seed, image.index, pixels_of(image)) for image in answer.data]
    else:
        settings = _settings(zoos=zoo, max_n=min(n, _MOST_IMAGES), max_backlog_s=_UNLIMITED_S)
        generation, images = asyncio.run(generate_images(settings, request, _stderr))
        used, first, seconds = generation.model.id, generation.seed, max(image.timing.total_s for image in images)
        pictures = [Picture(image.spec.seed, image.spec.index, image.pixels) for image in images]
    for path in save_images(used, pictures, out, scale):
        print(path)
    _stderr.print(f"{used}, seed {first}: {len(pictures)} image(s) in {seconds:.2f} s")


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="Two or more model ids or variants.", metavar="MODEL...")],
    prompt: Annotated[str, typer.Option(help="A class name; default: a class per image.")] = "",
    reference: Annotated[str | None, typer.Option(help="The model others are held to; default: the most steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noises and the order; default: random.")] = None,
    n: Annotated[int, typer.Option("-n", help="Images of each model.")] = 1,
    repeats: Annotated[int, typer.Option(help="Measured rounds.")] = 6,
    mode: Annotated[str, typer.Option(metavar="concurrent|isolated", help="Beside other traffic, or alone.")] = "concurrent",
    png: Annotated[Path | None, typer.Option(help="Write the images as a grid, one row a model.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report that holds everything by itself.")] = None,
    scale: Scale = 1,
    zoo: Zoo = None,
    url: Url = None,
) -> None:
    """Compare models on the same noises, on this machine, or on a server with --url."""
    from service.cli import comparison_html, comparison_table
    from service.cli.local import check_output, write
    from service.cli.terminal import watch, watch_remote
    from service.observability.logs import configure_logging
    from service.schema.comparisons import ComparisonRequest

    configure_logging("console", "warning")
    for out in (png, html):
        if out is not None:
            check_output(out, any_name=True)
    given = _given(models=models, prompt=prompt, reference=reference, seed=seed, n=n, repeats=repeats, mode=mode)
    body = ComparisonRequest(**given)
    if url is not None:
        result = watch_remote(url, body, _stderr)
    else:
        limits: dict[str, Any] = {
            "max_backlog_s": _UNLIMITED_S,
            "max_comparison_s": _UNLIMITED_S,
            "isolated_s": _MOST_ISOLATED_S,
        }
        settings = _settings(zoos=zoo, max_n=min(n, _MOST_IMAGES), **limits)
        result = asyncio.run(watch(settings, body, _stderr))
    _stdout().print(comparison_table.table(result))
    _stderr.print(f"seed {result.seed}: {escape(comparison_table.about_of(result))}")
    if png is not None:
        print(write(png, comparison_table.grid_png(result, scale)))
    if html is not None:
        print(write(html, comparison_html.html(result).encode()))


@app.command()
def models(zoo: Zoo = None, url: Url = None) -> None:
    """List the models of the zoos with a step measured on this machine, or those of a server with --url."""
    from service.cli import remote
    from service.cli.local import measured_models
    from service.cli.terminal import models_table
    from service.observability.logs import configure_logging

    configure_logging("console", "critical")
    listed, refusals = (remote.models(url), ()) if url is not None else measured_models(_settings(zoos=zoo), _stderr)
    _stdout().print(models_table(listed))
    for refusal in refusals:
        _stderr.print("[yellow]Refused:[/]", escape(refusal.reason))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _stdout() -> Console:
    """Where tables go: as wide as the terminal, and as wide as they like into a pipe or file."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)


@app.command("reload")
def reload_models(
    url: Annotated[str, typer.Option(metavar="URL", help="The server.")] = "http://127.0.0.1:8000", config: Config = None
) -> None:
    """Have a running server load what its zoos hold now; its SFDDM_ADMIN_TOKEN comes from the environment or the file."""
    from service.cli import remote

    changes = remote.reload(url, _settings(config).admin_token)
    for what in ("loaded", "replaced", "removed", "kept"):
        for model in getattr(changes, what):
            print(f"{what}: {model}")
    for failed in changes.failed:
        note = "what was loaded before is served on" if failed.serving else "not served"
        _stderr.print(f"[bold red]failed:[/] {escape(failed.model)} ({note}): {escape(failed.reason)}")
    sys.exit(1 if changes.failed else 0)


@app.command("config")
def show_config(config: Config = None) -> None:
    """Print the effective settings as TOML, and where each came from: option, environment, file or default."""
    from service.settings.sources import read_configuration

    print(read_configuration({}, config).to_toml(), end="")


if __name__ == "__main__":
    main()
