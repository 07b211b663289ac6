from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from models.schedule import alpha_bar_table
from tests.training.conftest import tiny_loop, tiny_teacher_config
from training import checkpoint
from training.config import LoopConfig
from training.errors import CheckpointError, TrainingError
from training.loop import step_generator
from training.noising import stratified_timesteps
from training.teacher import teacher_loss, train_teacher
from training.torch_model import load_model
from training.unet import UNetShape


def _losses(run: Path) -> list[tuple[int, float]]:
    return checkpoint.load_run(run / "checkpoint.safetensors")[1].progress.losses


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_resumed_run_equals_an_uninterrupted_one(idx_folder: Path, tmp_path: Path, precision: str) -> None:
    """Both runs have the same losses and the same weights, bit for bit."""
    whole = tiny_teacher_config(idx_folder, 1, loop=tiny_loop(640, precision=precision))
    half = tiny_teacher_config(idx_folder, 1, loop=tiny_loop(320, precision=precision))
    train_teacher(whole, tmp_path / "whole")
    train_teacher(half, tmp_path / "parts")
    train_teacher(whole, tmp_path / "parts", resume=True)
    assert _losses(tmp_path / "parts") == _losses(tmp_path / "whole")
    one, two = (checkpoint.load(tmp_path / run / "checkpoint.safetensors")[0] for run in ("whole", "parts"))
    for part in ("model", "ema", "optimizer"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])


def test_wall_time_adds_up_over_stops(idx_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.safetensors"

    def train_to(images: int) -> None:
        train_teacher(tiny_teacher_config(idx_folder, images), tmp_path / "run", resume=path.exists())

    def rewrite(seconds: float | None) -> None:
        parts, facts = checkpoint.load(path)
        checkpoint.save(path, parts, {**facts, "progress": {**facts["progress"], "seconds": seconds}})

    train_to(64)
    assert load_model(str(tmp_path / "run")).provenance.seconds > 0
    rewrite(5000.0)
    train_to(128)
    assert 5000 < load_model(str(tmp_path / "run")).provenance.seconds < 6000
    rewrite(None)  # an older checkpoint does not record the time: it stays unknown
    train_to(192)
    assert load_model(str(tmp_path / "run")).provenance.seconds is None


# fp16 needs scaled losses, which accelerate supports on GPUs only. It is tested where there is a GPU.
@pytest.mark.parametrize("precision", ["bf16", *(["fp16"] if torch.cuda.is_available() else [])])
def test_sixteen_bits_learn_what_thirty_two_do(idx_folder: Path, tmp_path: Path, precision: str) -> None:
    """The losses agree within a few per cent. Weights, their average and the moments stay in float32."""
    for name in ("no", precision):
        train_teacher(tiny_teacher_config(idx_folder, 1, loop=tiny_loop(960, precision=name, accumulate=2)), tmp_path / name)
    exact, rough = ([loss for _, loss in _losses(tmp_path / name)] for name in ("no", precision))
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.1)
    parts, _ = checkpoint.load(tmp_path / precision / "checkpoint.safetensors")
    assert {tensor.dtype for part in ("model", "ema", "optimizer") for tensor in parts[part].values()} == {torch.float32}


def test_training_learns_and_leaves_its_pictures(teacher_run: Path) -> None:
    losses = [loss for _, loss in _losses(teacher_run)]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert json.loads((teacher_run / "loss.json").read_text())[-1][0] == 6400
    for picture in ("loss.png", "samples/000006400.png"):
        with Image.open(teacher_run / picture) as image:
            image.load()
    assert list((teacher_run / "tensorboard").glob("events*"))


def test_snapshots_of_the_average(idx_folder: Path, tmp_path: Path) -> None:
    config = tiny_teacher_config(idx_folder, 1, loop=tiny_loop(320, snapshot_images=160))
    train_teacher(config, tmp_path)
    names = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert names == ["ema-000000160.safetensors", "ema-000000320.safetensors"]
    parts, facts = checkpoint.load_run(tmp_path / "snapshots" / names[0])
    assert facts.model.kind == "teacher"
    assert all(tensor.dtype == torch.float16 for tensor in parts["ema"].values())


def test_resume_refuses_another_configuration_and_names_it(idx_folder: Path, tmp_path: Path) -> None:
    train_teacher(tiny_teacher_config(idx_folder, 64), tmp_path)
    with pytest.raises(CheckpointError, match=r"another configuration: lr: 0.002, now 0.5;"):
        train_teacher(tiny_teacher_config(idx_folder, 1, loop=tiny_loop(128, lr=0.5)), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"another configuration: schedule: cosine, now linear;"):
        train_teacher(tiny_teacher_config(idx_folder, 128, schedule="linear"), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="pass --resume"):
        train_teacher(tiny_teacher_config(idx_folder, 128), tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        train_teacher(tiny_teacher_config(idx_folder, 128), tmp_path / "mistyped", resume=True)


def test_a_diverged_run_stops_with_a_sentence(idx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no longer finite by step .* lower --lr"):
        train_teacher(tiny_teacher_config(idx_folder, 1, loop=tiny_loop(3200, lr=1e12, grad_clip=1e30)), tmp_path)


def test_weights_that_are_not_finite_are_not_kept(idx_folder: Path, tmp_path: Path) -> None:
    """Weights are checked before a checkpoint is written, also between two entries of the loss curve."""
    loop = tiny_loop(3200, lr=1e30, grad_clip=1e30, checkpoint_images=16)
    with pytest.raises(TrainingError, match="no longer finite"):
        train_teacher(tiny_teacher_config(idx_folder, 1, loop=loop), tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        for tensors in checkpoint.load(path)[0].values():
            assert all(bool(tensor.isfinite().all()) for tensor in tensors.values()), path


def test_timesteps_cover_every_stratum() -> None:
    t = stratified_timesteps(torch.rand(64, generator=step_generator(0, 0)), 1024)
    assert t.min() >= 1
    assert t.max() <= 1024
    assert torch.equal((t - 1) // 16, torch.arange(64))
    assert stratified_timesteps(torch.tensor([1.0 - 1e-7]), 1024).tolist() == [1024]


def test_loss_is_zero_for_the_true_target(idx_folder: Path) -> None:
    """A network that predicts v = signal eps - noise x0 from the true x0 and eps has no loss."""
    config = tiny_teacher_config(idx_folder, 16)
    alpha_bar = alpha_bar_table("cosine", 64)
    x0 = torch.rand(16, 1, 8, 8) * 2 - 1

    class Oracle(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
            level = torch.from_numpy(alpha_bar)[t + 1].float()[:, None, None, None]
            eps = (x - level.sqrt() * x0) / (1 - level).sqrt()
            return (level.sqrt() * eps - (1 - level).sqrt() * x0,)

    labels = torch.zeros(16, dtype=torch.int64)
    loss = teacher_loss(config, alpha_bar, 3)(Oracle(), x0, labels, step_generator(0, 0), slice(None))
    assert float(loss) < 1e-9


def test_shares_of_a_batch_add_up(idx_folder: Path) -> None:
    """Two processes with half of the batch each have, together, the draws of one process with all of it."""
    config = tiny_teacher_config(idx_folder, 16)
    loss_of = teacher_loss(config, alpha_bar_table("cosine", 64), 3)
    x0, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 3

    class Zero(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
            return (torch.zeros_like(x),)

    whole = loss_of(Zero(), x0, labels, step_generator(0, 5), slice(None))
    parts = [loss_of(Zero(), x0[s], labels[s], step_generator(0, 5), s) for s in (slice(0, 8), slice(8, 16))]
    assert float(sum(parts) / 2) == pytest.approx(float(whole), rel=1e-6)


def test_learning_rate_warms_up_and_decays() -> None:
    loop = LoopConfig(images=1, lr=1.0, warmup_images=100, lr_decay_images=400)
    assert [loop.learning_rate(n) for n in (50, 100, 400, 1600)] == pytest.approx([0.5, 1, 1, 0.5])


def test_annealed_rate_ends_near_zero_and_fixes_the_length(idx_folder: Path, tmp_path: Path) -> None:
    loop = tiny_loop(160, anneal=True, warmup_images=0, lr=1.0)
    rates = [loop.learning_rate(16 * step) for step in range(1, 11)]
    assert np.allclose(np.diff(rates), -1 / 11)
    assert 0 < rates[-1] < 0.1
    train_teacher(tiny_teacher_config(idx_folder, 1, loop=tiny_loop(32, anneal=True)), tmp_path)
    with pytest.raises(CheckpointError, match=r"another configuration: images: 32, now 64;"):
        train_teacher(tiny_teacher_config(idx_folder, 1, loop=tiny_loop(64, anneal=True)), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"channels": (8, 16), "attention": (True,)}, "attention has 1 entries and channels 2; give one for each"),
        ({"channels": (8, -16), "attention": (False, True)}, "greater than 0"),
        ({"channels": (6,), "attention": (False,), "groups": 4, "head_dim": 3}, "not a multiple of groups"),
        ({"channels": (8,), "attention": (False,), "groups": 4, "head_dim": 3}, "not a multiple of head_dim"),
    ],
)
def test_impossible_shapes(shape: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        UNetShape.model_validate(shape)


def test_image_size_must_halve(idx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a multiple of 2"):
        train_teacher(tiny_teacher_config(idx_folder, 16, image_size=9), tmp_path)
