"""TOML files as options, and the four ready-made ones: each is loaded and run for two updates on synthetic images."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from typer.testing import CliRunner

from training import checkpoint
from training.cli import app
from training.errors import TrainingError

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
# Levels and attention as in google/ddpm-cifar10-32 and the 256 x 256 teachers, but with eight channels a level instead of 128
# to 512, and 64 pixels a side instead of 256.
LEVELS = {"cifar10": 4, "celeba-hq": 6, "lsun-church": 6, "lsun-bedroom": 6}
SIZE = {"cifar10": 32, "celeba-hq": 64, "lsun-church": 64, "lsun-bedroom": 64}


def invoke(*arguments: str | Path) -> None:
    """Run the command in this process. Its exceptions are raised."""
    CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def make_teacher(folder: Path, size: int, levels: int) -> None:
    """Save a narrow, untrained pipeline in the layout of those on the hub: epsilon, linear schedule, 1000 steps."""
    down, up = ["DownBlock2D"] * levels, ["UpBlock2D"] * levels
    down[-2], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    network = UNet2DModel(
        sample_size=size, layers_per_block=1, block_out_channels=[8] * levels, norm_num_groups=4, attention_head_dim=8,
        down_block_types=down, up_block_types=up,
    )  # fmt: skip
    DDPMPipeline(unet=network, scheduler=DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder)


def make_images(folder: Path, size: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(folder / f"{index}.png")


@pytest.mark.parametrize("name", LEVELS)
def test_ready_made_configurations_run(name: str, tmp_path: Path) -> None:
    """Small stand-ins replace the hub's weights and images, the batch size and the compiler."""
    make_teacher(tmp_path / "teacher", SIZE[name], LEVELS[name])
    make_images(tmp_path / "images", SIZE[name])
    overrides = ("--teacher", tmp_path / "teacher", "--data", tmp_path / "images", "--images", "8", "--batch", "4",
                 "--steps", "2", "--k", "2", "--workers", "0", "--no-compile")  # fmt: skip
    invoke("distill", "--config", CONFIGS / f"{name}.toml", "--out", tmp_path / "run", *overrides)
    _, facts = checkpoint.load_run(tmp_path / "run" / "checkpoint.safetensors")
    wanted = tomllib.loads((CONFIGS / f"{name}.toml").read_text())
    settings = facts.settings
    assert facts.progress.step == 2
    assert (settings["solver"], settings["flip"], facts.loop.lr) == (wanted["solver"], wanted["flip"], wanted["lr"])
    assert facts.loop.precision == wanted["precision"] == "bf16"
    assert facts.loop.accumulate == wanted.get("accumulate", 1)
    assert facts.model.shape == (3, SIZE[name], SIZE[name])
    assert np.isfinite(facts.progress.losses[-1][1])


def test_there_is_one_for_each_of_the_papers_data_sets() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == set(LEVELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 16", r"'stepz' is no option of `distill`; did you mean 'steps'\?"),
        ("qqqqqq = 16", "is no option of `distill`; it takes accumulate, batch"),
        ("[loop]\nbatch = 2", "'loop' is no option"),
        ("phi = [0, 4]", "'phi' must be one value, as on the command line"),
        ("steps = ", "cannot read the configuration"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(TrainingError, match=message):
        invoke("distill", "--config", tmp_path / "c.toml", "--out", tmp_path / "run")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot read the configuration"):
        invoke("distill", "--config", tmp_path / "nowhere.toml", "--out", tmp_path / "run")


def test_typer_is_told_the_value_of_a_wrong_type(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('batch = "many"')
    result = CliRunner().invoke(app, ["teacher", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "--batch" in result.output
