"""Rectified flow with logit-normal times (Esser et al. 2024, section 2 and 3.1): straight paths from image to noise.

x_t = (1 - t) x_0 + t noise, and the model predicts the velocity noise - x_0. Times are sigmoid(m + s n), n a standard normal.

Legend: `...` leading dimensions (batch, or trials and batch), C channels, h w latent height and width. `t` has the leading shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mudit import random

TIME_SCALE = 1000.0  # the network's timestep embedding is made for steps 0 .. 1000


class RectifiedFlow:
    """The process and its loss. t = 0 is the image, t = 1 is noise."""

    def __init__(self, logit_mean: float, logit_std: float) -> None:
        self._mean, self._std = logit_mean, logit_std

    def draw_times(self, seed: int, step: int | Tensor, places_B: Tensor) -> Tensor:
        """Training times, float32 [B] in (0, 1)."""
        return torch.sigmoid(self._mean + self._std * random.normal(seed, "timestep", step, places_B, ()))

    def stratified_times(self, quantile_M: Tensor) -> Tensor:
        """Times at quantiles of the logit-normal, float32 [M]."""
        normal_M = torch.special.ndtri(quantile_M.double().clamp(1e-9, 1 - 1e-9))
        return torch.sigmoid(self._mean + self._std * normal_M).float()

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0 and noise (..., C, h, w) -> x_t."""
        return torch.lerp(x0, noise, t[..., None, None, None])

    def model_time(self, t: Tensor) -> Tensor:
        """Times (...) in thousandths."""
        return t * TIME_SCALE

    def losses(self, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """output (..., C, h, w): predicted velocity. Returns (mse, zeros), both (...)."""
        mse = (output - (noise - x0)).square().mean(dim=(-3, -2, -1))
        return mse, torch.zeros_like(mse)
