"""The device and the precision of a training, through Hugging Face Accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from training.errors import TrainingError


def supports_bf16(device: torch.device) -> bool:
    """Return True when bfloat16 arithmetic is in the hardware, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # The names are private, because torch has no public function for this on CPUs. Without one of these instruction sets, bf16
    # is slower than float32.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_accelerator(precision: str) -> Accelerator:
    """Return an Accelerator with this precision. `auto` means bf16 where the hardware has it, else float32.

    Raises TrainingError for fp16 on a CPU, because accelerate scales gradients on GPUs only.
    """
    # accelerate allows one precision a process, and one process may train more than once. The name is private, because
    # accelerate has no public function that forgets the first precision.
    AcceleratorState._reset_state()
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise TrainingError("--precision fp16 needs a GPU; take bf16 or no on a CPU")
    if precision == "auto":
        precision = "bf16" if supports_bf16(PartialState().device) else "no"
    return Accelerator(mixed_precision=precision)
