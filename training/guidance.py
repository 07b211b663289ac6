"""Guided teachers: the prediction of a network, extrapolated away from the prediction of a weaker one.

    eps_g = eps_weak + w (eps - eps_weak)

- classifier-free (Ho & Salimans 2022, arXiv 2207.12598): the weak network is the same one without its label;
- autoguidance (Karras et al. 2024, arXiv 2406.02507): a less trained network for the same labels, such as an early snapshot.

w = 1 is no guidance. At a given x, v and x0 are affine in eps, and the weights w and 1 - w add up to one. The formula therefore
holds for v too. A guided teacher is a TorchModel like any other: it can be sampled and distilled. Each of its evaluations
counts as two.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from models.network import predict
from training.errors import TrainingError
from training.torch_model import TorchModel, load_model


class GuidedNetwork(nn.Module):
    """A network and a weaker one, called like one UNet2DModel. weak None: the same network with the null label."""

    def __init__(self, network: UNet2DModel, weak: UNet2DModel | None, null_label: int | None, scale: float) -> None:
        super().__init__()
        self.network, self.weak, self.null_label, self.scale = network, weak, null_label, scale

    @property
    def config(self) -> Any:
        """The configuration of the stronger network."""
        return self.network.config

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        """Return (eps_weak + w (eps - eps_weak),) for sample [B,C,H,W]."""
        assert not return_dict
        strong = predict(self.network, sample, timestep=timestep, class_label=class_labels)
        if self.weak is not None:
            weak = predict(self.weak, sample, timestep=timestep, class_label=class_labels)
        else:
            assert class_labels is not None
            assert self.null_label is not None
            weak = predict(self.network, sample, timestep=timestep, class_label=torch.full_like(class_labels, self.null_label))
        return (torch.lerp(weak, strong, self.scale),)


def guided_model(model: TorchModel, scale: float, weak: TorchModel | None = None) -> TorchModel:
    """Return `model` guided with scale w away from `weak`. weak None: classifier-free, away from the null label.

    Raises TrainingError when the scale is not finite, when `weak` belongs to another diffusion than `model`, or when
    classifier-free guidance finds no null label.
    """
    if not math.isfinite(scale):
        raise TrainingError(f"the guidance scale is {scale}; it must be a finite number: 1 is no guidance, 1.5 to 3 is usual")
    if weak is None:
        if model.null_label is None:
            raise TrainingError(
                "classifier-free guidance needs a teacher trained with a null label; give a weaker network with --guide instead"
            )
        network, how = GuidedNetwork(model.network, None, model.null_label, scale), f"classifier-free, scale {scale:g}"
    else:
        same = (
            weak.prediction_type == model.prediction_type
            and weak.shape == model.shape
            and np.array_equal(weak.alpha_bar, model.alpha_bar)
            and np.array_equal(weak.labels, model.labels)
            and weak.network.config.num_class_embeds == model.network.config.num_class_embeds
        )
        if not same:
            raise TrainingError(
                "the guiding network must be a weaker teacher of the same kind: images, classes, steps, schedule, prediction"
            )
        images = weak.provenance.images or "an unknown number of"
        network = GuidedNetwork(model.network, weak.network, None, scale)
        how = f"autoguidance, scale {scale:g}, weak network of {images} images"
    # The walk and the samplers call a network only through models.network.predict, which accepts this one too.
    return replace(model, network=cast(UNet2DModel, network.eval()), evaluations=2, guidance=how)


def unguided(model: TorchModel) -> UNet2DModel:
    """Return the model's own network, without its guidance."""
    network = model.network
    return network.network if isinstance(network, GuidedNetwork) else network


def load_guided(spec: str, *, scale: float | None, guide: str | None) -> TorchModel:
    """Load the model at `spec`. Guide it if `scale` is given: away from the network at `guide`, else classifier-free.

    Raises TrainingError when `guide` is given without `scale`, and the errors of guided_model and load_model.
    """
    model = load_model(spec)
    if scale is None:
        if guide is not None:
            raise TrainingError("--guide needs --guidance, the scale w; 1 is no guidance, 1.5 to 3 is usual")
        return model
    return guided_model(model, scale, None if guide is None else load_model(guide))
