"""Sampling plans: every sampler is one linear update per step.

    x_next = a x + b x0 + c x0_prev + s z

x0 is the clean image predicted at this step (clipped to the model's range), x0_prev the one predicted at the step before
(zero at the start), and z fresh unit noise. A plan is the table of its steps from pure noise to the image. The engine
takes steps and does not know which sampler made them.

Notation: alpha_bar_t = cumulative signal level; signal = sqrt(alpha_bar), noise = sqrt(1 - alpha_bar); "next" is the
step's destination, t-1 on the sub-sequence; lambda = log(signal / noise).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.schedule import Float64
from models.subsequence import Int64, labels, student_alpha_bar, uniform_phi

COEFFICIENTS = ("signal", "noise", "a", "b", "c")  # columns of the step graph's `coefficients` input, in order


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a sampler, from noise to image.

    label         int64 [N]    network label of each step (timestep input)
    coefficients  float64 [N, 5]  signal, noise, a, b, c of each step; the step graph's input
    s             float64 [N]  scale of the fresh noise, added outside the graph; all zero for deterministic samplers
    """

    label: Int64
    coefficients: Float64
    s: Float64

    def __len__(self) -> int:
        return len(self.label)

    @property
    def deterministic(self) -> bool:
        """True when no step adds fresh noise."""
        return not self.s.any()


def _levels(alpha_bar: Float64, phi: Int64) -> tuple[Float64, Float64]:
    """Return (alpha_bar at each step's start, at its destination), noisy end first: float64 [T'] each."""
    kept = student_alpha_bar(alpha_bar, phi)[::-1]
    return kept[:-1], kept[1:]


def _plan(phi: Int64, *, here: Float64, a: Float64, b: Float64, c: Float64, s: Float64) -> Plan:
    """Return the plan on phi from alpha_bar at each step's start, coefficients a, b, c and scales s: float64 [T'] each."""
    table = np.stack([np.sqrt(here), np.sqrt(1 - here), a, b, c], axis=1)
    return Plan(labels(phi)[::-1].copy(), table, s)


def relabel(plan: Plan, label_of_step: Int64) -> Plan:
    """Return the same plan with other network labels. label_of_step [N] is for steps t = 1 ... N, clean end first.

    Raises ValueError unless there is one label for each step.
    """
    if np.shape(label_of_step) != (len(plan),):
        raise ValueError(f"a plan of {len(plan)} rows needs as many labels, got {np.size(label_of_step)}")
    return Plan(np.asarray(label_of_step, dtype=np.int64)[::-1].copy(), plan.coefficients, plan.s)


def _posterior(alpha_bar: Float64, phi: Int64, eta: float) -> Plan:
    """Plan eq. 12 of DDIM (Song et al. 2021): x_next = signal' x0 + sqrt(1 - alpha_bar' - sigma^2) eps + sigma z.

    sigma = eta sqrt((1 - alpha_bar')/(1 - alpha_bar)) sqrt(1 - alpha_bar/alpha_bar'), and eps re-derived from the
    (clipped) x0 as (x - signal x0)/noise, which gives a = sqrt(1 - alpha_bar' - sigma^2)/noise and b = signal' - a signal.
    """
    here, following = _levels(alpha_bar, phi)
    sigma = eta * np.sqrt((1 - following) / (1 - here)) * np.sqrt(1 - here / following)
    a = np.sqrt(np.maximum(1 - following - sigma**2, 0)) / np.sqrt(1 - here)
    b = np.sqrt(following) - a * np.sqrt(here)
    return _plan(phi, here=here, a=a, b=b, c=np.zeros_like(a), s=sigma)


def ddim(alpha_bar: Float64, phi: Int64) -> Plan:
    """Plan deterministic DDIM on the sub-sequence phi (Song et al. 2021, eta = 0; SFDDM section 3.4 with sigma = 0)."""
    return _posterior(alpha_bar, phi, eta=0.0)


def ddpm(alpha_bar: Float64, phi: Int64) -> Plan:
    """Plan ancestral sampling with the posterior variance beta-tilde (Ho et al. 2020, eq. 6-7; "fixed_small"): eta = 1."""
    return _posterior(alpha_bar, phi, eta=1.0)


def dpmpp_2m(alpha_bar: Float64, phi: Int64) -> Plan:
    """Plan DPM-Solver++(2M), midpoint form (Lu et al. 2022, arXiv 2211.01095, algorithm 2), first order at both ends.

    With h = lambda' - lambda, r = h_previous / h and D = x0 + (x0 - x0_prev)/(2 r):
    x_next = (noise'/noise) x - signal' (exp(-h) - 1) D. The last step goes to alpha_bar = 1, where x_next = x0.
    """
    here, following = _levels(alpha_bar, phi)
    count = len(here)
    a = np.sqrt(1 - following) / np.sqrt(1 - here)
    gain = np.sqrt(following) - a * np.sqrt(here)  # -signal' (exp(-h) - 1), as exp(-h) = (noise'/noise)(signal/signal')
    c = np.zeros(count)
    if count > 2:
        log_snr = 0.5 * np.log(here / (1 - here))  # lambda at each step's start
        h = np.diff(log_snr)  # step i spans h[i]; the last step spans an infinite h and stays first order
        r = h[:-1] / h[1:]
        c[1:-1] = -gain[1:-1] / (2 * r)
    return _plan(phi, here=here, a=a, b=gain - c, c=c, s=np.zeros(count))


def consistency(alpha_bar: Float64, phi: Int64) -> Plan:
    """Plan stochastic multistep consistency sampling, x_next = signal' x0 + noise' z (Song et al. 2023, 2303.01469, alg. 1)."""
    here, following = _levels(alpha_bar, phi)
    nothing = np.zeros_like(here)
    return _plan(phi, here=here, a=nothing, b=np.sqrt(following), c=nothing, s=np.sqrt(1 - following))


SAMPLERS = {"ddim": ddim, "ddpm": ddpm, "dpmpp": dpmpp_2m}  # training-free: they work on any teacher

SamplerName = Literal["ddim", "dpmpp", "consistency"]  # the samplers that a model's own steps can be trained for


def own_plan(sampler: SamplerName, alpha_bar: Float64, label_of_step: Int64) -> Plan:
    """Plan all of a model's own steps. alpha_bar float64 [N + 1]; label_of_step int64 [N], clean end first."""
    steps = len(label_of_step)
    make = consistency if sampler == "consistency" else SAMPLERS[sampler]
    return relabel(make(alpha_bar, uniform_phi(steps, steps)), label_of_step)
