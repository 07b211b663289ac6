"""`sfddm-train distill`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from training import options
from training.config import DistillConfig, student_loop
from training.config_file import Config
from training.objective_config import RolloutConfig, objective_config
from training.unet import UNetShape

_DEFAULT = DistillConfig(teacher="")
_LOOP = _DEFAULT.loop


def _of_rollout(field: str, description: str, minimum: int | None = None) -> Any:
    """Return an option of the rollout alone: None unless given, so that another objective can refuse it.

    Its help shows the default of RolloutConfig.
    """
    default = str(RolloutConfig.model_fields[field].default)
    return typer.Option(f"--{field}", help=description, show_default=default, min=minimum)


def distill(
    out: options.Out,
    teacher: options.Teacher,
    data: options.Data = _DEFAULT.data,
    steps: Annotated[int | None, typer.Option(min=1, help="T', the student's steps: any number up to the teacher's T.")] = None,
    phi: Annotated[str | None, typer.Option(help="Explicit teacher steps, 0,...,T, instead of --steps.")] = None,
    concentrate: Annotated[str | None, typer.Option(help="Put half of --steps within this part of T, e.g. 0.6,1.")] = None,
    objective: Annotated[
        str, typer.Option(help="Loss: rollout, released (the authors' code) or consistency.")
    ] = _DEFAULT.objective.objective,
    k: Annotated[int | None, _of_rollout("k", "Teacher sub-steps per student step; 1 is the paper's loss.", minimum=1)] = None,
    solver: Annotated[str | None, _of_rollout("solver", "Solver of the teacher's sub-steps: ddim or dpmpp.")] = None,
    sampler: Annotated[str | None, _of_rollout("sampler", "Sampler of the student's own steps: ddim or dpmpp.")] = None,
    weight: Annotated[str | None, _of_rollout("weight", options.GAMMA_PRIME)] = None,
    norm: Annotated[
        str | None, _of_rollout("norm", "Norm of an image's error in the loss: squared, or l2 (its square root).")
    ] = None,
    guidance: options.Guidance = None,
    guide: options.Guide = None,
    from_scratch: Annotated[bool, typer.Option(help="Do not start from the teacher's weights.")] = False,
    widths: Annotated[str | None, typer.Option(help="UNet widths other than the teacher's, e.g. 16,32,64.")] = None,
    images: options.Images = _LOOP.images,
    batch: options.Batch = _LOOP.batch,
    lr: options.StudentLr = _LOOP.lr,
    flip: options.Flip = _DEFAULT.flip,
    seed: options.Seed = _LOOP.seed,
    precision: options.Precision = _LOOP.precision,
    compile_: options.Compile = _LOOP.compile,
    workers: options.Workers = _LOOP.workers,
    accumulate: options.Accumulate = _LOOP.accumulate,
    checkpoint_images: options.CheckpointImages = _LOOP.checkpoint_images,
    sample_images: options.SampleImages = _LOOP.sample_images,
    resume: options.Resume = False,
    config: Config = None,  # noqa: ARG001 - its callback sets the defaults of the other options
) -> None:
    """Distil a teacher into a student of any step count, in a single phase."""
    from training.distill import distill as run

    if objective == "progressive":
        raise typer.BadParameter("progressive distillation is a command of its own: sfddm-train progressive")
    of_rollout = {"k": k, "solver": solver, "sampler": sampler, "weight": weight, "norm": norm}
    given = {name: value for name, value in of_rollout.items() if value is not None}
    settings = DistillConfig.model_validate(
        {
            "teacher": teacher,
            "data": data,
            "steps": steps,
            "phi": None if phi is None else options.integers(phi, "--phi"),
            "concentrate": None if concentrate is None else options.share(concentrate),
            "objective": objective_config(objective, given),
            "guidance": guidance,
            "guide": guide,
            "init": "scratch" if from_scratch else "teacher",
            "unet": None if widths is None else _as_wide(teacher, options.integers(widths, "--widths")),
            "flip": flip,
            "loop": student_loop(
                images=images,
                batch=batch,
                lr=lr,
                seed=seed,
                precision=precision,
                compile=compile_,
                workers=workers,
                accumulate=accumulate,
                checkpoint_images=checkpoint_images,
                sample_images=sample_images,
            ),
        }
    )
    run(settings, out, resume=resume)


def _as_wide(teacher: str, channels: tuple[int, ...]) -> UNetShape:
    """Return the shape of the teacher's UNet with other widths. Raises TrainingError unless there are as many of them."""
    from training.errors import TrainingError
    from training.torch_model import load_model

    config = load_model(teacher).network.config
    if len(channels) != len(config.block_out_channels):
        raise TrainingError(f"--widths needs {len(config.block_out_channels)} entries, as the teacher has")
    return UNetShape(
        channels=channels,
        layers=config.layers_per_block,
        attention=tuple("Attn" in block for block in config.down_block_types),
        head_dim=config.attention_head_dim,
        groups=config.norm_num_groups,
    )
