from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.errors import CheckpointError


def test_round_trip_keeps_tensors_and_facts(tmp_path: Path) -> None:
    parts = {"model": {"a.b": torch.arange(6.0).reshape(2, 3)}, "random": {"torch": torch.get_rng_state()}}
    checkpoint.save(tmp_path / "new" / "c.safetensors", parts, {"step": 3, "phi": [0, 4, 9]})
    loaded, facts = checkpoint.load(tmp_path / "new" / "c.safetensors")
    assert facts == {"step": 3, "phi": [0, 4, 9]}
    assert torch.equal(loaded["model"]["a.b"], parts["model"]["a.b"])
    assert torch.equal(loaded["random"]["torch"], parts["random"]["torch"])


def test_optimizer_state_survives(tmp_path: Path) -> None:
    def run(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, steps: int) -> None:
        for _ in range(steps):
            weight.grad = weight.detach() * 0.3
            optimizer.step()

    first = torch.nn.Parameter(torch.ones(4))
    one = torch.optim.AdamW([first], lr=0.1)
    run(one, first, 3)
    second = torch.nn.Parameter(first.detach().clone())
    two = torch.optim.AdamW([second], lr=0.5)
    tensors, groups = checkpoint.pack_optimizer(one)
    checkpoint.save(tmp_path / "c.safetensors", {"optimizer": tensors}, {"groups": groups})
    parts, facts = checkpoint.load(tmp_path / "c.safetensors")
    checkpoint.unpack_optimizer(two, parts["optimizer"], facts["groups"])
    run(one, first, 2)
    run(two, second, 2)
    assert torch.equal(first, second)


def test_a_failed_write_leaves_the_previous_checkpoint_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"model": {"a": torch.ones(2)}}, {"step": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*free some space"):
        checkpoint.save(path, {"model": {"a": torch.zeros(2)}}, {"step": 2})
    assert checkpoint.load(path)[1]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("damage", ["truncate", "garbage", "foreign"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"model": {"a": torch.ones(100)}}, {"step": 1})
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "garbage":
        path.write_bytes(b"not a checkpoint")
    else:
        from safetensors.torch import save_file

        save_file({"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="is damaged or is no checkpoint of ours"):
        checkpoint.load(path)


def test_missing_file() -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        checkpoint.load(Path("nowhere.safetensors"))
