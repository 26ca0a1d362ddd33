"""How fast a run goes against what its processor can do: model-FLOP utilisation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from mudit.plan.hardware import PROCESSORS, Precision
from mudit.train.device import matmul_precision

# Part of the name that the driver gives a GPU -> its type. Modules on cards, which are slower, have other names.
_KNOWN = {
    "A100-SXM4-40GB": "a100-40gb",
    "A100-SXM4-80GB": "a100-80gb",
    "H100 80GB HBM3": "h100-80gb",
    "H200": "h200-141gb",
    "B200": "b200-192gb",
}


def matmul_peak(device: torch.device, precision: Precision = "fp32", *, repeats: int = 3) -> float:
    """Best measured matmul rate of this process on this device, in FLOP/s."""
    size = 1024 if device.type == "cpu" else 8192
    matmul_precision(precision, device)  # sets the mode of float32 products
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.ones(size, size, device=device, dtype=dtype), torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s that a utilisation is a share of: as the maker states it where the GPU is known, else `matmul_peak`."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, processor in _KNOWN.items():
            if part in name:
                return PROCESSORS[processor].peak(precision)
    return matmul_peak(device, precision)


class Utilisation:
    """Model FLOPs of training steps over the time spent in them and the peak; validation and checkpoints are left out."""

    def __init__(self, flops_per_step: int, device: torch.device, precision: Precision = "fp32") -> None:
        """flops_per_step: of this process's share of the batch; precision: of its matrix products."""
        self._flops_per_step, self._device, self._peak = flops_per_step, device, peak(device, precision)
        self._seconds, self._steps = 0.0, 0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around one training step."""
        start = time.perf_counter()
        yield
        _synchronize(self._device)
        self._seconds += time.perf_counter() - start
        self._steps += 1

    @property
    def share(self) -> float:
        """Utilisation so far, 0 .. 1."""
        return self._steps * self._flops_per_step / self._seconds / self._peak if self._steps else 0.0


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
