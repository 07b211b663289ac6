"""The options that several commands of `sfddm-train` share, and functions that parse their text into numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Run folder: checkpoint, samples, loss curve, TensorBoard.")]
Data = Annotated[
    str, typer.Option("--data", help="fashion-mnist, an image folder, a .zip of images, IDX files, or hf:owner/name.")
]
Teacher = Annotated[str, typer.Option("--teacher", help="Run folder, model folder, diffusers pipeline folder or hub id.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --out.")]
Images = Annotated[int, typer.Option("--images", min=1, help="Stop after this many training images.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Global batch size.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random numbers.")]
Precision = Annotated[
    str, typer.Option("--precision", help="bf16, fp16, no (float32), or auto: bf16 where the hardware has it.")
]
Compile = Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the network; worth it in long runs.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Data loading processes; 0 for data in memory.")]
Accumulate = Annotated[int, typer.Option("--accumulate", min=1, help="Split each batch into this many parts, to save memory.")]
CheckpointImages = Annotated[int, typer.Option("--checkpoint-images", min=1, help="Write a checkpoint every N images.")]
SampleImages = Annotated[int, typer.Option("--sample-images", min=1, help="Write a grid of samples every N images.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Guide the teacher with this scale; 1 is no guidance.")]
Guide = Annotated[
    str | None, typer.Option("--guide", help="A weaker network to guide away from, e.g. a snapshot; default: classifier-free.")
]
Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror images at random.")]
StudentLr = Annotated[float, typer.Option("--lr", min=0, help="Peak learning rate; it falls linearly to zero.")]

GAMMA_PRIME = "Loss weight gamma': auto, simple, snr or truncated-snr."  # the help of --weight


def integers(text: str, name: str) -> tuple[int, ...]:
    """Parse whole numbers such as `1,2,3`. Raises BadParameter with the option's name for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{name} takes whole numbers with commas between them, got {text!r}") from None


def share(text: str) -> tuple[float, float]:
    """Parse two numbers such as `0.6,1`. Raises BadParameter with the option's name for anything else."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--concentrate takes two numbers between 0 and 1, such as 0.6,1; got {text!r}") from None
    return low, high


def listed(numbers: tuple[int, ...] | tuple[bool, ...]) -> str:
    """Format numbers as the text of an option: `1,2,3`; booleans as 0 and 1."""
    return ",".join(str(int(number)) for number in numbers)
