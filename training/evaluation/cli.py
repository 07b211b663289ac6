"""The commands `sfddm-train evaluate` and `sfddm-train report`. They import torch only when they run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from training.evaluation.result import Measurements

_DEFAULT = Measurements()
_SOLVERS = ",".join(_DEFAULT.solvers)
_EVALUATIONS = ",".join(str(count) for count in _DEFAULT.evaluations)
_DISTANCES = "Measure KID, Fréchet distance, precision and recall to the training images."


def png(path: Path | None) -> Path | None:
    """Check that the path of a picture ends in .png, before anything is computed. Raises BadParameter."""
    if path is not None and path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path} is not a PNG; let its name end in .png")
    return path


def evaluate(
    zoo: Annotated[Path, typer.Argument(help="Zoo folder.")],
    family: Annotated[str, typer.Option(help="Family to measure.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure only this model (repeat): student-016, teacher@ddim-016, a run folder or pipeline, or the guided "
            "teacher: guided:SCALE (classifier-free) or guided:SCALE:GUIDE (GUIDE: a weaker network), also with @dpmpp-016."
        ),
    ] = None,
    solvers: Annotated[str, typer.Option(help="Training-free samplers of the teacher to measure.")] = _SOLVERS,
    evaluations: Annotated[
        str, typer.Option(help="Step counts of --solvers, e.g. 1,2,4; default: the students'.")
    ] = _EVALUATIONS,
    reference: Annotated[
        str, typer.Option(help="Model to compare with from the same noise; as for --model.")
    ] = _DEFAULT.reference,
    data: Annotated[
        str | None, typer.Option("--data", help="Data set of the classifier and of distances; default: the teacher's.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of each model, but see --teacher-images.")] = _DEFAULT.images,
    teacher_images: Annotated[
        int, typer.Option(min=1, help="Images of a teacher at all of its steps, guided or not.")
    ] = _DEFAULT.teacher_images,
    seeds: Annotated[
        int, typer.Option(min=1, help="Images to compare with the reference's from the same noise.")
    ] = _DEFAULT.seeds,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noises.")] = _DEFAULT.seed,
    first_index: Annotated[
        int, typer.Option(min=0, help="Number of the first image, to measure a model in parts; `report` joins its parts.")
    ] = _DEFAULT.first_index,
    distances: Annotated[bool, typer.Option(help=_DISTANCES)] = True,
    data_images: Annotated[int, typer.Option(min=20, help="Training images to measure distances to.")] = _DEFAULT.data_images,
    paths: Annotated[int, typer.Option(min=0, help="Interpolations between two noises to measure.")] = _DEFAULT.paths,
    frames: Annotated[int, typer.Option(min=3, help="Images on each interpolation.")] = _DEFAULT.frames,
    reconstruct: Annotated[
        list[str] | None,
        typer.Option(help="Also start from these images, noised (repeat): DATA, or DATA:rotated, inverted or blocked."),
    ] = None,
    reconstruct_from: Annotated[
        float, typer.Option(min=0, max=1, help="Noise level of --reconstruct, a share of T.")
    ] = _DEFAULT.reconstruct_from,
    reconstruct_images: Annotated[int, typer.Option(min=1, help="Images of each --reconstruct.")] = _DEFAULT.reconstruct_images,
    timing: Annotated[bool, typer.Option(help="Measure the time of an image, alone and batched.")] = _DEFAULT.timing,
    cache: Annotated[Path, typer.Option(help="Folder that keeps images, features and the classifier.")] = Path("runs/evaluate"),
    out: Annotated[Path | None, typer.Option("--out", help="JSON report to write.")] = None,
    ablation: Annotated[str, typer.Option(help="Heading of this run's own table in `report`.")] = "",
    figure: Annotated[
        Path | None, typer.Option(callback=png, help="PNG to write: every model's images of the same noises.")
    ] = None,
    path_figure: Annotated[
        Path | None, typer.Option(callback=png, help="PNG to write: every model's first path (needs --paths).")
    ] = None,
    write_manifests: Annotated[bool, typer.Option("--record", help="Write the results into the zoo's manifests.")] = False,
) -> None:
    """Measure models as they are served: distance to the data, agreement with the teacher from the same noise, cost."""
    from training.evaluation import tables
    from training.evaluation.family import Family
    from training.evaluation.figure import draw
    from training.evaluation.images import NoiseStarts
    from training.evaluation.measure import Measurement
    from training.evaluation.paths import PathStarts
    from training.evaluation.record import record, write_run
    from training.logs import log_only_warnings

    if path_figure is not None and not paths:
        raise typer.BadParameter("--path-figure needs --paths")
    if first_index and (write_manifests or figure or path_figure or paths or reconstruct):
        raise typer.BadParameter("--record, --figure, --paths and --reconstruct belong to the whole; leave out --first-index")
    if out is not None and out.suffix != ".json":
        raise typer.BadParameter(f"--out {out} is not a .json, which `report` reads; let its name end in .json")
    log_only_warnings()
    wanted = Measurements(
        images=images,
        teacher_images=teacher_images,
        seeds=seeds,
        seed=seed,
        first_index=first_index,
        models=tuple(model or ()),
        solvers=tuple(filter(None, solvers.split(","))),
        evaluations=_integers(evaluations),
        reference=reference,
        data_images=data_images if distances else 0,
        paths=paths,
        frames=frames,
        reconstruct=tuple(reconstruct or ()),
        reconstruct_from=reconstruct_from,
        reconstruct_images=reconstruct_images,
        timing=timing,
    )
    command = shlex.join(["sfddm-train", *sys.argv[1:]])
    measurement = Measurement(Family(zoo, family), wanted, cache, data)
    report = measurement.run()
    if out is not None:
        write_run(out, family, report, wanted, command, ablation)
    if figure is not None:
        draw(measurement.images, measurement.candidates, NoiseStarts(seed), 12, figure)
    if path_figure is not None:
        draw(measurement.images, measurement.candidates, PathStarts(seed, frames), frames, path_figure)
    if write_manifests:
        record(zoo, report.results, command)
    for name, fact in report.facts.items():
        typer.echo(f"{name}: {fact}")
    for part in (tables.QUALITY, tables.COST):
        typer.echo(f"\n{tables.table(report.results, part)}")


def report(
    folder: Annotated[Path, typer.Argument(help="Folder with the reports of `evaluate --out`.")] = Path("docs/results"),
    out: Annotated[Path, typer.Option("--out", help="Markdown to write; its curves go beside it.")] = Path("docs/results.md"),
) -> None:
    """Render the reports of all runs, and the words of notes.md beside them, into tables, curves and verdicts."""
    from training.evaluation.results import write_results

    write_results(folder, out, shlex.join(["sfddm-train", *sys.argv[1:]]))
    typer.echo(f"wrote {out}")


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise typer.BadParameter(f"--evaluations takes whole numbers with commas between them, got {text!r}") from None
