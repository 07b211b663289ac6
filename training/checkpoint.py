"""Complete checkpoints in one safetensors file, written atomically.

Tensors are named `<part>/<name>` (model/, ema/, optimizer/, random/). The header's metadata carries the JSON of everything
else: training.run_facts.RunFacts. A checkpoint is written by models.files.write_atomically, so a killed process or a full disk
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

CHECKPOINT = "checkpoint.safetensors"  # its name in a run folder
SNAPSHOTS = "snapshots"  # the sub-folder of a run with its averaged weights, ema-IMAGES.safetensors

Parts = dict[str, dict[str, Tensor]]


def save(path: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write `parts` (part -> name -> tensor) and JSON-able `facts` to `path` of a run, atomically.

    Drafts of `path` that a killed process left are removed, because one process writes a run.
    Raises CheckpointError when the disk refuses.
    """
    try:
        remove_drafts(path)
        write(path, parts, facts)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}; free some space or choose another folder, then go on with --resume"
        ) from error


def write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write what `save` does, also while other processes write the same path. Raises OSError or SafetensorError."""
    tensors = {f"{part}/{name}": t.detach().cpu().contiguous() for part, named in parts.items() for name, t in named.items()}
    with write_atomically(path) as draft:
        save_file(tensors, draft, metadata={"facts": json.dumps(facts)})


def load(path: Path) -> tuple[Parts, dict[str, Any]]:
    """Read (parts, facts) back. Raises CheckpointError when the file is missing, damaged or not ours."""
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
    """Write a checkpoint or snapshot of a run, atomically. Raises CheckpointError when the disk refuses."""
    save(path, parts, facts.model_dump(mode="json"))


def load_run(path: Path) -> tuple[Parts, RunFacts]:
    """Read a checkpoint or snapshot of a run, of this version or an older one.

    A snapshot that holds weights alone takes its facts from the checkpoint of its run.
    Raises CheckpointError when the file is missing, damaged or not that of a run.
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
    """Return an optimiser's state as (named tensors, JSON-able parameter groups)."""
    state = optimizer.state_dict()
    tensors = {f"{i}.{name}": torch.as_tensor(t) for i, named in state["state"].items() for name, t in named.items()}
    return tensors, state["param_groups"]


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Restore what `pack_optimizer` saved.

    Each moment takes the memory layout of its parameter, because the fused AdamW walks both in memory order.
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
