"""The training loop that teachers and students share: one function, read top to bottom.

The random draws of step n (data order, noise, timesteps, dropped labels) depend on (seed, n) alone. They are drawn for the
global batch before a process takes its share. So a resumed run has the same losses as an uninterrupted one, and two processes
see the same numbers as one process with the same global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from training.batches import BatchOrder, batches, to_unit
from training.checkpoint import CHECKPOINT
from training.config import LoopConfig
from training.data import ImageSource
from training.ema import PowerEMA
from training.errors import CheckpointError, TrainingError
from training.loss import Loss
from training.pictures import write_losses
from training.progress import Progress
from training.resume import TrainingState, check_space, restore, write_checkpoint, write_snapshot
from training.run_facts import RunFacts

_REPORT_STEPS = 20  # updates averaged into one entry of the loss curve


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random stream of one step. It is on the CPU, so that every device draws the same numbers."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def fit(
    network: nn.Module,
    loss_of: Loss,
    source: ImageSource,
    facts: RunFacts,
    run: Path,
    *,
    resume: bool,
    accelerator: Accelerator,
    sample: Callable[[nn.Module, Path], None] | None = None,
) -> nn.Module:
    """Train `network` as `facts.loop` says. Return it with the averaged weights.

    Everything is written under the folder `run`. facts: stored in every checkpoint; a checkpoint that contradicts them is not
    resumed. sample(network, path) writes a picture.
    Raises CheckpointError when the checkpoint does not fit, or when there is one and `resume` is False. Raises TrainingError
    when the batch does not divide, the disk is too full, or the loss or the weights are no longer finite.
    """
    config, path, main = facts.loop, run / CHECKPOINT, accelerator.is_main_process
    share, part = _shares(config, accelerator)
    raw = network.to(accelerator.device)
    raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(raw.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
    state = TrainingState(raw, PowerEMA(raw, config.ema), optimizer)
    if resume:
        restore(path, state, facts)
    elif path.exists():
        raise CheckpointError(f"{path} exists: pass --resume to go on with it, or choose another --out folder")
    wrapped, optimizer = accelerator.prepare(raw, optimizer)
    if config.compile:
        wrapped = torch.compile(wrapped)
    order = BatchOrder(len(source), config.batch, seed=config.seed, first=state.step, share=share)
    stream = batches(source, order, workers=config.workers)
    if main:
        check_space(run, raw)
    board = SummaryWriter(str(run / "tensorboard"), purge_step=state.step * config.batch) if main else None
    total = -(-config.images // config.batch)

    def due(every: int | None) -> bool:
        """Return True when this update crosses a multiple of `every` images, or is the last one."""
        seen = state.step * config.batch
        return every is not None and (state.step == total or seen // every > (seen - config.batch) // every)

    with Progress(run.name, total * config.batch, state.step * config.batch, enabled=main) as progress:
        while state.step < total:
            # One update: the gradients of every part, clipped, one step of the optimiser, one step of the average.
            images, label = next(stream)
            x0, label = to_unit(images.to(accelerator.device)), label.to(accelerator.device)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate((state.step + 1) * config.batch)
            loss = torch.zeros((), device=accelerator.device)
            for first in range(0, len(x0), part):
                last = first + part == len(x0)
                inside, of_batch = slice(first, first + part), slice(share.start + first, share.start + first + part)
                # Processes add their gradients up once, with the last part.
                with nullcontext() if last else accelerator.no_sync(wrapped):
                    with accelerator.autocast():
                        generator = step_generator(config.seed, state.step)
                        mean = loss_of(wrapped, x0[inside], label[inside], generator, of_batch) / config.accumulate
                    accelerator.backward(mean)
                loss += mean.detach()
            accelerator.clip_grad_norm_(raw.parameters(), config.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.ema.update(raw, state.step)

            # Report the loss.
            state.recent.append(accelerator.reduce(loss, "mean"))
            progress.advance(config.batch)
            if progress.first:
                progress.report(loss=float(loss))
            if state.step % _REPORT_STEPS == 0 or state.step == total:
                average = float(torch.stack(state.recent).mean())
                state.recent.clear()
                if not np.isfinite(average):
                    raise _diverged(state.step)
                state.losses.append((state.step * config.batch, average))
                progress.report(loss=average)
                if board is not None:
                    board.add_scalar("loss", average, state.step * config.batch)

            # Write snapshots, checkpoints and samples. Every process checks the weights, so that all of them stop.
            keeps = due(config.snapshot_images) or due(config.checkpoint_images)
            if keeps and not all(bool(tensor.isfinite().all()) for tensor in raw.parameters()):
                raise _diverged(state.step)
            if not main:
                continue
            if due(config.snapshot_images):
                write_snapshot(run, state, facts)
            if due(config.checkpoint_images):
                write_checkpoint(path, state, facts)
                if state.losses:
                    write_losses(run, state.losses)
            if sample is not None and due(config.sample_images):
                with state.ema.applied_to(raw):
                    sample(raw, run / "samples" / f"{state.step * config.batch:09d}.png")
    if board is not None:
        board.close()
    state.ema.copy_to(raw)
    accelerator.wait_for_everyone()
    return raw


def _shares(config: LoopConfig, accelerator: Accelerator) -> tuple[slice, int]:
    """Return this process's share of the global batch, and the number of images in each part of that share.

    Raises TrainingError when the batch does not divide.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    if config.batch % (world * config.accumulate):
        parts = f"{world} processes" + (f" times --accumulate {config.accumulate}" if config.accumulate > 1 else "")
        raise TrainingError(f"the batch size {config.batch} must be a multiple of the {parts}")
    share = slice(rank * config.batch // world, (rank + 1) * config.batch // world)
    return share, (share.stop - share.start) // config.accumulate


def _diverged(step: int) -> TrainingError:
    return TrainingError(
        f"loss or weights were no longer finite by step {step}; what was kept before is whole; "
        "start again in another --out with a lower --lr"
    )
