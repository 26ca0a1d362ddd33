"""How fast a run goes against what this machine can do: model-FLOP utilisation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


def matmul_peak(device: torch.device, *, size: int = 1024, repeats: int = 3) -> float:
    """Best measured float32 matmul rate of this process on this device, in FLOP/s: the peak behind every utilisation figure."""
    a, b = torch.ones(size, size, device=device), torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Utilisation:
    """Model FLOPs of training steps over the time spent in them and the measured peak; validation and checkpoints are left out."""

    def __init__(self, flops_per_step: int, device: torch.device) -> None:
        self._flops_per_step, self._device, self._peak = flops_per_step, device, matmul_peak(device)
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
