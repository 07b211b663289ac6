"""The teacher's walk: k deterministic sub-steps from x_{phi_t} to x*_{phi_{t-1}}, and the x0* that leads there in one step.

Sub-steps go tau_0 = phi_t > tau_1 > ... > tau_k = phi_{t-1}. With r = signal/noise = sqrt(alpha_bar)/sqrt(1 - alpha_bar),
DDIM and DPM-Solver++(2M) sub-steps are both

    x_next / noise_next = x / noise + (r_next - r) D_i,      D_i = x0_i                                      (DDIM)
                                                             D_i = x0_i + (x0_i - x0_{i-1}) / (2 rho_i)      (2M)

with rho_i = (lambda_i - lambda_{i-1}) / (lambda_{i+1} - lambda_i), lambda = log r (Lu et al. 2022, arXiv 2211.01095,
algorithm 2), first order where a walk starts and where it ends on the image. The student's single DDIM step obeys the same
equation from tau_0 to tau_k. It therefore lands on the walk's last point exactly when the student predicts

    x0* = sum_i w_i D_i,      w_i = (r_{i+1} - r_i) / (r_k - r_0),      and the last D_i alone where phi_{t-1} = 0.

This form never divides by the signal, which is almost zero at the noisy end. The x0_i are clipped to the model's range. D_i and
x0* may lie outside it.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from models.network import predict, x0_from_prediction
from models.schedule import Float64
from models.subsequence import Int64
from training.objective_config import Solver
from training.torch_model import TorchModel


def walk_table(phi: Int64, k: int) -> Int64:
    """Return tau for every student step t = 1 ... T': int64 [T', k + 1] from phi_t down to phi_{t-1}, evenly spaced.

    Where the interval is shorter than k, the walk first stays at phi_t. Those sub-steps have weight 0.
    """
    table = np.empty((len(phi) - 1, k + 1), dtype=np.int64)
    for row, (low, high) in enumerate(itertools.pairwise(phi)):
        steps = min(k, int(high - low))
        table[row, : k - steps] = high
        table[row, k - steps :] = np.rint(np.linspace(high, low, steps + 1))
    return table


def walk_weights(alpha_bar: Float64, tau: Int64) -> Float64:
    """Return w_i ~ r(tau_{i+1}) - r(tau_i), each row summing to one: float64 [T', k].

    Where tau_k = 0, r(tau_k) is infinite: the last weight is 1 and the others are 0.
    """
    with np.errstate(divide="ignore"):
        r = np.sqrt(alpha_bar[tau]) / np.sqrt(1 - alpha_bar[tau])
    weights = np.diff(np.where(np.isinf(r), 0, r), axis=1)
    to_image = tau[:, -1] == 0
    weights[to_image] = 0
    weights[to_image, -1] = 1
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)


def multistep_gain(alpha_bar: Float64, tau: Int64) -> Float64:
    """Return 1 / (2 rho_i) of each 2M sub-step: float64 [T', k]. Zero for first-order moves: the first, and onto the image."""
    gain = np.zeros((len(tau), tau.shape[1] - 1))
    kept = alpha_bar[tau[:, :-1]]
    h = np.diff(0.5 * np.log(kept / (1 - kept)), axis=1)  # [T', k - 1]; the span of the last sub-step is added below
    end = alpha_bar[tau[:, -1]]
    for row in range(len(tau)):
        spans = h[row]
        if end[row] < 1:
            last = 0.5 * np.log(end[row] / (1 - end[row])) - 0.5 * np.log(kept[row, -1] / (1 - kept[row, -1]))
            spans = np.append(spans, last)
        for i in range(1, len(spans)):
            if spans[i - 1] > 0:
                gain[row, i] = spans[i] / (2 * spans[i - 1])
    return gain


class Walk:
    """The walks of a teacher for every student step. A batch may mix student steps."""

    def __init__(self, teacher: TorchModel, phi: Int64, k: int, solver: Solver = "ddim") -> None:
        self.teacher, self.k = teacher, k
        tau = walk_table(phi, k)
        ab = teacher.alpha_bar[tau]
        here, following = ab[:, :-1], ab[:, 1:]
        a = np.sqrt(1 - following) / np.sqrt(1 - here)
        gain = multistep_gain(teacher.alpha_bar, tau) if solver == "dpmpp" else np.zeros_like(a)
        columns = (
            np.sqrt(here),
            np.sqrt(1 - here),
            a,
            np.sqrt(following) - a * np.sqrt(here),
            gain,
            walk_weights(teacher.alpha_bar, tau),
        )
        self._columns = torch.from_numpy(np.stack(columns)).float()  # [6, T', k]
        self._labels = torch.from_numpy(teacher.labels[np.maximum(tau[:, :-1], 1) - 1])

    @property
    def evaluations(self) -> int:
        """Network evaluations of one walk."""
        return self.k * self.teacher.evaluations

    @torch.no_grad()
    def __call__(self, x: Tensor, *, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Walk from x = x_{phi_t} [B,C,H,W] to (x0*, x*_{phi_{t-1}}) for student steps t in 1 ... T', int64 [B]."""
        row, columns, kind = t - 1, self._columns.to(x), self.teacher.prediction_type
        target, previous = torch.zeros_like(x), torch.zeros_like(x)
        for i in range(self.k):
            signal, noise, a, b, gain, weight = columns[:, row, i, None, None, None]
            prediction = predict(self.teacher.network, x, timestep=self._labels[row, i].to(x.device), class_label=label).float()
            x0 = x0_from_prediction(prediction, x=x, signal=signal, noise=noise, kind=kind, clip=self.teacher.clip)
            direction = x0 + gain * (x0 - previous)
            target = target + weight * direction
            x, previous = a * x + b * direction, x0
        return target, x
