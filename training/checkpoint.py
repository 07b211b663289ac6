"""Complete checkpoints in one safetensors file, written atomically.

Tensors are named `<part>/<name>` (model/, ema/, optimizer/, random/). The header's metadata holds everything else as JSON:
training.run_facts.RunFacts. A checkpoint is written by models.files.write_atomically, so a killed process or a full disk
leaves the previous one intact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.files import remove_drafts, write_atomically
from models.validation import describe_error
from training.errors import CheckpointError
from training.run_facts import RunFacts, is_bare

CHECKPOINT = "checkpoint.safetensors"  # file name in a run folder
SNAPSHOTS = "snapshots"  # sub-folder of a run folder: its averaged weights, ema-IMAGES.safetensors

Parts = dict[str, dict[str, Tensor]]


def save(path: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write `parts` (part -> name -> tensor) and `facts`, which JSON can hold, to `path` in a run folder, atomically.

    Drafts of `path` from killed processes are removed first. That is safe, because only one process writes a run.
    Raises CheckpointError when the file cannot be written.
    """
    try:
        remove_drafts(path)
        write(path, parts, facts)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}; free some space or choose another folder, then go on with --resume"
        ) from error


def write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write the same file as `save`, also while other processes write `path`. Raises OSError or SafetensorError."""
    tensors = {f"{part}/{name}": t.detach().cpu().contiguous() for part, named in parts.items() for name, t in named.items()}
    with write_atomically(path) as draft:
        save_file(tensors, draft, metadata={"facts": json.dumps(facts)})


def load(path: Path) -> tuple[Parts, dict[str, Any]]:
    """Read (parts, facts) of a checkpoint. Raises CheckpointError when the file is missing, damaged or no checkpoint."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; check the path, or start anew without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            parts: Parts = {}
            for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
        return parts, json.loads(metadata["facts"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or is no checkpoint of ours: {error}") from error


def save_run(path: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: RunFacts) -> None:
    """Write a checkpoint or snapshot of a run, atomically. Raises CheckpointError when the file cannot be written."""
    save(path, parts, facts.model_dump(mode="json"))


def load_run(path: Path) -> tuple[Parts, RunFacts]:
    """Read a checkpoint or snapshot of a run, of this version or an older one.

    The facts of an early snapshot, which holds weights alone, are read from the checkpoint of its run.
    Raises CheckpointError when the file is missing, damaged or not from a run.
    """
    parts, header = load(path)
    bare = path.parent.name == SNAPSHOTS and is_bare(header)
    if bare:
        _, header = load(path.parents[1] / CHECKPOINT)
    try:
        facts = RunFacts.of_header(header)
    except ValueError as error:
        reason = describe_error(error) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{path} is no checkpoint of this version of sfddm-train: {reason}") from error
    return parts, facts.at_step(int(path.stem.removeprefix("ema-")) // facts.loop.batch) if bare else facts


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return an optimiser's state: (named tensors, parameter groups, which JSON can hold)."""
    state = optimizer.state_dict()
    tensors = {f"{i}.{name}": torch.as_tensor(t) for i, named in state["state"].items() for name, t in named.items()}
    return tensors, state["param_groups"]


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Load the state that `pack_optimizer` returned into an optimiser.

    Each moment gets the memory layout of its parameter, because the fused AdamW reads both in memory order.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor.detach()
    optimizer.load_state_dict({"state": state, "param_groups": groups})
