"""`sfddm-train teacher`."""

from __future__ import annotations

from typing import Annotated

import typer

from training import options
from training.config import TeacherConfig, teacher_loop
from training.config_file import Config
from training.unet import UNetShape

_DEFAULT = TeacherConfig()
_LOOP = _DEFAULT.loop
_UNET = _DEFAULT.unet


def teacher(
    out: options.Out,
    data: options.Data = _DEFAULT.data,
    images: options.Images = _LOOP.images,
    image_size: Annotated[int | None, typer.Option(min=4, help="Side of the images; default: that of the data.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; default: those of the data.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="T, the number of diffusion steps.")] = _DEFAULT.steps,
    schedule: Annotated[str, typer.Option(help="Noise schedule: linear, cosine or sigmoid.")] = _DEFAULT.schedule,
    prediction: Annotated[str, typer.Option(help="Target of the network: v_prediction or epsilon.")] = _DEFAULT.prediction_type,
    label_dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of labels replaced by the null label.")
    ] = _DEFAULT.label_dropout,
    init: Annotated[str | None, typer.Option(help="Start from this model's weights: a folder or a hub id.")] = None,
    widths: Annotated[str, typer.Option(help="UNet channels, one per resolution.")] = options.listed(_UNET.channels),
    layers: Annotated[int, typer.Option(min=1, help="Residual blocks per resolution.")] = _UNET.layers,
    attention: Annotated[str, typer.Option(help="Attention, 0 or 1 per resolution.")] = options.listed(_UNET.attention),
    head_dim: Annotated[int, typer.Option(min=1, help="Channels per attention head.")] = _UNET.head_dim,
    groups: Annotated[int, typer.Option(min=1, help="Groups of each GroupNorm.")] = _UNET.groups,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Dropout in the residual blocks.")] = _UNET.dropout,
    flip: options.Flip = _DEFAULT.flip,
    batch: options.Batch = _LOOP.batch,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = _LOOP.lr,
    lr_decay_images: Annotated[
        int | None, typer.Option(min=1, help="From this image on the rate falls as 1/sqrt(images).")
    ] = _LOOP.lr_decay_images,
    seed: options.Seed = _LOOP.seed,
    precision: options.Precision = _LOOP.precision,
    compile_: options.Compile = _LOOP.compile,
    workers: options.Workers = _LOOP.workers,
    accumulate: options.Accumulate = _LOOP.accumulate,
    checkpoint_images: options.CheckpointImages = _LOOP.checkpoint_images,
    sample_images: options.SampleImages = _LOOP.sample_images,
    snapshot_images: Annotated[int | None, typer.Option(min=1, help="Keep the averaged weights every N images.")] = None,
    resume: options.Resume = False,
    config: Config = None,  # noqa: ARG001 - its callback sets the defaults of the other options
) -> None:
    """Train a teacher: an ordinary diffusion model, class-conditional when the data have labels."""
    from training.teacher import train_teacher

    unet = UNetShape(
        channels=options.integers(widths, "--widths"),
        layers=layers,
        attention=tuple(bool(on) for on in options.integers(attention, "--attention")),
        head_dim=head_dim,
        groups=groups,
        dropout=dropout,
    )
    loop = teacher_loop(
        images=images,
        batch=batch,
        lr=lr,
        lr_decay_images=lr_decay_images,
        seed=seed,
        precision=precision,
        compile=compile_,
        workers=workers,
        accumulate=accumulate,
        checkpoint_images=checkpoint_images,
        sample_images=sample_images,
        snapshot_images=snapshot_images,
    )
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
            "unet": unet,
            "loop": loop,
        }
    )
    train_teacher(settings, out, resume=resume)
