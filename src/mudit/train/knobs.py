"""The base hyperparameters of one run: what is searched on a proxy and transferred. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple

from mudit.config.published import warmup_steps
from mudit.config.schema import Experiment


class Knobs(NamedTuple):
    """All of them are width-free under muP."""

    log2_lr: float  # base learning rate
    clip_norm: float | None  # largest norm of the whole gradient; None: no clipping
    warmup_steps: int  # steps over which the learning rate rises linearly; 0: none
    alignment_weight: float  # weight of the REPA loss; 0: none

    @classmethod
    def of(cls, config: Experiment, log2_lr: float, batch_size: int) -> Knobs:
        """A learning rate, with everything else as the configuration has it for batches of so many images."""
        warmup = warmup_steps(config, batch_size)
        return cls(log2_lr, config.optimizer.clip_norm, warmup, config.diffusion.alignment_weight)

    @property
    def base_lr(self) -> float:
        """The base learning rate after warm-up."""
        return 2.0**self.log2_lr

    def warmup(self, step: int) -> float:
        """Share of the learning rate that the optimizer step number `step` (from 0) uses."""
        return min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
