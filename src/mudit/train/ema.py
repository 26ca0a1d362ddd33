"""Exponential moving average of weights: ema <- decay * ema + (1 - decay) * weights after each step, from a copy at the start."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A second model whose parameters are the average. Forward multipliers are hooks, so the copy keeps them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._averages = [parameter.detach() for parameter in self.model.parameters()]
        self._weights = [parameter.detach() for parameter in model.parameters()]

    def update(self) -> None:
        """One step of the average, over all parameters at once."""
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - self._decay)
