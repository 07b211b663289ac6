"""The training loop that teachers and students share: one function, read top to bottom.

What is random in step n depends on (seed, n) alone - data order, noise, timesteps, dropped labels - and is drawn for
the global batch before a process takes its share. So a resumed run continues to the same losses as an uninterrupted
one, and two processes see what one process with the same global batch would.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from training import checkpoint
from training.data import ImageSource, StepSampler, batches, to_unit
from training.ema import PowerEMA
from training.errors import CheckpointError, TrainingError
from training.progress import Progress

CHECKPOINT = "checkpoint.safetensors"


class LoopConfig(BaseModel):
    """How long, how fast and how often. Lengths are counted in training images seen, so they survive a batch change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(gt=0, description="stop after this many training images")
    batch: int = Field(default=64, gt=0, description="global batch size: images of one update, over all processes")
    accumulate: int = Field(default=1, gt=0, description="parts that a process takes its share of the batch in")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    warmup_images: int = Field(default=20_000, ge=0, description="linear warm-up")
    lr_decay_images: int | None = Field(default=None, gt=0, description="from here on lr ~ 1/sqrt(images); None: constant")
    anneal: bool = Field(default=False, description="let the learning rate fall linearly to zero at the last image")
    ema: float = Field(default=0.1, gt=0, lt=0.28, description="relative width of the weight average (sigma_rel)")
    grad_clip: float = Field(default=1.0, gt=0, description="global gradient norm is clipped to this")
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    compile: bool = Field(default=False, description="torch.compile the network")
    workers: int = Field(default=0, ge=0, description="data loading processes")
    checkpoint_images: int = Field(default=25_000, gt=0, description="write a checkpoint this often")
    sample_images: int = Field(default=50_000, gt=0, description="write a sample grid this often")
    snapshot_images: int | None = Field(default=None, gt=0, description="keep the averaged weights this often")

    def learning_rate(self, images: int) -> float:
        """lr min(images/warm-up, 1) / sqrt(max(images/decay, 1)) (Karras et al. 2024, arXiv 2312.02696, eq. 67).

        Annealed runs multiply it by 1 - images/total.
        """
        rate = self.lr * min(1.0, images / self.warmup_images) if self.warmup_images else self.lr
        if self.anneal:
            rate *= max(0.0, 1 - images / (self.images + self.batch))
        return rate / max(images / self.lr_decay_images, 1.0) ** 0.5 if self.lr_decay_images else rate


# What may differ between a checkpoint and the run that resumes it.
_SETTINGS_SINCE = {"sampler": "ddim", "norm": "squared"}  # what checkpoints from before these settings did
_MAY_CHANGE = {"images", "accumulate", "workers", "compile", "checkpoint_images", "sample_images", "snapshot_images"}


def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_accelerator(precision: str) -> Accelerator:
    """An Accelerator with the precision asked for; `auto` is bf16 where the hardware has it, else float32.

    Raises TrainingError for fp16 on a CPU, whose gradients nothing scales.
    """
    AcceleratorState._reset_state()  # accelerate allows one precision a process; we may train more than once in one
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise TrainingError("--precision fp16 needs a GPU; take bf16 or no on a CPU")
    if precision == "auto":
        precision = "bf16" if supports_bf16(PartialState().device) else "no"
    return Accelerator(mixed_precision=precision)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random stream of one step, on the CPU so that every device draws the same numbers."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator, slice], Tensor]


def fit(
    network: nn.Module,
    loss_of: Loss,
    source: ImageSource,
    config: LoopConfig,
    run: Path,
    *,
    facts: dict[str, Any],
    resume: bool,
    accelerator: Accelerator,
    sample: Callable[[nn.Module, Path], None] | None = None,
) -> nn.Module:
    """Train `network` and return it holding the averaged weights. Writes everything under the folder `run`.

    loss_of(network, x0 float [B,C,H,W] in [-1,1], class int64 [B], generator, share) -> scalar loss; it draws for the
    global batch from `generator` and keeps `share` of what it drew. facts: what the checkpoint says of itself (model
    and data configuration); a checkpoint with other facts is refused. sample(network, path) writes a picture.

    Raises CheckpointError when resuming what does not fit, TrainingError when the loss is no longer finite.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    if config.batch % (world * config.accumulate):
        parts = f"{world} processes" + (f" times --accumulate {config.accumulate}" if config.accumulate > 1 else "")
        raise TrainingError(f"the batch size {config.batch} must be a multiple of the {parts}")
    facts = {**facts, "loop": config.model_dump()}
    path = run / CHECKPOINT
    raw = network.to(accelerator.device)
    raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(raw.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
    ema = PowerEMA(raw, config.ema)
    step = 0
    before: float | None = 0.0  # seconds of training that a resumed run has behind it
    losses: list[tuple[int, float]] = []
    recent: list[Tensor] = []  # since the last entry of `losses`
    if resume:
        step, before, losses, recent = _restore(path, raw, ema, optimizer, facts)
    elif path.exists():
        raise CheckpointError(f"{path} exists: pass --resume to go on with it, or choose another --out folder")
    wrapped, optimizer = accelerator.prepare(raw, optimizer)
    if config.compile:
        wrapped = torch.compile(wrapped)

    share = slice(rank * config.batch // world, (rank + 1) * config.batch // world)
    part = (share.stop - share.start) // config.accumulate
    sampler = StepSampler(len(source), config.batch, seed=config.seed, first=step, share=share)
    stream = batches(source, sampler, workers=config.workers)
    total = -(-config.images // config.batch)
    main = accelerator.is_main_process
    if main:
        _check_space(run, raw)
    board = SummaryWriter(str(run / "tensorboard"), purge_step=step * config.batch) if main else None
    started = time.perf_counter()

    def crossed(every: int | None) -> bool:
        return every is not None and (step == total or step * config.batch // every > (step - 1) * config.batch // every)

    def write_checkpoint() -> None:
        tensors, groups = checkpoint.pack_optimizer(optimizer)
        parts = {
            "model": raw.state_dict(),
            "ema": ema.average,
            "optimizer": tensors,
            "random": {"torch": torch.get_rng_state()},
        }
        history = [(images, round(loss, 6)) for images, loss in losses]
        seconds = None if before is None else round(before + time.perf_counter() - started, 3)
        progress_facts = {"step": step, "seconds": seconds, "losses": history, "recent": [float(loss) for loss in recent]}
        checkpoint.save(path, parts, {**facts, **progress_facts, "groups": groups})

    with Progress(run.name, total * config.batch, step * config.batch, enabled=main) as progress:
        while step < total:
            images, label = next(stream)
            x0 = to_unit(images.to(accelerator.device))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate((step + 1) * config.batch)
            label = label.to(accelerator.device)
            loss = torch.zeros((), device=accelerator.device)
            for first in range(0, len(x0), part):
                last = first + part == len(x0)
                inside, of_batch = slice(first, first + part), slice(share.start + first, share.start + first + part)
                # Processes add their gradients up once, with the last part.
                with nullcontext() if last else accelerator.no_sync(wrapped):
                    with accelerator.autocast():
                        generator = step_generator(config.seed, step)
                        mean = loss_of(wrapped, x0[inside], label[inside], generator, of_batch) / config.accumulate
                    accelerator.backward(mean)
                loss += mean.detach()
            accelerator.clip_grad_norm_(raw.parameters(), config.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            ema.update(raw, step)

            recent.append(accelerator.reduce(loss, "mean"))
            progress.advance(config.batch)
            if progress.first:
                progress.report(loss=float(loss))
            if step % 20 == 0 or step == total:
                average = float(torch.stack(recent).mean())
                recent.clear()
                if not np.isfinite(average):
                    raise _diverged(step)
                losses.append((step * config.batch, average))
                progress.report(loss=average)
                if board is not None:
                    board.add_scalar("loss", average, step * config.batch)
            keeps = crossed(config.snapshot_images) or crossed(config.checkpoint_images)
            if keeps and not all(bool(tensor.isfinite().all()) for tensor in raw.parameters()):
                raise _diverged(step)
            if not main:
                continue
            if crossed(config.snapshot_images):
                name = f"ema-{step * config.batch:09d}.safetensors"
                average_half = {n: t.half() for n, t in ema.average.items()}
                checkpoint.save(run / "snapshots" / name, {"ema": average_half}, {**facts, "step": step})
            if crossed(config.checkpoint_images):
                write_checkpoint()
                if losses:
                    _write_losses(run, losses)
            if sample is not None and crossed(config.sample_images):
                with _averaged(raw, ema):
                    sample(raw, run / "samples" / f"{step * config.batch:09d}.png")
    if board is not None:
        board.close()
    ema.copy_to(raw)
    accelerator.wait_for_everyone()
    return raw


def _check_space(run: Path, network: nn.Module) -> None:
    """Raises TrainingError where not even one checkpoint would fit: weights, their average and two moments, in float32."""
    run.mkdir(parents=True, exist_ok=True)
    needed, free = 4 * 4 * sum(p.numel() for p in network.parameters()), shutil.disk_usage(run).free
    if free < needed:
        raise TrainingError(
            f"{run} has {free / 2**20:.1f} MiB free and a checkpoint takes {needed / 2**20:.1f}; free some space or choose "
            "another --out"
        )


def _diverged(step: int) -> TrainingError:
    return TrainingError(
        f"loss or weights were no longer finite by step {step}; what was kept before is whole; "
        "start again in another --out with a lower --lr"
    )


def differences(saved: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What a user changed since a checkpoint was made, as `setting: old, now new`; empty when it can be gone on with.

    saved, ours: facts of the checkpoint and of this run. Where no setting explains a difference (the data have changed, or the
    code), the fact itself is named.
    """
    free = _MAY_CHANGE - {"images"} if ours["loop"]["anneal"] else _MAY_CHANGE  # an annealed run's rate depends on its length
    ours_loop = {k: v for k, v in ours["loop"].items() if k not in free}
    loop = {**LoopConfig(images=1).model_dump(), **saved.get("loop", {})}  # older checkpoints lack newer settings
    theirs, mine = (side.get("provenance", {}).get("settings", {}) for side in (saved, ours))
    theirs = {**_SETTINGS_SINCE, **theirs}
    if settings := [*_changed(loop, ours_loop), *_changed(theirs, mine)]:
        return settings
    facts = [{k: v for k, v in side.items() if k != "loop"} for side in (saved, ours)]
    for side in facts:
        side["provenance"] = {k: v for k, v in side.get("provenance", {}).items() if k != "settings"}
    return _changed(*facts)


def _changed(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    found = []
    for key, value in ours.items():
        old = theirs.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            found += [f"{key}.{change}" for change in _changed(old, value)]
        elif old != value and not (key not in theirs and value is None):
            shown = ["another table" if isinstance(v, list) and len(v) > 8 else v for v in (old, value)]
            found.append(f"{key}: {shown[0]}, now {shown[1]}")
    return found


def _restore(
    path: Path, network: nn.Module, ema: PowerEMA, optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> tuple[int, float | None, list[tuple[int, float]], list[Tensor]]:
    """(step, seconds of training so far, losses, losses since the last entry); network, average, optimizer and random state as
    they were. Seconds are None where the checkpoint is from before they were kept.
    """
    parts, saved = checkpoint.load(path)
    changed = differences(saved, json.loads(json.dumps(facts)))
    if changed:
        raise CheckpointError(
            f"{path} was made with another configuration: {'; '.join(changed)}; repeat its settings or choose another --out"
        )
    try:
        network.load_state_dict(parts["model"])
        ema.average = {name: parts["ema"][name].to(t.device) for name, t in ema.average.items()}
        checkpoint.unpack_optimizer(optimizer, parts["optimizer"], saved["groups"])
        torch.set_rng_state(parts["random"]["torch"])
        device = next(network.parameters()).device
        recent = [torch.tensor(loss, device=device) for loss in saved.get("recent", [])]
        losses = [(int(images), float(loss)) for images, loss in saved["losses"]]
        return int(saved["step"]), saved.get("seconds"), losses, recent
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this network: {error}") from error


@contextmanager
def _averaged(network: nn.Module, ema: PowerEMA) -> Iterator[None]:
    """Within the block the network holds the averaged weights."""
    live = [p.detach().clone() for p in network.parameters()]
    ema.copy_to(network)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), live, strict=True):
                parameter.copy_(value)


def _write_losses(run: Path, losses: list[tuple[int, float]]) -> None:
    """loss.json and loss.png: the curve as numbers and as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (run / "loss.json").write_text(json.dumps(losses))
    images, values = zip(*losses, strict=True)
    window = max(1, len(values) // 50)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(images, values, alpha=0.3, linewidth=0.8)
    axes.plot(images[window - 1 :], smooth, linewidth=1.5)
    axes.set(xlabel="training images seen", ylabel="loss", title=run.name)
    if min(values) > 0:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(run / "loss.png", dpi=100)
    pyplot.close(figure)


def utc_now() -> str:
    """The time as an ISO 8601 string, for provenance."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
