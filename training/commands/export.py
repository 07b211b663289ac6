"""`sfddm-train export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="Run folder, diffusers pipeline folder or hub id.")],
    name: Annotated[str, typer.Option(help="Name in the zoo: teacher, student-016, ...")],
    family: Annotated[str, typer.Option(help="Family in the zoo, usually the data set.")],
    zoo: Annotated[Path, typer.Option(help="Zoo folder to write into.")] = Path("zoo"),
    float32: Annotated[bool, typer.Option("--float32", help="Store weights as float32 instead of float16.")] = False,
    pipeline: Annotated[Path | None, typer.Option(help="Also write a stock diffusers pipeline folder here.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Keep this many of a student's own steps, evenly spaced.")] = None,
) -> None:
    """Write a model folder (ONNX step graph, manifest, card) that the service can serve."""
    from training.export import export as run

    folder = run(model, zoo, family, name, half=not float32, pipeline=pipeline, steps=steps)
    typer.echo(f"wrote {folder}" + (f" and {pipeline}" if pipeline else ""))
