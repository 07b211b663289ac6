"""The walk through a plan outside the engine, with a network that records its inputs."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import pytest

from models.noise import step_noise
from models.plan import SAMPLERS, ddpm
from models.runtime.base import Float32, StepInputs
from models.runtime.denoise import denoise, starting_noise
from models.schedule import alpha_bar_table
from models.subsequence import uniform_phi

KEYS = [(3, 0), (3, 1)]
SHAPE = (1, 4, 4)


class Recorder:
    """Predicts x0 = x / 2 and takes the plan's step."""

    def __init__(self) -> None:
        self.asked: list[StepInputs] = []

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        self.asked.append(inputs)
        x, x0 = inputs["x"], inputs["x"] / np.float32(2)
        _, _, a, b, c = (inputs["coefficients"][:, i, None, None, None] for i in range(5))
        return a * x + b * x0 + c * inputs["x0_prev"], x0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_is_asked_in_order_with_the_x0_before(sampler: str) -> None:
    plan = SAMPLERS[sampler](alpha_bar_table("cosine", 32), uniform_phi(32, 8))
    network, steps = Recorder(), list[int]()
    label = np.array([0, 2])
    noise = starting_noise(KEYS, SHAPE)
    denoise(network, plan, noise, keys=KEYS, class_label=label, on_step=steps.append)
    assert [int(asked["timestep"][0]) for asked in network.asked] == plan.label.tolist()
    assert all(asked["class_label"] is label for asked in network.asked)
    assert not network.asked[0]["x0_prev"].any()
    for before, after in zip(network.asked, network.asked[1:], strict=False):
        np.testing.assert_array_equal(after["x0_prev"], before["x"] / np.float32(2))
    assert steps == [2] * 8


def test_fresh_noise_is_keyed_by_image_and_step() -> None:
    plan = ddpm(alpha_bar_table("cosine", 32), uniform_phi(32, 4))
    network = Recorder()
    denoise(network, plan, starting_noise(KEYS, SHAPE), keys=KEYS, class_label=None)
    first, second = network.asked[:2]
    stepped = Recorder().step(**first)[0]
    fresh = np.stack([step_noise(seed, index, 0, SHAPE) for seed, index in KEYS])
    np.testing.assert_array_equal(second["x"], stepped + np.float32(plan.s[0]) * fresh)


def test_a_walk_that_starts_later_starts_in_first_order() -> None:
    plan = SAMPLERS["dpmpp"](alpha_bar_table("cosine", 32), uniform_phi(32, 8))
    network = Recorder()
    denoise(network, plan, starting_noise(KEYS, SHAPE), keys=KEYS, class_label=None, first_step=3)
    assert len(network.asked) == 5
    b, c = network.asked[0]["coefficients"][0, 3:]
    assert (b, c) == (np.float32(plan.coefficients[3].astype(np.float32)[3:].sum()), 0)
