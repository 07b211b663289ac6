"""Training of a teacher: an ordinary T-step diffusion model (Ho et al. 2020), class-conditional when the data have labels."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from models.network import build_unet, noised, predict, training_target, unet_config
from models.plan import ddim
from models.schedule import Float64, alpha_bar_table
from models.subsequence import uniform_phi
from training.accelerator import make_accelerator
from training.config import TeacherConfig
from training.data import open_source
from training.errors import TrainingError
from training.loop import fit
from training.loss import Loss
from training.noising import mirrored, stratified_timesteps
from training.pictures import sample_writer
from training.run_facts import ModelFacts, RunFacts, RunProvenance
from training.torch_model import load_model

_SAMPLE_STEPS = 32  # DDIM steps of a sample grid: enough to see progress at a fraction of the time of all T


def teacher_loss(config: TeacherConfig, alpha_bar: Float64, null_label: int | None) -> Loss:
    """Return the loss E || target - network(x_t, t - 1) ||^2 with t uniform (Ho et al. 2020, eq. 14; target eps or v)."""
    signal_table = torch.from_numpy(np.sqrt(alpha_bar)).float()
    noise_table = torch.from_numpy(np.sqrt(1 - alpha_bar)).float()

    def loss_of(network: nn.Module, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        batch = config.loop.batch
        t = stratified_timesteps(torch.rand(batch, generator=generator), config.steps)[share]
        eps = torch.randn(batch, *x0.shape[1:], generator=generator)[share].to(x0)
        dropped = (torch.rand(batch, generator=generator) < config.label_dropout)[share].to(x0.device)
        if config.flip:
            x0 = mirrored(x0, torch.rand(batch, generator=generator)[share])
        signal, noise = (table[t].to(x0)[:, None, None, None] for table in (signal_table, noise_table))
        given = None if null_label is None else torch.where(dropped, null_label, label)
        x = noised(x0, eps=eps, signal=signal, noise=noise)
        prediction = predict(network, x, timestep=(t - 1).to(x0.device), class_label=given).float()
        target = training_target(x0, eps=eps, signal=signal, noise=noise, kind=config.prediction_type)
        return torch.nn.functional.mse_loss(prediction, target)

    return loss_of


def train_teacher(config: TeacherConfig, run: Path, *, resume: bool = False) -> None:
    """Train a teacher into the folder `run`: checkpoint, snapshots, sample grids, loss curve, TensorBoard.

    Raises TrainingError when the data or the weights to start from do not fit, ValueError when the image size
    cannot be halved often enough.
    """
    source = open_source(config.data, image_size=config.image_size, channels=config.channels)
    classes = len(source.classes)
    accelerator = make_accelerator(config.loop.precision)
    torch.manual_seed(config.loop.seed)
    network = build_unet(config.unet.unet_config(source.shape, classes))
    if config.init is not None:
        start_from(network, config.init)
    alpha_bar = alpha_bar_table(config.schedule, config.steps)
    model = ModelFacts(
        kind="teacher",
        unet=unet_config(network),
        alpha_bar=alpha_bar.tolist(),
        phi=list(range(config.steps + 1)),
        labels=list(range(config.steps)),
        shape=source.shape,
        prediction_type=config.prediction_type,
        classes=source.classes,
        null_label=classes or None,
    )
    provenance = RunProvenance(data=source.name, objective="diffusion", settings=config.settings())
    plan = ddim(alpha_bar, uniform_phi(config.steps, min(_SAMPLE_STEPS, config.steps)))
    fit(
        network,
        teacher_loss(config, alpha_bar, classes or None),
        source,
        RunFacts(model=model, provenance=provenance, loop=config.loop),
        run,
        resume=resume,
        accelerator=accelerator,
        sample=sample_writer(plan, config.prediction_type, shape=source.shape, classes=classes),
    )


def start_from(network: UNet2DModel, spec: str) -> None:
    """Copy the weights of the model at `spec` (see load_model) into `network`. Raises TrainingError when they do not fit."""
    try:
        network.load_state_dict(load_model(spec).network.state_dict())
    except RuntimeError as error:
        reason = textwrap.shorten(str(error).partition("\n")[2], 120, placeholder=" …")
        raise TrainingError(
            f"the weights of {spec} do not fit this network ({reason}); give its --widths, --layers, ..."
        ) from error
