"""`sfddm generate`: generate images on this machine, or on a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from service.cli.console import stderr
from service.cli.options import DefaultOf, Scale, Url, Zoo, given, settings_for_one_user
from service.observability.masking import mask_credentials


def generate(
    prompt: Annotated[str, typer.Argument(help="A class name, or nothing for a class per image.")] = "",
    *,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model id or variant; default: SFDDM_DEFAULT_MODEL, else the first student of 16 steps, else the first model."
        ),
    ] = None,
    label: Annotated[int | None, typer.Option(help="Class label, instead of a prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same bytes; default: random.")] = None,
    n: Annotated[int, typer.Option("-n", default_factory=DefaultOf("images", "GenerationRequest", "n"), help="Images.")],
    out: Annotated[Path, typer.Option(help="A file for one image or a grid, or an existing folder for single files.")] = Path(
        "sfddm.png"
    ),
    scale: Scale = 1,
    zoo: Zoo = None,
    url: Url = None,
) -> None:
    """Generate images on this machine, or on a server with --url."""
    from service.cli import local, remote
    from service.cli.output import Picture, check_images, pixels_of, save_images
    from service.observability.logs import configure_logging
    from service.schema.images import GenerationRequest

    configure_logging("console", "warning")
    check_images(out)
    request = GenerationRequest(**given(prompt=prompt, model=model, class_label=label, seed=seed, n=n))
    if url is not None:
        with stderr.status(f"Waiting for {escape(mask_credentials(url))}"):
            answer = remote.generate(url, request)
        used, first, seconds = answer.model, answer.seed, answer.timing.total_s
        pictures = [Picture(image.seed, image.index, pixels_of(image)) for image in answer.data]
    else:
        generation, images = asyncio.run(local.generate(settings_for_one_user(zoo, n), request, stderr))
        used, first, seconds = generation.model.id, generation.seed, max(image.timing.total_s for image in images)
        pictures = [Picture(image.spec.seed, image.spec.index, image.pixels) for image in images]
    for path in save_images(used, pictures, out, scale):
        print(path)
    stderr.print(f"{used}, seed {first}: {len(pictures)} image(s) in {seconds:.2f} s")
