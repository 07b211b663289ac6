"""Exponential moving average of weights with a power-function profile (Karras et al. 2024, arXiv 2312.02696, sec. 3.1).

beta_n = (1 - 1/n)^(gamma + 1) averages over a fixed *fraction* of training, its relative width sigma_rel. It needs no tuning
to the length of a run, and the weight of the untrained start vanishes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def gamma_of(sigma_rel: float) -> float:
    """Return gamma with sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2) (eq. 126)."""
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


class PowerEMA:
    """The averaged copy of a network's parameters, in float32 on the network's device."""

    def __init__(self, network: nn.Module, sigma_rel: float) -> None:
        self.exponent = gamma_of(sigma_rel) + 1
        self.average = {name: p.detach().clone().float() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the network's parameters to the average, after optimiser step `step` (counted from 1)."""
        live = dict(network.named_parameters())
        weight = 1 - (1 - 1 / step) ** self.exponent
        # One call for all tensors saves a GPU one kernel launch a tensor. The name is private, because torch has no public one;
        # its own averaged models (torch.optim.swa_utils) call it, too.
        torch._foreach_lerp_(list(self.average.values()), [live[name].float() for name in self.average], weight)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Load the average into `network`."""
        for name, parameter in network.named_parameters():
            parameter.copy_(self.average[name])

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Load the average into `network` within the block. Afterwards it holds its own weights again."""
        live = [p.detach().clone() for p in network.parameters()]
        self.copy_to(network)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(network.parameters(), live, strict=True):
                    parameter.copy_(value)
