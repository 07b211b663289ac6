"""`sfddm-train sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training import options
from training.evaluation.cli import png


def sample(
    model: Annotated[str, typer.Argument(help="Run folder, model folder, diffusers pipeline folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", callback=png, help="PNG to write.")] = Path("sample.png"),
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 20,
    columns: Annotated[int, typer.Option(min=1, help="Images in a row of the grid.")] = 10,
    sampler: Annotated[str | None, typer.Option(help="ddim, ddpm or dpmpp; default: the model's own.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Evaluations; default: all of the model's own steps.")] = None,
    label: Annotated[int | None, typer.Option(min=0, help="Class of every image; default: all classes in turn.")] = None,
    seed: options.Seed = 0,
    guidance: options.Guidance = None,
    guide: options.Guide = None,
) -> None:
    """Draw a grid of images from a model, in torch."""
    from training.guidance import load_guided
    from training.sampling import sample_grid

    loaded = load_guided(model, scale=guidance, guide=guide)
    sample_grid(loaded, out, count=n, columns=columns, sampler=sampler, steps=steps, label=label, seed=seed)
    typer.echo(f"wrote {out}")
