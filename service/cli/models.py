"""`sfddm models`: list the models that can be served, and their speed."""

from __future__ import annotations

import asyncio

from rich.markup import escape

from service.cli.console import stderr, stdout
from service.cli.options import Url, Zoo, read_settings


def list_models(zoo: Zoo = None, url: Url = None) -> None:
    """List the models of the zoos with a step measured on this machine, or those of a server with --url."""
    from service.cli import local, remote
    from service.cli.models_table import models_table
    from service.observability.logs import configure_logging

    configure_logging("console", "critical")
    if url is not None:
        stdout().print(models_table(remote.models(url)))
        return
    models, refusals = asyncio.run(local.measured_models(read_settings(zoos=zoo), stderr))
    stdout().print(models_table(models))
    for refusal in refusals:
        stderr.print("[yellow]Refused:[/]", escape(refusal.reason))
