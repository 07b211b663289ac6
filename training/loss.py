"""The interface between the training loop and what it minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# loss(network, x0 float [B,C,H,W] in [-1,1], class int64 [B], generator, share) -> scalar. It draws for the global batch from
# `generator` and keeps `share` of what it drew.
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator, slice], Tensor]
