"""`sfddm-train progressive`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from training import options
from training.config import FoldsConfig, student_loop
from training.config_file import Config
from training.objective_config import ProgressiveConfig

_DEFAULT = FoldsConfig(teacher="", to=1, budget=1)
_LOOP = _DEFAULT.loop
_NO_GRIDS: Final = 10**9  # images between sample grids, so many that only the last grid is written


def progressive(
    out: options.Out,
    teacher: options.Teacher,
    to: Annotated[int, typer.Option("--to", min=1, help="T' of the last fold: the teacher's steps halved a few times.")],
    budget: Annotated[
        int, typer.Option("--budget-evaluations", min=1, help="Network evaluations of all folds together; 5 an image.")
    ],
    data: options.Data = _DEFAULT.data,
    weight: Annotated[str, typer.Option(help=options.GAMMA_PRIME)] = _DEFAULT.objective.weight,
    batch: options.Batch = _LOOP.batch,
    lr: options.StudentLr = _LOOP.lr,
    flip: options.Flip = _DEFAULT.flip,
    seed: options.Seed = _LOOP.seed,
    precision: options.Precision = _LOOP.precision,
    compile_: options.Compile = _LOOP.compile,
    workers: options.Workers = _LOOP.workers,
    accumulate: options.Accumulate = _LOOP.accumulate,
    resume: options.Resume = False,
    config: Config = None,  # noqa: ARG001 - its callback sets the defaults of the other options
) -> None:
    """Distil by halving, fold after fold (Salimans & Ho 2022): the multi-fold baseline. Each fold can be exported."""
    from training.folds import progressive as run

    loop = student_loop(
        images=budget,  # more than any fold has: the budget decides their length
        batch=batch,
        lr=lr,
        seed=seed,
        precision=precision,
        compile=compile_,
        workers=workers,
        accumulate=accumulate,
        sample_images=_NO_GRIDS,
    )
    settings = FoldsConfig.model_validate(
        {
            "teacher": teacher,
            "to": to,
            "budget": budget,
            "data": data,
            "objective": ProgressiveConfig.model_validate({"weight": weight}),
            "flip": flip,
            "loop": loop,
        }
    )
    for folder in run(settings, out, resume=resume):
        typer.echo(f"wrote {folder}")
