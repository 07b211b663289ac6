"""Complete checkpoints in one safetensors file, written atomically.

Tensors are named `<part>/<name>` (model/, ema/, optimizer/, random/); the header's metadata carries the JSON of
everything else (step, configuration). A checkpoint is written by models.files.write_atomically, so a killed process or a full
disk leaves the previous one intact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.files import remove_drafts, write_atomically
from training.errors import CheckpointError


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


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read (parts, facts) back. Raises CheckpointError when the file is missing, damaged or not ours."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; check the path, or start anew without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            parts: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
        return parts, json.loads(metadata["facts"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or is no checkpoint of ours: {error}") from error


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimiser's state as (named tensors, JSON-able parameter groups)."""
    state = optimizer.state_dict()
    tensors = {f"{i}.{name}": torch.as_tensor(t) for i, named in state["state"].items() for name, t in named.items()}
    return tensors, state["param_groups"]


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Restore what `pack_optimizer` saved.

    Moments get the memory layout of their parameter: the fused AdamW walks both in memory order.
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
