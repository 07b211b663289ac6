"""Training a teacher: an ordinary T-step diffusion model (Ho et al. 2020), class-conditional when the data has labels."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from models.network import PredictionType, build_unet, noised, predict, training_target, unet_config
from models.pictures import to_uint8
from models.plan import Plan, ddim
from models.runtime.denoise import denoise, starting_noise
from models.schedule import Float64, ScheduleName, alpha_bar_table
from models.subsequence import Int64, uniform_phi
from training.data import open_source
from training.errors import TrainingError
from training.loop import LoopConfig, Loss, fit, make_accelerator
from training.sampling import TorchNetwork, save_sheet


class UNetShape(BaseModel):
    """The size of a UNet2DModel: one entry of `channels` per resolution, halved from one to the next."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[PositiveInt, ...] = (32, 64, 96)
    layers: int = Field(default=2, gt=0)
    attention: tuple[bool, ...] = (False, False, True)
    head_dim: int = Field(default=32, gt=0)
    groups: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> UNetShape:
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries and channels {len(self.channels)}; give one for each"
            )
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"the width {width} is not a multiple of groups {self.groups}; change one of them")
        # The middle of the network, at the last resolution, always attends.
        for width, attends in zip(self.channels, (*self.attention[:-1], True), strict=True):
            if attends and width % self.head_dim:
                raise ValueError(f"the width {width} is not a multiple of head_dim {self.head_dim}; change one of them")
        return self

    def unet_config(self, shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
        """UNet2DModel's configuration for images of `shape` (C, H, W); `classes` > 0 adds them and the null label."""
        bands, height, width = shape
        factor = 2 ** (len(self.channels) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"image size {height}x{width} is not a multiple of {factor}, which {len(self.channels)} levels need"
            )
        return {
            "sample_size": height,
            "in_channels": bands,
            "out_channels": bands,
            "block_out_channels": list(self.channels),
            "layers_per_block": self.layers,
            "down_block_types": ["AttnDownBlock2D" if on else "DownBlock2D" for on in self.attention],
            "up_block_types": ["AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(self.attention)],
            "attention_head_dim": self.head_dim,
            "norm_num_groups": self.groups,
            "dropout": self.dropout,
            "num_class_embeds": classes + 1 if classes else None,
        }


class TeacherConfig(BaseModel):
    """Everything that decides a teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "fashion-mnist"
    image_size: int | None = Field(default=None, gt=0)
    channels: int | None = Field(default=None)
    flip: bool = False
    steps: int = Field(default=1024, gt=1)
    schedule: ScheduleName = "cosine"
    prediction_type: PredictionType = "v_prediction"
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    init: str | None = Field(default=None, description="start from the weights of this model, of the same shape")
    unet: UNetShape = UNetShape()
    loop: LoopConfig = LoopConfig(images=1_000_000)


def stratified_timesteps(uniform: Tensor, steps: int) -> Tensor:
    """t = 1 ... T, one in each of B equal strata: ceil(((i + u_i)/B) T) (Kingma et al. 2021, app. I.1). uniform: [B]."""
    count = len(uniform)
    return ((torch.arange(count) + uniform) / count * steps).long().clamp(max=steps - 1) + 1


def mirrored(x0: Tensor, uniform: Tensor, flip: bool) -> Tensor:
    """x0 [B,C,H,W] with the images whose `uniform` [B] is below one half mirrored, when `flip` asks for it."""
    return torch.where((uniform < 0.5).to(x0.device)[:, None, None, None], x0.flip(-1), x0) if flip else x0


def teacher_loss(config: TeacherConfig, alpha_bar: Float64, null_label: int | None) -> Loss:
    """E || target - network(x_t, t - 1) ||^2 with t uniform (Ho et al. 2020, eq. 14; target eps or v)."""
    signal_table = torch.from_numpy(np.sqrt(alpha_bar)).float()
    noise_table = torch.from_numpy(np.sqrt(1 - alpha_bar)).float()

    def loss_of(network: nn.Module, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        batch = config.loop.batch
        t = stratified_timesteps(torch.rand(batch, generator=generator), config.steps)[share]
        eps = torch.randn(batch, *x0.shape[1:], generator=generator)[share].to(x0)
        dropped = (torch.rand(batch, generator=generator) < config.label_dropout)[share].to(x0.device)
        x0 = mirrored(x0, torch.rand(batch, generator=generator)[share], config.flip)
        signal, noise = (table[t].to(x0)[:, None, None, None] for table in (signal_table, noise_table))
        given = None if null_label is None else torch.where(dropped, null_label, label)
        prediction = predict(network, noised(x0, eps=eps, signal=signal, noise=noise), (t - 1).to(x0.device), given).float()
        target = training_target(x0, eps=eps, signal=signal, noise=noise, kind=config.prediction_type)
        return torch.nn.functional.mse_loss(prediction, target)

    return loss_of


def train_teacher(config: TeacherConfig, run: Path, *, resume: bool = False) -> None:
    """Train a teacher into the folder `run`: checkpoint, snapshots, sample grids, loss curve, TensorBoard."""
    source = open_source(config.data, image_size=config.image_size, channels=config.channels)
    classes = len(source.classes)
    accelerator = make_accelerator(config.loop.precision)
    torch.manual_seed(config.loop.seed)
    network = build_unet(config.unet.unet_config(source.shape, classes))
    if config.init is not None:
        start_from(network, config.init)
    alpha_bar = alpha_bar_table(config.schedule, config.steps)
    facts = model_facts(
        network,
        kind="teacher",
        alpha_bar=alpha_bar,
        phi=np.arange(config.steps + 1),
        labels=np.arange(config.steps),
        shape=source.shape,
        prediction_type=config.prediction_type,
        classes=source.classes,
        null_label=classes or None,
        provenance={"data": source.name, "objective": "diffusion", "settings": config.model_dump(exclude={"loop"})},
    )
    plan = ddim(alpha_bar, uniform_phi(config.steps, min(32, config.steps)))
    fit(
        network,
        teacher_loss(config, alpha_bar, classes or None),
        source,
        config.loop,
        run,
        facts=facts,
        resume=resume,
        accelerator=accelerator,
        sample=sample_writer(plan, config.prediction_type, source.shape, classes),
    )


def start_from(network: UNet2DModel, spec: str) -> None:
    """Load the weights of the model at `spec`, as load_model takes it. Raises TrainingError when they do not fit."""
    from training.torch_model import load_model

    try:
        network.load_state_dict(load_model(spec).network.state_dict())
    except RuntimeError as error:
        reason = textwrap.shorten(str(error).partition("\n")[2], 120, placeholder=" …")
        raise TrainingError(
            f"the weights of {spec} do not fit this network ({reason}); give its --widths, --layers, ..."
        ) from error


def model_facts(
    network: UNet2DModel,
    *,
    kind: str,
    alpha_bar: Float64,
    phi: Int64,
    labels: Int64,
    shape: tuple[int, int, int],
    prediction_type: PredictionType,
    classes: tuple[str, ...],
    null_label: int | None,
    provenance: dict[str, Any],
    clip: tuple[float, float] | None = (-1.0, 1.0),
) -> dict[str, Any]:
    """What a checkpoint says of its model: JSON-able, and all that training.torch_model needs to load it again."""
    return {
        "kind": kind,
        "unet": unet_config(network),
        "alpha_bar": alpha_bar.tolist(),
        "phi": phi.tolist(),
        "labels": labels.tolist(),
        "shape": list(shape),
        "prediction_type": prediction_type,
        "classes": list(classes),
        "null_label": null_label,
        "clip": clip,
        "provenance": provenance,
    }


def sample_writer(
    plan: Plan,
    prediction_type: PredictionType,
    shape: tuple[int, int, int],
    classes: int,
    clip: tuple[float, float] | None = (-1.0, 1.0),
) -> Callable[[nn.Module, Path], None]:
    """sample(network, path): a grid of two images of each class (or 20), always from the same noise."""
    keys = [(0, index) for index in range(2 * min(classes, 10) or 20)]
    noise = starting_noise(keys, shape)
    label = np.arange(len(keys), dtype=np.int64) % classes if classes else None

    def sample(network: nn.Module, path: Path) -> None:
        network.eval()
        images = denoise(TorchNetwork(network, prediction_type, clip), plan, noise, keys=keys, class_label=label)
        network.train()
        save_sheet(to_uint8(images), path, columns=10)

    return sample
