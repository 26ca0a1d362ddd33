"""Exponential moving average of weights: ema <- decay * ema + (1 - decay) * weights after each step, from a copy at the start."""

from __future__ import annotations

import torch
from torch import nn

from mudit.train.shards import local_parts


class Ema:
    """Keeps a second model's parameters at the average. Forward multipliers are hooks, which a copy keeps.

    Of sharded models each process averages its own rows.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        """`average`: a copy of `model`."""
        self.model, self._source, self._decay = average, model, decay
        self._averages: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average, over all parameters at once."""
        if not self._weights:  # after a first backward pass, when FSDP2 has settled where the shards lie
            self._averages = local_parts(list(self.model.parameters()))
            self._weights = local_parts(list(self._source.parameters()))
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - self._decay)
