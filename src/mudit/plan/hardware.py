"""Processors by type: peak rates and memory, as their makers' data sheets state them. Imports no torch.

Rates are of dense products (data sheets of the H100 and later print twice as much, for sparse ones). A share of these peaks that a
run reaches is its model-FLOP utilisation (`cluster.utilisation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "tf32", "bf16"]
GB = 10**9  # bytes, as data sheets count


@dataclass(frozen=True)
class Processor:
    """One GPU, or one CPU core."""

    fp32: float  # FLOP/s outside tensor cores
    tf32: float  # FLOP/s of float32 tensors in tensor cores
    bf16: float  # FLOP/s
    memory: int | None  # bytes; None: the machine's, not the processor's
    gpu: bool = True

    def peak(self, precision: Precision) -> float:
        """FLOP/s of matrix products in one of `optimizer.precision`'s modes."""
        peaks = {"fp32": self.fp32, "tf32": self.tf32, "bf16": self.bf16}
        return peaks[precision]


PROCESSORS: dict[str, Processor] = {
    # NVIDIA A100 Tensor Core GPU data sheet (2021), SXM modules.
    "a100-40gb": Processor(19.5e12, 156e12, 312e12, 40 * GB),
    "a100-80gb": Processor(19.5e12, 156e12, 312e12, 80 * GB),
    # NVIDIA H100 Tensor Core GPU data sheet (2023), SXM5.
    "h100-80gb": Processor(67e12, 494.7e12, 989.4e12, 80 * GB),
    # NVIDIA H200 Tensor Core GPU data sheet (2023), SXM: an H100 with more memory.
    "h200-141gb": Processor(67e12, 494.7e12, 989.4e12, 141 * GB),
    # NVIDIA HGX B200 data sheet (2024), an eighth of its eight; of 192 GB on the package it offers 180.
    "b200-192gb": Processor(75e12, 1.125e15, 2.25e15, 180 * GB),
    # Measured, not stated: the best of sixty products of 1024x1024 (bf16: five of 2048x2048) on one core of a
    # shared cloud machine (AMD EPYC with bf16 instructions) under a load of 3 on 2 cores. Its memory is the machine's.
    "cpu-core": Processor(85e9, 85e9, 173e9, None, gpu=False),
}
