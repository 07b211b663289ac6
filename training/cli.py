"""The `sfddm-train` command: teacher, distill, progressive, sample, export, evaluate, report."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from training.config import Config
from training.evaluation.cli import evaluate, png, report

if TYPE_CHECKING:
    from training.teacher import UNetShape

app = typer.Typer(
    name="sfddm-train",
    help="Train diffusion teachers, distil them into students of any step count, measure and export them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Out = Annotated[Path, typer.Option("--out", help="Run folder: checkpoint, samples, loss curve, TensorBoard.")]
Data = Annotated[
    str, typer.Option("--data", help="fashion-mnist, an image folder, a .zip of images, IDX files, or hf:owner/name.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the checkpoint in --out.")]
Images = Annotated[int, typer.Option("--images", min=1, help="Stop after this many training images.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Global batch size.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Precision = Annotated[str, typer.Option("--precision", help="auto (bf16 where the hardware has it), no, bf16 or fp16.")]
Compile = Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the network; pays in long runs.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Data loading processes; 0 for data in memory.")]
Accumulate = Annotated[int, typer.Option("--accumulate", min=1, help="Take the batch in so many parts, to save memory.")]
CheckpointImages = Annotated[int, typer.Option("--checkpoint-images", min=1, help="Checkpoint this often.")]
SampleImages = Annotated[int, typer.Option("--sample-images", min=1, help="Sample grid this often.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Guide the teacher with this scale; 1 is no guidance.")]
Guide = Annotated[
    str | None, typer.Option("--guide", help="A weaker network to guide away from, such as a snapshot; default: no label.")
]
Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror images at random.")]


def _integers(text: str, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{name} takes whole numbers with commas between them, got {text!r}") from None


def _share(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--concentrate takes two numbers between 0 and 1, such as 0.6,1; got {text!r}") from None
    return low, high


@app.command()
def teacher(
    out: Out,
    data: Data = "fashion-mnist",
    images: Images = 1_000_000,
    image_size: Annotated[int | None, typer.Option(min=4, help="Resize to this; default: as the data are.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; default: as the data are.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="T.")] = 1024,
    schedule: Annotated[str, typer.Option(help="linear, cosine or sigmoid.")] = "cosine",
    prediction: Annotated[str, typer.Option(help="v_prediction or epsilon.")] = "v_prediction",
    label_dropout: Annotated[float, typer.Option(min=0, max=1, help="Share of labels replaced by the null label.")] = 0.1,
    init: Annotated[str | None, typer.Option(help="Start from this model's weights: a folder or a hub id.")] = None,
    widths: Annotated[str, typer.Option(help="UNet channels, one per resolution.")] = "32,64,96",
    layers: Annotated[int, typer.Option(min=1, help="Residual blocks per resolution.")] = 2,
    attention: Annotated[str, typer.Option(help="0 or 1 per resolution.")] = "0,0,1",
    head_dim: Annotated[int, typer.Option(min=1, help="Channels per attention head.")] = 32,
    groups: Annotated[int, typer.Option(min=1, help="Groups of each GroupNorm.")] = 16,
    dropout: Annotated[float, typer.Option(min=0, max=0.9)] = 0.0,
    flip: Flip = False,
    batch: Batch = 64,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 1e-3,
    lr_decay_images: Annotated[int, typer.Option(min=1, help="From here on the rate falls as 1/sqrt(images).")] = 150_000,
    seed: Seed = 0,
    precision: Precision = "auto",
    compile_: Compile = False,
    workers: Workers = 0,
    accumulate: Accumulate = 1,
    checkpoint_images: CheckpointImages = 20_000,
    sample_images: SampleImages = 50_000,
    snapshot_images: Annotated[int | None, typer.Option(min=1, help="Keep the averaged weights this often.")] = None,
    resume: Resume = False,
    config: Config = None,  # noqa: ARG001 - its callback has filled the others
) -> None:
    """Train a teacher: an ordinary diffusion model, class-conditional when the data have labels."""
    from training.loop import LoopConfig
    from training.teacher import TeacherConfig, UNetShape, train_teacher

    settings = TeacherConfig.model_validate(
        {
            "data": data,
            "image_size": image_size,
            "channels": channels,
            "flip": flip,
            "steps": steps,
            "schedule": schedule,
            "prediction_type": prediction,
            "label_dropout": label_dropout,
            "init": init,
            "unet": UNetShape(
                channels=_integers(widths, "--widths"),
                layers=layers,
                attention=tuple(bool(on) for on in _integers(attention, "--attention")),
                head_dim=head_dim,
                groups=groups,
                dropout=dropout,
            ),
            "loop": LoopConfig.model_validate(
                {
                    "images": images,
                    "batch": batch,
                    "lr": lr,
                    "lr_decay_images": lr_decay_images,
                    "seed": seed,
                    "precision": precision,
                    "compile": compile_,
                    "workers": workers,
                    "accumulate": accumulate,
                    "checkpoint_images": checkpoint_images,
                    "sample_images": sample_images,
                    "snapshot_images": snapshot_images,
                }
            ),
        }
    )
    train_teacher(settings, out, resume=resume)


Teacher = Annotated[str, typer.Option("--teacher", help="Run folder, model folder, diffusers pipeline folder or hub id.")]
StudentLr = Annotated[float, typer.Option("--lr", min=0, help="Peak learning rate; it falls linearly to zero.")]
GammaPrime = Annotated[str, typer.Option("--weight", help="gamma': auto, simple, snr or truncated-snr.")]


@app.command()
def distill(
    out: Out,
    teacher: Teacher,
    data: Data = "fashion-mnist",
    steps: Annotated[int | None, typer.Option(min=1, help="T', any number up to the teacher's T.")] = None,
    phi: Annotated[str | None, typer.Option(help="Explicit teacher steps, 0,...,T, instead of --steps.")] = None,
    concentrate: Annotated[str | None, typer.Option(help="Put half of --steps within this part of T, e.g. 0.6,1.")] = None,
    objective: Annotated[str, typer.Option(help="rollout, released (the authors' code) or consistency.")] = "rollout",
    k: Annotated[int, typer.Option("--k", min=1, help="Teacher sub-steps per student step; 1 is the paper's loss.")] = 4,
    solver: Annotated[str, typer.Option(help="What takes the sub-steps: ddim or dpmpp.")] = "ddim",
    sampler: Annotated[str, typer.Option(help="What takes the student's own steps: ddim or dpmpp.")] = "ddim",
    weight: GammaPrime = "auto",
    norm: Annotated[str, typer.Option(help="How an image's error enters the loss: squared, or l2, not squared.")] = "squared",
    guidance: Guidance = None,
    guide: Guide = None,
    from_scratch: Annotated[bool, typer.Option(help="Do not start from the teacher's weights.")] = False,
    widths: Annotated[str | None, typer.Option(help="Another UNet width than the teacher's, e.g. 16,32,64.")] = None,
    images: Images = 16_000,
    batch: Batch = 64,
    lr: StudentLr = 1e-4,
    flip: Flip = False,
    seed: Seed = 0,
    precision: Precision = "no",
    compile_: Compile = False,
    workers: Workers = 0,
    accumulate: Accumulate = 1,
    checkpoint_images: CheckpointImages = 20_000,
    sample_images: SampleImages = 50_000,
    resume: Resume = False,
    config: Config = None,  # noqa: ARG001 - its callback has filled the others
) -> None:
    """Distil a teacher into a student of any step count, in a single phase."""
    from training.distill import DistillConfig
    from training.distill import distill as run

    if objective == "progressive":
        raise typer.BadParameter("progressive distillation is a command of its own: sfddm-train progressive")
    unet = None if widths is None else _as_wide(teacher, _integers(widths, "--widths"))
    settings = {
        "teacher": teacher,
        "data": data,
        "steps": steps,
        "phi": None if phi is None else _integers(phi, "--phi"),
        "concentrate": None if concentrate is None else _share(concentrate),
        "objective": objective,
        "k": k,
        "solver": solver,
        "sampler": sampler,
        "weight": weight,
        "norm": norm,
        "guidance": guidance,
        "guide": guide,
        "init": "scratch" if from_scratch else "teacher",
        "unet": unet,
        "flip": flip,
        "loop": {
            "images": images,
            "batch": batch,
            "lr": lr,
            "anneal": True,
            "warmup_images": min(10 * batch, images),
            "seed": seed,
            "precision": precision,
            "compile": compile_,
            "workers": workers,
            "accumulate": accumulate,
            "checkpoint_images": checkpoint_images,
            "sample_images": sample_images,
        },
    }
    run(DistillConfig.model_validate(settings), out, resume=resume)


def _as_wide(teacher: str, channels: tuple[int, ...]) -> UNetShape:
    """The teacher's UNet in other widths."""
    from training.errors import TrainingError
    from training.teacher import UNetShape
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


@app.command()
def progressive(
    out: Out,
    teacher: Teacher,
    to: Annotated[int, typer.Option("--to", min=1, help="T' of the last fold: the teacher's steps halved a few times.")],
    budget: Annotated[
        int, typer.Option("--budget-evaluations", min=1, help="Network evaluations of all folds together; 5 an image.")
    ],
    data: Data = "fashion-mnist",
    weight: GammaPrime = "auto",
    batch: Batch = 64,
    lr: StudentLr = 1e-4,
    flip: Flip = False,
    seed: Seed = 0,
    precision: Precision = "no",
    compile_: Compile = False,
    workers: Workers = 0,
    accumulate: Accumulate = 1,
    resume: Resume = False,
    config: Config = None,  # noqa: ARG001 - its callback has filled the others
) -> None:
    """Distil by halving, fold after fold (Salimans & Ho 2022): the multi-fold baseline. Each fold can be exported."""
    from training.distill import DistillConfig
    from training.objectives.progressive import progressive as run

    loop = {
        "images": batch,  # the budget decides
        "batch": batch,
        "lr": lr,
        "anneal": True,
        "warmup_images": 10 * batch,
        "seed": seed,
        "precision": precision,
        "compile": compile_,
        "workers": workers,
        "accumulate": accumulate,
        "sample_images": 10**9,
    }
    settings = {"teacher": teacher, "data": data, "weight": weight, "flip": flip, "loop": loop}
    for folder in run(DistillConfig.model_validate(settings), to, budget, out, resume=resume):
        typer.echo(f"wrote {folder}")


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="Run folder, model folder, diffusers pipeline folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", callback=png, help="PNG to write.")] = Path("sample.png"),
    n: Annotated[int, typer.Option("-n", min=1, help="Images.")] = 20,
    columns: Annotated[int, typer.Option(min=1, help="Images in a row of the grid.")] = 10,
    sampler: Annotated[str | None, typer.Option(help="ddim, ddpm or dpmpp; default: the model's own.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Evaluations; default: all of the model's own steps.")] = None,
    label: Annotated[int | None, typer.Option(min=0, help="Class of every image; default: one after the other.")] = None,
    seed: Seed = 0,
    guidance: Guidance = None,
    guide: Guide = None,
) -> None:
    """Draw a grid of images from a model, in torch."""
    from training.guidance import load_guided
    from training.sampling import sample_grid

    loaded = load_guided(model, scale=guidance, guide=guide)
    sample_grid(loaded, out, count=n, columns=columns, sampler=sampler, steps=steps, label=label, seed=seed)
    typer.echo(f"wrote {out}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Run folder, diffusers pipeline folder or hub id.")],
    name: Annotated[str, typer.Option(help="Name in the zoo: teacher, student-016, ...")],
    family: Annotated[str, typer.Option(help="Family in the zoo, usually the data set.")],
    zoo: Annotated[Path, typer.Option(help="Zoo folder to write into.")] = Path("zoo"),
    float32: Annotated[bool, typer.Option("--float32", help="Store weights as float32 instead of float16.")] = False,
    pipeline: Annotated[Path | None, typer.Option(help="Also write a stock diffusers pipeline folder here.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Keep so many of a student's own steps, evenly spaced.")] = None,
) -> None:
    """Write a model folder (ONNX step graph, manifest, card) that the service can serve."""
    from training.export import export as run
    from training.logs import log_only_warnings

    log_only_warnings()
    folder = run(model, zoo, family, name, half=not float32, pipeline=pipeline, steps=steps)
    typer.echo(f"wrote {folder}" + (f" and {pipeline}" if pipeline else ""))


app.command()(evaluate)
app.command()(report)


_INTERRUPTED = 130


def _one_sentence(run: Callable[[], Any]) -> int:
    """Run the command; a known error becomes one sentence on stderr and exit status 1, a wrong command line status 2."""
    from models.catalogue import UnknownModelError
    from models.manifest import ManifestError
    from models.validation import describe_error
    from training.errors import TrainingError

    usage: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        status = run() or 0
        if status == _INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return status
    except usage as error:
        message = error.format_message()  # type: ignore[attr-defined]  # names the option
        if message:  # else no command was given, and the help has been printed
            print(f"sfddm-train: {message}", file=sys.stderr)
        return 2
    except (TrainingError, ManifestError, UnknownModelError, ValueError) as error:
        message = describe_error(error) if isinstance(error, ValidationError) else str(error)
        print(f"sfddm-train: {message}", file=sys.stderr)
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space or choose another folder" if full else "check the path and its permissions, or choose another"
        print(f"sfddm-train: {place}{error.strerror or error}; {remedy}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print(
            "sfddm-train: interrupted; trainings go on from a checkpoint with --resume, evaluate from its cache",
            file=sys.stderr,
        )
        return _INTERRUPTED


def main() -> None:
    """Entry point."""
    sys.exit(_one_sentence(lambda: app(prog_name="sfddm-train", standalone_mode=False)))


if __name__ == "__main__":
    main()
