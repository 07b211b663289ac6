"""Checkpoints of a running training: writing, restoring, and the settings that may change in between."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import checkpoint
from training.config import LoopConfig
from training.ema import PowerEMA
from training.errors import CheckpointError, TrainingError
from training.run_facts import RunFacts, RunProgress

# Settings that may differ between a checkpoint and the run that resumes it.
_MAY_CHANGE = frozenset({"images", "accumulate", "workers", "compile", "checkpoint_images", "sample_images", "snapshot_images"})
_SHOWN_ENTRIES = 8  # most entries of a list that a message prints; a longer one is called "another table"


@dataclass
class TrainingState:
    """The state of a running training. A checkpoint holds all of it."""

    network: nn.Module
    ema: PowerEMA
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)  # (training images seen, mean loss)
    recent: list[Tensor] = field(default_factory=list)  # losses since the last entry of `losses`
    seconds_before: float | None = 0.0  # wall time before the run was resumed; None: not known
    started: float = field(default_factory=time.perf_counter)

    @property
    def progress(self) -> RunProgress:
        """The progress of the run, without the optimiser's parameter groups."""
        seconds = None if self.seconds_before is None else round(self.seconds_before + time.perf_counter() - self.started, 3)
        history = [(images, round(loss, 6)) for images, loss in self.losses]
        return RunProgress(step=self.step, seconds=seconds, losses=history, recent=[float(loss) for loss in self.recent])


def write_checkpoint(path: Path, state: TrainingState, facts: RunFacts) -> None:
    """Write all that `restore` needs. Raises CheckpointError when the file cannot be written."""
    tensors, groups = checkpoint.pack_optimizer(state.optimizer)
    parts = {
        "model": state.network.state_dict(),
        "ema": state.ema.average,
        "optimizer": tensors,
        "random": {"torch": torch.get_rng_state()},
    }
    progress = state.progress.model_copy(update={"optimizer": groups})
    checkpoint.save_run(path, parts, facts.model_copy(update={"progress": progress}))


def write_snapshot(run: Path, state: TrainingState, facts: RunFacts) -> None:
    """Write the averaged weights in half precision, as one more snapshot of the run."""
    at = facts.at_step(state.step)
    average = {name: tensor.half() for name, tensor in state.ema.average.items()}
    checkpoint.save_run(run / checkpoint.SNAPSHOTS / f"ema-{at.images:09d}.safetensors", {"ema": average}, at)


def restore(path: Path, state: TrainingState, facts: RunFacts) -> None:
    """Load the checkpoint at `path` into `state`, and torch's random state.

    Raises CheckpointError when the checkpoint has another configuration than `facts`, or does not fit the network.
    """
    parts, saved = checkpoint.load_run(path)
    if changed := differences(saved, facts):
        raise CheckpointError(
            f"{path} was made with another configuration: {'; '.join(changed)}; repeat its settings or choose another --out"
        )
    try:
        state.network.load_state_dict(parts["model"])
        state.ema.average = {name: parts["ema"][name].to(t.device) for name, t in state.ema.average.items()}
        checkpoint.unpack_optimizer(state.optimizer, parts["optimizer"], saved.progress.optimizer)
        torch.set_rng_state(parts["random"]["torch"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this network: {error}") from error
    device = next(state.network.parameters()).device
    state.step, state.seconds_before = saved.progress.step, saved.progress.seconds
    state.losses = list(saved.progress.losses)
    state.recent = [torch.tensor(loss, device=device) for loss in saved.progress.recent]


def check_space(run: Path, network: nn.Module) -> None:
    """Raise TrainingError unless the disk has room for one checkpoint: weights, average and two moments in float32."""
    run.mkdir(parents=True, exist_ok=True)
    needed, free = 4 * 4 * sum(p.numel() for p in network.parameters()), shutil.disk_usage(run).free
    if free < needed:
        raise TrainingError(
            f"{run} has {free / 2**20:.1f} MiB free and a checkpoint takes {needed / 2**20:.1f}; free some space or choose "
            "another --out"
        )


def changed_settings(saved: RunFacts, *, loop: LoopConfig, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings that a user changed since a checkpoint was made, as `setting: old, now new`."""
    free = _MAY_CHANGE - {"images"} if loop.anneal else _MAY_CHANGE  # annealing depends on the number of images
    return [*_changed(saved.loop.model_dump(), loop.model_dump(exclude=set(free))), *_changed(saved.settings, settings)]


def differences(saved: RunFacts, ours: RunFacts) -> list[str]:
    """List the differences that stop a run from resuming a checkpoint, each as `name: old, now new`.

    Where no setting explains a difference (the data or the code have changed), the fact itself is named.
    """
    if settings := changed_settings(saved, loop=ours.loop, settings=ours.provenance.settings):
        return settings
    unknown = set() if saved.provenance.cost is not None else {"cost"}  # older checkpoints do not record the cost
    theirs, mine = (
        {
            **facts.model.model_dump(mode="json"),
            "provenance": facts.provenance.model_dump(mode="json", exclude={"settings", *unknown}),
        }
        for facts in (saved, ours)
    )
    return _changed(theirs, mine)


def _changed(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """List the entries of `ours` that differ. An entry that is None here and missing in `theirs` does not count."""
    found = []
    for key, value in ours.items():
        old = theirs.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            found += [f"{key}.{change}" for change in _changed(old, value)]
        elif old != value and not (key not in theirs and value is None):
            shown = ["another table" if isinstance(v, list) and len(v) > _SHOWN_ENTRIES else v for v in (old, value)]
            found.append(f"{key}: {shown[0]}, now {shown[1]}")
    return found
