"""The `sfddm-train` command: teacher, distill, sample, export, evaluate, report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from training.evaluation.cli import evaluate, report

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
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile the network; pays in long runs.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Data loading processes; 0 for data in memory.")]
Flip = Annotated[bool, typer.Option("--flip", help="Mirror images at random.")]


def _integers(text: str, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{name} takes whole numbers with commas between them, got {text!r}") from None


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
    checkpoint_images: Annotated[int, typer.Option(min=1, help="Checkpoint this often.")] = 20_000,
    sample_images: Annotated[int, typer.Option(min=1, help="Sample grid this often.")] = 50_000,
    snapshot_images: Annotated[int | None, typer.Option(min=1, help="Keep the averaged weights this often.")] = None,
    resume: Resume = False,
) -> None:
    """Train a teacher: an ordinary diffusion model, class-conditional when the data have labels."""
    from training.loop import LoopConfig
    from training.teacher import TeacherConfig, UNetShape, train_teacher

    config = TeacherConfig.model_validate(
        {
            "data": data,
            "image_size": image_size,
            "channels": channels,
            "flip": flip,
            "steps": steps,
            "schedule": schedule,
            "prediction_type": prediction,
            "label_dropout": label_dropout,
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
                    "checkpoint_images": checkpoint_images,
                    "sample_images": sample_images,
                    "snapshot_images": snapshot_images,
                }
            ),
        }
    )
    train_teacher(config, out, resume=resume)


@app.command()
def distill(
    out: Out,
    teacher: Annotated[str, typer.Option(help="Run folder, model folder, diffusers pipeline folder or hub id.")],
    data: Data = "fashion-mnist",
    steps: Annotated[int | None, typer.Option(min=1, help="T', any number up to the teacher's T.")] = None,
    phi: Annotated[str | None, typer.Option(help="Explicit teacher steps, 0,...,T, instead of --steps.")] = None,
    concentrate: Annotated[str | None, typer.Option(help="Put half of --steps within this part of T, e.g. 0.6,1.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Teacher sub-steps per student step; 1 is the paper's loss.")] = 4,
    from_scratch: Annotated[bool, typer.Option(help="Do not start from the teacher's weights.")] = False,
    widths: Annotated[str | None, typer.Option(help="Another UNet width than the teacher's, e.g. 16,32,64.")] = None,
    images: Images = 16_000,
    batch: Batch = 64,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate; it falls linearly to zero.")] = 1e-4,
    flip: Flip = False,
    seed: Seed = 0,
    precision: Precision = "no",
    compile_: Compile = False,
    workers: Workers = 0,
    checkpoint_images: Annotated[int, typer.Option(min=1, help="Checkpoint this often.")] = 20_000,
    sample_images: Annotated[int, typer.Option(min=1, help="Sample grid this often.")] = 50_000,
    resume: Resume = False,
) -> None:
    """Distil a teacher into a student of any step count, in a single phase."""
    from training.distill import DistillConfig
    from training.distill import distill as run
    from training.errors import TrainingError
    from training.loop import LoopConfig
    from training.teacher import UNetShape
    from training.torch_model import load_model

    unet = None
    if widths is not None:
        config = load_model(teacher).network.config
        if len(_integers(widths, "--widths")) != len(config.block_out_channels):
            raise TrainingError(f"--widths needs {len(config.block_out_channels)} entries, as the teacher has")
        unet = UNetShape(
            channels=_integers(widths, "--widths"),
            layers=config.layers_per_block,
            attention=tuple("Attn" in block for block in config.down_block_types),
            head_dim=config.attention_head_dim,
            groups=config.norm_num_groups,
        )
    share = None if concentrate is None else tuple(float(part) for part in concentrate.split(","))
    run(
        DistillConfig.model_validate(
            {
                "teacher": teacher,
                "data": data,
                "steps": steps,
                "phi": None if phi is None else _integers(phi, "--phi"),
                "concentrate": share,
                "k": k,
                "init": "scratch" if from_scratch else "teacher",
                "unet": unet,
                "flip": flip,
                "loop": LoopConfig.model_validate(
                    {
                        "images": images,
                        "batch": batch,
                        "lr": lr,
                        "anneal": True,
                        "warmup_images": min(10 * batch, images),
                        "seed": seed,
                        "precision": precision,
                        "compile": compile_,
                        "workers": workers,
                        "checkpoint_images": checkpoint_images,
                        "sample_images": sample_images,
                    }
                ),
            }
        ),
        out,
        resume=resume,
    )


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="Run folder, model folder, diffusers pipeline folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("sample.png"),
    n: Annotated[int, typer.Option("-n", min=1, help="Images.")] = 20,
    columns: Annotated[int, typer.Option(min=1, help="Images in a row of the grid.")] = 10,
    sampler: Annotated[str, typer.Option(help="ddim, ddpm or dpmpp.")] = "ddim",
    steps: Annotated[int | None, typer.Option(min=1, help="Evaluations; default: all of the model's own steps.")] = None,
    label: Annotated[int | None, typer.Option(min=0, help="Class of every image; default: one after the other.")] = None,
    seed: Seed = 0,
) -> None:
    """Draw a grid of images from a model, in torch."""
    from training.sampling import sample_grid

    sample_grid(model, out, count=n, columns=columns, sampler=sampler, steps=steps, label=label, seed=seed)
    typer.echo(f"wrote {out}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Run folder, diffusers pipeline folder or hub id.")],
    name: Annotated[str, typer.Option(help="Name in the zoo: teacher, student-016, ...")],
    family: Annotated[str, typer.Option(help="Family in the zoo, usually the data set.")],
    zoo: Annotated[Path, typer.Option(help="Zoo folder to write into.")] = Path("zoo"),
    float32: Annotated[bool, typer.Option("--float32", help="Store weights as float32 instead of float16.")] = False,
    pipeline: Annotated[Path | None, typer.Option(help="Also write a stock diffusers pipeline folder here.")] = None,
) -> None:
    """Write a model folder (ONNX step graph, manifest, card) that the service can serve."""
    from training.export import export as run

    folder = run(model, zoo, family, name, half=not float32, pipeline=pipeline)
    typer.echo(f"wrote {folder}" + (f" and {pipeline}" if pipeline else ""))


app.command()(evaluate)
app.command()(report)


def _one_sentence(run: Callable[[], Any]) -> int:
    """Run the command; a known error becomes one sentence on stderr and exit status 1."""
    from models.catalogue import UnknownModelError
    from models.manifest import ManifestError, describe_error
    from training.errors import TrainingError

    try:
        run()
    except (TrainingError, ManifestError, UnknownModelError, ValueError) as error:
        message = describe_error(error) if isinstance(error, ValidationError) else str(error)
        print(f"sfddm-train: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sfddm-train: interrupted; go on from the last checkpoint with --resume", file=sys.stderr)
        return 130
    return 0


def main() -> None:
    """Entry point."""
    sys.exit(_one_sentence(app))


if __name__ == "__main__":
    main()
