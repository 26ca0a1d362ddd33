"""How fast a run goes against what this machine can do: model-FLOP utilisation."""

from __future__ import annotations

import time

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
    """Model FLOPs per second over the peak, since the start of the run."""

    def __init__(self, flops_per_step: int, device: torch.device) -> None:
        self._flops, self._peak = flops_per_step, matmul_peak(device)
        self._start, self._steps, self.so_far = time.perf_counter(), 0, 0.0

    def step(self) -> float:
        """Count one step; returns the utilisation so far, 0 .. 1."""
        self._steps += 1
        self.so_far = self._steps * self._flops / (time.perf_counter() - self._start) / self._peak
        return self.so_far


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
