"""`sfddm serve`: serve over HTTP until a signal comes. The only module of service/cli that imports service/api."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from types import FrameType

from service.cli.console import stderr
from service.cli.failures import CommandError
from service.observability.logs import configure_logging
from service.settings.model import Settings


class ListenError(CommandError):
    """An address that cannot be listened on; the message says why."""


def serve_until_stopped(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl+C.

    Raises ListenError, and StartupError when there is nothing to serve.
    """
    import structlog
    import uvicorn

    from service.api.app import create_app
    from service.api.server import DrainingServer

    # After its shutdown uvicorn sends the signal to this process again. The work is finished then, so exit with success.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    with _listen(settings.host, settings.port) as listener:
        configure_logging(settings.log_format, settings.log_level)
        application = create_app(settings)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{shown}:{listener.getsockname()[1]}/"
        if settings.log_format == "json":
            structlog.get_logger("service.cli").info("serving", url=url)
        else:
            stderr.print(f"Serving on {url} (stop with Ctrl+C)")
        server = uvicorn.Config(application, log_config=None, access_log=False)
        state = application.state
        with contextlib.suppress(KeyboardInterrupt):
            DrainingServer(server, state.drain, settings.drain_s, state.reloader.request).run(sockets=[listener])


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket, so that a taken port is known before models load. Raises ListenError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # allows the port of a server that has just stopped
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
