"""Where and in which precision matrix products run. Master weights, optimizer state and losses are always float32."""

from __future__ import annotations

import contextlib

import torch

from mudit.jobs.distributed import World


def compute_device() -> torch.device:
    """The accelerator of this process if there is one, else the CPU."""
    return torch.device("cuda", World.of_environment().local_rank) if torch.cuda.is_available() else torch.device("cpu")


def matmul_precision(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context of the forward pass: `bf16` autocasts; `tf32` and `fp32` set the product mode of float32 tensors (GPU only)."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # convolutions have a switch of their own, which is on by default
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
