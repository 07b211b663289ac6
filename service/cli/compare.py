"""`sfddm compare`: compare models on the same noises, on this machine or on a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from service.cli.console import stderr, stdout
from service.cli.options import DefaultOf, Scale, Url, Zoo, given, settings_for_one_user


def _default(field: str) -> DefaultOf:
    return DefaultOf("comparisons", "ComparisonRequest", field)


def compare(
    models: Annotated[list[str], typer.Argument(help="Two or more model ids or variants.", metavar="MODEL...")],
    *,
    prompt: Annotated[str, typer.Option(help="A class name; default: a class per image.")] = "",
    reference: Annotated[str | None, typer.Option(help="The reference of the others; default: the one of most steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noises and the order; default: random.")] = None,
    n: Annotated[int, typer.Option("-n", default_factory=_default("n"), help="Images of each model.")],
    repeats: Annotated[int, typer.Option(default_factory=_default("repeats"), help="Measured rounds.")],
    mode: Annotated[
        str,
        typer.Option(default_factory=_default("mode"), metavar="concurrent|isolated", help="Beside other traffic, or alone."),
    ],
    png: Annotated[Path | None, typer.Option(help="Write the images as a grid, one row per model.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report as one HTML file that loads nothing else.")] = None,
    scale: Scale = 1,
    zoo: Zoo = None,
    url: Url = None,
) -> None:
    """Compare models on the same noises, on this machine, or on a server with --url."""
    from service.cli import comparison_html, comparison_table
    from service.cli.comparison_progress import compare_here, compare_on_server
    from service.cli.output import check_file, write
    from service.observability.logs import configure_logging
    from service.schema.comparisons import ComparisonRequest

    configure_logging("console", "warning")
    for out in (png, html):
        if out is not None:
            check_file(out)
    options = given(models=models, prompt=prompt, reference=reference, seed=seed, n=n, repeats=repeats, mode=mode)
    body = ComparisonRequest(**options)
    if url is not None:
        result = compare_on_server(url, body, stderr)
    else:
        result = asyncio.run(compare_here(settings_for_one_user(zoo, n), body, stderr))
    stdout().print(comparison_table.table(result))
    stderr.print(f"seed {result.seed}: {escape(comparison_table.about_of(result))}")
    if png is not None:
        print(write(png, comparison_table.grid_png(result, scale)))
    if html is not None:
        print(write(html, comparison_html.html(result).encode()))
