"""The precisions of one process, which rest on private names of torch and accelerate."""

from __future__ import annotations

import torch

from training.accelerator import make_accelerator, supports_bf16


def test_one_process_trains_in_two_precisions() -> None:
    assert make_accelerator("bf16").mixed_precision == "bf16"
    assert make_accelerator("no").mixed_precision == "no"


def test_auto_follows_the_hardware() -> None:
    accelerator = make_accelerator("auto")
    supported = supports_bf16(accelerator.device)
    assert isinstance(supported, bool)
    assert accelerator.mixed_precision == ("bf16" if supported else "no")


def test_a_device_that_is_neither_cuda_nor_cpu_has_no_bf16() -> None:
    assert supports_bf16(torch.device("meta")) is False
