"""`sfddm reload`: have a running server load the present contents of its zoos."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from service.cli.console import stderr
from service.cli.options import Config, read_settings


def reload_models(
    url: Annotated[str, typer.Option(metavar="URL", help="The server.")] = "http://127.0.0.1:8000", config: Config = None
) -> None:
    """Have a running server load what its zoos hold now; its SFDDM_ADMIN_TOKEN comes from the environment or the file."""
    from service.cli import remote

    changes = remote.reload(url, read_settings(config).admin_token)
    for change in ("loaded", "replaced", "removed", "kept"):
        for model in getattr(changes, change):
            print(f"{change}: {model}")
    for failed in changes.failed:
        note = "the version loaded before is still served" if failed.serving else "not served"
        stderr.print(f"[bold red]failed:[/] {escape(failed.model)} ({note}): {escape(failed.reason)}")
    raise typer.Exit(1 if changes.failed else 0)
