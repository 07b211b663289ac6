"""Noised training images: the random draws of a batch, and q(x_t | x_0) at a teacher's or a student's steps.

All random numbers are drawn for the global batch before a process takes its share, so that several processes together see the
same numbers as one process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.network import noised
from models.subsequence import Int64, student_alpha_bar
from training.torch_model import TorchModel


def stratified_timesteps(uniform: Tensor, steps: int) -> Tensor:
    """Return t in 1 ... T, one in each of B equal strata: ceil(((i + u_i)/B) T) (Kingma et al. 2021, app. I.1).

    uniform: u in [0, 1), [B].
    """
    count = len(uniform)
    return ((torch.arange(count) + uniform) / count * steps).long().clamp(max=steps - 1) + 1


def mirrored(x0: Tensor, uniform: Tensor) -> Tensor:
    """Return x0 [B,C,H,W] with the images mirrored whose `uniform` [B] is below one half."""
    return torch.where((uniform < 0.5).to(x0.device)[:, None, None, None], x0.flip(-1), x0)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Images with their random draws. x0, eps [B,C,H,W]; t int64 [B], student steps in 1 ... T'; label int64 [B] or None."""

    x0: Tensor
    eps: Tensor
    t: Tensor
    label: Tensor | None


@dataclass(frozen=True, kw_only=True)
class NoisedBatch:
    """Images noised to random student steps.

    x [B,C,H,W]; t int64 [B] in 1 ... T'; signal, noise [B,1,1,1]; label int64 [B] or None.
    """

    x: Tensor
    t: Tensor
    signal: Tensor
    noise: Tensor
    label: Tensor | None


class Noising:
    """q'(x'_t | x_0) = N(signal x_0, noise^2 I) at the steps that phi keeps (SFDDM, section 3.3)."""

    def __init__(self, teacher: TorchModel, phi: Int64, *, batch: int, flip: bool) -> None:
        kept = student_alpha_bar(teacher.alpha_bar, phi)
        self._signal, self._noise = (torch.from_numpy(f).float() for f in (np.sqrt(kept), np.sqrt(1 - kept)))
        self.steps, self.batch, self.flip = len(phi) - 1, batch, flip
        self.conditional = bool(teacher.network.config.num_class_embeds)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (signal, noise) [B,1,1,1] at student steps t (0 ... T', int64 [B])."""
        signal, noise = (table[t].to(like)[:, None, None, None] for table in (self._signal, self._noise))
        return signal, noise

    def draw(self, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> Draw:
        """Draw steps, noise and mirroring for the global batch, and keep `share` of them for these images."""
        t = stratified_timesteps(torch.rand(self.batch, generator=generator), self.steps)[share]
        eps = torch.randn(self.batch, *x0.shape[1:], generator=generator)[share].to(x0)
        if self.flip:
            x0 = mirrored(x0, torch.rand(self.batch, generator=generator)[share])
        return Draw(x0=x0, eps=eps, t=t, label=label if self.conditional else None)

    def at(self, draw: Draw, t: Tensor) -> NoisedBatch:
        """Return the drawn images with the drawn noise at student steps t, int64 [B] in 1 ... T'."""
        signal, noise = self.levels(t, draw.x0)
        x = noised(draw.x0, eps=draw.eps, signal=signal, noise=noise)
        return NoisedBatch(x=x, t=t, signal=signal, noise=noise, label=draw.label)

    def __call__(self, x0: Tensor, label: Tensor, generator: torch.Generator, share: slice) -> NoisedBatch:
        """Draw steps and noise, and return the images noised to these steps."""
        draw = self.draw(x0, label, generator, share)
        return self.at(draw, draw.t)
