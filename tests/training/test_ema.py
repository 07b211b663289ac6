from __future__ import annotations

import numpy as np
import pytest
import torch

from training.ema import PowerEMA, gamma_of


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_matches_the_paper(sigma_rel: float, gamma: float) -> None:
    """The pairs are from Karras et al. 2024 (EDM2), section 3.1."""
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.01)


def test_average_is_the_power_function_profile() -> None:
    """After n steps the weight of step i is ~ i^gamma: compared with the closed product of betas."""
    network = torch.nn.Linear(1, 1, bias=False)
    ema = PowerEMA(network, 0.1)
    values = np.random.default_rng(0).standard_normal(50)
    expected = 0.0
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            network.weight.fill_(float(value))
        ema.update(network, step)
        beta = (1 - 1 / step) ** (gamma_of(0.1) + 1)
        expected = beta * expected + (1 - beta) * value
    ema.copy_to(network)
    assert float(network.weight.detach()) == pytest.approx(expected, abs=1e-5)


def test_the_first_step_forgets_the_start() -> None:
    network = torch.nn.Linear(2, 2)
    ema = PowerEMA(network, 0.1)
    with torch.no_grad():
        network.weight.fill_(3.0)
    ema.update(network, 1)
    assert torch.equal(ema.average["weight"], network.weight.detach())


def test_every_parameter_is_averaged_in_float32_from_any_precision() -> None:
    """One call of torch._foreach_lerp_ equals Tensor.lerp of each parameter."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)).to(torch.bfloat16)
    ema = PowerEMA(network, 0.1)
    before = {name: average.clone() for name, average in ema.average.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.ones_like(parameter))
    ema.update(network, 4)
    weight = 1 - (1 - 1 / 4) ** (gamma_of(0.1) + 1)
    for name, parameter in network.named_parameters():
        assert ema.average[name].dtype == torch.float32
        assert torch.allclose(ema.average[name], before[name].lerp(parameter.detach().float(), weight))
