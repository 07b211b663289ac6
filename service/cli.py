"""The sfddm command: serve models, generate images without a server, list models.

Heavy imports live inside the commands, so that --help is quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from models.manifest import describe_error
from service.settings import Settings

app = typer.Typer(
    name="sfddm",
    help="Serve a diffusion teacher and the students distilled from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_UNLIMITED_S = 1e9  # one user on one machine: nobody else waits
_stderr = Console(stderr=True, highlight=False, soft_wrap=True)

Zoo = Annotated[
    list[Path] | None,
    typer.Option(
        "--zoo",
        metavar="FOLDER",
        help="A folder of model folders; repeat for several. Default: the models that ship with sfddm.",
    ),
]


Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML; default: SFDDM_CONFIG.")]


class ListenError(Exception):
    """The address cannot be listened on; the message says why."""


def main() -> None:
    """Entry point: failures that a user can cause are one sentence on stderr and exit code 1."""
    try:
        app(prog_name="sfddm")
    except Exception as error:
        if not isinstance(error, _expected()):
            raise
        message = f"{describe_error(error)}." if isinstance(error, ValidationError) else str(error)
        _stderr.print("[bold red]Error:[/]", escape(message))
        sys.exit(1)


def _expected() -> tuple[type[Exception], ...]:
    """What a user can cause; everything else is a bug and shows its traceback."""
    from models.catalogue import UnknownModelError
    from service.api.errors import InvalidRequestError
    from service.api.state import StartupError
    from service.backend.base import BackendError
    from service.configuration import ConfigurationError
    from service.engine.request import EngineError
    from service.local import OutputError

    ours = (
        ListenError,
        ConfigurationError,
        StartupError,
        OutputError,
        BackendError,
        EngineError,
        InvalidRequestError,
        UnknownModelError,
    )
    return (*ours, ValidationError)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 lets the system choose.")] = None,
    zoo: Zoo = None,
    default_model: Annotated[str | None, typer.Option(help="Model of requests that name none.")] = None,
    max_n: Annotated[int | None, typer.Option(help="Most images in one request.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most rows in one network evaluation.")] = None,
    max_backlog_s: Annotated[float | None, typer.Option(help="Seconds of queued work above which requests get 429.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of one evaluation; default: every usable core.")] = None,
    log_format: Annotated[str | None, typer.Option(metavar="console|json", help="How log lines are written to stderr.")] = None,
    config: Config = None,
) -> None:
    """Serve models over HTTP, with a web page at /.

    Options override environment variables (SFDDM_PORT, SFDDM_ZOOS separated by commas, ...), which override the
    configuration file; `sfddm config` shows what is in force.
    """
    import uvicorn

    from service.api.app import create_app
    from service.logs import configure_logging

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
    # uvicorn hands the signal on once it has shut down; finishing what runs and leaving is success.
    signal.signal(signal.SIGTERM, _leave)
    with _listen(settings.host, settings.port) as listener:
        configure_logging(settings.log_format, settings.log_level)
        application = create_app(settings)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        _stderr.print(f"Serving on http://{shown}:{listener.getsockname()[1]}/ (stop with Ctrl+C)")
        server = uvicorn.Config(
            application, log_config=None, access_log=False, timeout_graceful_shutdown=max(1, round(settings.drain_s))
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(server).run(sockets=[listener])


def _settings(config: Path | None = None, **options: Any) -> Settings:
    """Settings from the configuration file and the environment, overridden by options. Raises ConfigurationError."""
    from service.configuration import read_configuration

    return read_configuration(options, config).settings


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is known before models load. Raises ListenError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a server that has just stopped is free
        try:
            listener.bind(address)
            listener.listen(socket.SOMAXCONN)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ListenError(f"Cannot listen on {host}:{port}: {reason}; choose another with --port or --host.") from error
    return listener


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="A class name, or nothing for a class per image.")] = "",
    model: Annotated[str | None, typer.Option(help="Model id or variant; default: student-016.")] = None,
    label: Annotated[int | None, typer.Option(help="Class label, instead of a prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same bytes; default: random.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1024, help="Images.")] = 1,
    out: Annotated[Path, typer.Option(help="A file for one image or a grid, or an existing folder for single files.")] = Path(
        "sfddm.png"
    ),
    scale: Annotated[int, typer.Option(min=1, max=64, help="Enlarge each pixel to this many.")] = 1,
    zoo: Zoo = None,
) -> None:
    """Generate images on this machine, without a server."""
    from service.api.schema import GenerationRequest
    from service.local import check_output, generate_images, save_images
    from service.logs import configure_logging

    configure_logging("console", "warning")
    check_output(out)
    request = GenerationRequest(prompt=prompt, model=model, class_label=label, seed=seed, n=n)
    settings = _settings(zoos=zoo, max_n=n, max_backlog_s=_UNLIMITED_S)
    generation, images = asyncio.run(generate_images(settings, request, _stderr))
    for path in save_images(generation, images, out, scale):
        print(path)
    seconds = max(image.timing.total_s for image in images)
    _stderr.print(f"{generation.model.id}, seed {generation.seed}: {len(images)} image(s) in {seconds:.2f} s")


@app.command()
def models(zoo: Zoo = None) -> None:
    """List the models of the zoos, and the folders that were refused."""
    from service.api.state import open_catalogue
    from service.local import models_table

    catalogue = open_catalogue(_settings(zoos=zoo).zoos)
    Console().print(models_table(list(catalogue.entries.values())))
    for refusal in catalogue.refusals:
        _stderr.print("[yellow]Refused:[/]", escape(refusal.reason))


@app.command("config")
def show_config(config: Config = None) -> None:
    """Print the effective settings as TOML, and where each came from: option, environment, file or default."""
    from service.configuration import read_configuration

    print(read_configuration({}, config).to_toml(), end="")
