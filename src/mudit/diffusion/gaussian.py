"""Gaussian diffusion of DDPM / improved DDPM as DiT uses it: linear schedule, epsilon prediction, learned-range variance, VB term.

Sources: Ho et al. 2020 (DDPM) for the process and posterior; Nichol & Dhariwal 2021 (iDDPM), eq. 15 for the learned range and
eq. 4-7 for the variational bound; Peebles & Xie 2023 for the combination (mean-squared error plus the bound, the predicted mean
detached inside the bound).

Legend: `...` leading dimensions (batch, or trials and batch), C channels, h w latent height and width. `t` has the leading shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mudit import random
from mudit.config.schema import GaussianSection

_HALF_PIXEL = 1.0 / 255.0  # half a step of 8-bit data scaled to [-1, 1], the bins of the decoder likelihood at t = 0


class GaussianDiffusion:
    """The process with `betas` (float64 [T]); tables are kept as float32 tensors [T] on the CPU and moved on use."""

    def __init__(self, betas: Tensor, *, learned_variance: bool = True) -> None:
        betas = betas.double()
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        posterior_variance = betas * (1 - alpha_bar_prev) / (1 - alpha_bar)
        # The posterior variance is zero at t = 0; its log takes the value at t = 1 instead (iDDPM).
        clipped = torch.cat([posterior_variance[1:2], posterior_variance[1:]]) if len(betas) > 1 else betas
        self.timesteps, self.learned_variance = len(betas), learned_variance
        self.alpha_bar = alpha_bar
        tables = {
            "sqrt_alpha_bar": alpha_bar.sqrt(),
            "sqrt_one_minus_alpha_bar": (1 - alpha_bar).sqrt(),
            "sqrt_recip_alpha_bar": (1 / alpha_bar).sqrt(),
            "sqrt_recip_alpha_bar_minus_one": (1 / alpha_bar - 1).sqrt(),
            "log_beta": betas.log(),
            "log_posterior_variance": clipped.log(),
            "posterior_mean_x0": betas * alpha_bar_prev.sqrt() / (1 - alpha_bar),
            "posterior_mean_xt": (1 - alpha_bar_prev) * (1 - betas).sqrt() / (1 - alpha_bar),
        }
        self._tables = {name: table.float() for name, table in tables.items()}

    @classmethod
    def linear(cls, section: GaussianSection) -> GaussianDiffusion:
        """The published schedule: `timesteps` variances evenly spaced from beta_start to beta_end."""
        betas = torch.linspace(section.beta_start, section.beta_end, section.timesteps, dtype=torch.float64)
        return cls(betas, learned_variance=section.variance == "learned-range")

    def draw_times(self, seed: int, step: int | Tensor, places_B: Tensor) -> Tensor:
        """Training timesteps, uniform int64 [B]."""
        return random.integers(seed, "timestep", step, places_B, self.timesteps)

    def stratified_times(self, quantile_M: Tensor) -> Tensor:
        """Timesteps at quantiles of the uniform distribution, int64 [M]."""
        return (quantile_M * self.timesteps).long().clamp(max=self.timesteps - 1)

    def model_time(self, t: Tensor) -> Tensor:
        """The network gets the timestep itself."""
        return t

    def table(self, name: str, t: Tensor) -> Tensor:
        """Entries of a table at `t` (...), shaped (..., 1, 1, 1) to broadcast against images."""
        values = self._tables[name]
        if values.device != t.device:
            values = self._tables[name] = values.to(t.device)
        return values[t][..., None, None, None]

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """q(x_t | x_0): x0 and noise (..., C, h, w) -> x_t."""
        return self.table("sqrt_alpha_bar", t) * x0 + self.table("sqrt_one_minus_alpha_bar", t) * noise

    def predict_x0(self, xt: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """x_0 implied by x_t and the predicted noise."""
        return self.table("sqrt_recip_alpha_bar", t) * xt - self.table("sqrt_recip_alpha_bar_minus_one", t) * epsilon

    def posterior_mean(self, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        return self.table("posterior_mean_x0", t) * x0 + self.table("posterior_mean_xt", t) * xt

    def log_variance(self, fraction: Tensor, t: Tensor) -> Tensor:
        """Learned-range log variance: `fraction` in [-1, 1] interpolates log posterior variance .. log beta (iDDPM eq. 15)."""
        low, high = self.table("log_posterior_variance", t), self.table("log_beta", t)
        return torch.lerp(low, high, (fraction + 1) / 2)

    def losses(self, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Per-image training loss terms.

        output (..., 2C, h, w): predicted noise and variance fraction; with a fixed variance the noise alone. Returns (mse, vb),
        both (...): the mean squared error of the noise and the variational-bound term in bits per dimension (zeros with a fixed
        variance). The published objective is their plain sum.
        """
        if not self.learned_variance:
            mse = (output - noise).square().mean(dim=(-3, -2, -1))
            return mse, torch.zeros_like(mse)
        epsilon, fraction = output.chunk(2, dim=-3)
        mse = (epsilon - noise).square().mean(dim=(-3, -2, -1))
        # The bound trains the variance only: the mean enters it detached.
        predicted_mean = self.posterior_mean(self.predict_x0(xt, t, epsilon.detach()), xt, t)
        log_variance = self.log_variance(fraction, t)
        true_mean, true_log_variance = self.posterior_mean(x0, xt, t), self.table("log_posterior_variance", t)
        kl = 0.5 * (
            log_variance
            - true_log_variance
            - 1
            + torch.exp(true_log_variance - log_variance)
            + (true_mean - predicted_mean).square() * torch.exp(-log_variance)
        )
        first = (t == 0)[..., None, None, None]
        if bool(first.any()):
            kl = torch.where(first, -discretized_log_likelihood(x0, predicted_mean, 0.5 * log_variance), kl)
        return mse, kl.mean(dim=(-3, -2, -1)) / math.log(2.0)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of 8-bit data `x` in [-1, 1] under a Gaussian integrated over x's bin (DDPM, eq. 13), elementwise, nats.

    The normal distribution function is the usual tanh approximation, as in the published objective.
    """
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper = _approximate_cdf(inverse * (centred + _HALF_PIXEL))
    lower = _approximate_cdf(inverse * (centred - _HALF_PIXEL))
    inside = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return inside.clamp(min=1e-12).log()


def _approximate_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))))
