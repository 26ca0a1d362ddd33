"""From noise to latents: ancestral DDPM on a respaced chain, and DPM-Solver++. No network code: a sampler sees a function.

Sources: Nichol & Dhariwal 2021 (iDDPM), section 4 for respacing and eq. 15 for the learned variance; Ho & Salimans 2022 for
classifier-free guidance; Lu et al. 2022 for DPM-Solver++. The published DiT figures use 250 ancestral steps, no guidance and no
clipping of the predicted x_0.

Noise belongs to images, not to batches: image i draws from (seed, stream, step, i), so any batch size and any number of processes
give the same images, up to the rounding of matrix products of other batch sizes.

Shapes: B batch, C channels, H W latent height and width, T kept timesteps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mudit.diffusion.gaussian import GaussianDiffusion
from mudit.errors import ConfigError
from mudit.random import normal

# (x_BCHW, t_B int64 timesteps of the full process, y_B int64 labels) -> [B, 2C, H, W]: noise and variance fraction.
Model = Callable[[Tensor, Tensor, Tensor], Tensor]
# (x_BCHW, t_B) -> [B, 2C, H, W], labels and guidance already inside.
Denoiser = Callable[[Tensor, Tensor], Tensor]

INITIAL_STREAM = "sample-initial"
STEP_STREAM = "sample-step"


def guided(model: Model, y_B: Tensor, null_class: int, scale: float, channels: Literal["all", "first-three"]) -> Denoiser:
    """Classifier-free guidance: unconditional + scale * (conditional - unconditional), both in one forward pass of 2B images.

    Only the noise is guided, in `all` channels or in the `first-three` as the published code does; the variance fraction, and
    unguided channels, are the conditional prediction's. Scale 1 is the conditional model alone, without a second pass.
    """
    if scale == 1.0:
        return lambda x_BCHW, t_B: model(x_BCHW, t_B, y_B)
    both_2B = torch.cat([y_B, torch.full_like(y_B, null_class)])

    def denoiser(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        output = model(torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B]), both_2B)
        conditional, unconditional = output.chunk(2)
        num_guided = x_BCHW.shape[1] if channels == "all" else min(3, x_BCHW.shape[1])
        guided_noise = torch.lerp(unconditional[:, :num_guided], conditional[:, :num_guided], scale)
        return torch.cat([guided_noise, conditional[:, num_guided:]], dim=1)

    return denoiser


def initial_noise(seed: int, images_B: Tensor, shape_CHW: tuple[int, int, int]) -> Tensor:
    """x_T of the images numbered `images_B` (int64 [B]): standard normals, float32 [B, C, H, W]."""
    return normal(seed, INITIAL_STREAM, 0, images_B, shape_CHW)


def kept_timesteps(timesteps: int, steps: int) -> Tensor:
    """`steps` of 0 .. timesteps - 1, evenly strided and rounded, the first and the last included, ascending int64 [T]."""
    if not 2 <= steps <= timesteps:
        raise ConfigError(f"sample.steps {steps}: must lie between 2 and diffusion.timesteps {timesteps}")
    return torch.linspace(0, timesteps - 1, steps, dtype=torch.float64).round().to(torch.int64)


class AncestralSampler:
    """DDPM sampling with the learned variance on a respaced chain, whose variances are recomputed from the kept alpha-bars."""

    def __init__(self, diffusion: GaussianDiffusion, steps: int, clip_denoised: bool) -> None:
        """steps: network evaluations per image; clip_denoised: clamp the predicted x_0 to [-1, 1] (published: no)."""
        self.kept_T = kept_timesteps(diffusion.timesteps, steps)
        alpha_bar_T = diffusion.alpha_bar[self.kept_T]
        previous_T = torch.cat([torch.ones(1, dtype=alpha_bar_T.dtype), alpha_bar_T[:-1]])
        self._chain = GaussianDiffusion(1 - alpha_bar_T / previous_T)
        self._clip = clip_denoised

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, x_BCHW: Tensor, images_B: Tensor, seed: int) -> Tensor:
        """x_BCHW: initial noise. Returns latents [B, C, H, W]; step noise comes from (seed, step, image)."""
        for step in reversed(range(len(self.kept_T))):
            x_BCHW = self.step(denoiser, x_BCHW, step, images_B, seed)
        return x_BCHW

    def step(self, denoiser: Denoiser, x_BCHW: Tensor, step: int, images_B: Tensor, seed: int) -> Tensor:
        """x at position `step` of the chain -> x at position `step` - 1 (clean latents after step 0)."""
        position_B = torch.full_like(images_B, step)
        epsilon_BCHW, fraction_BCHW = denoiser(x_BCHW, torch.full_like(images_B, int(self.kept_T[step]))).chunk(2, dim=1)
        x0_BCHW = self._chain.predict_x0(x_BCHW, position_B, epsilon_BCHW)
        if self._clip:
            x0_BCHW = x0_BCHW.clamp(-1, 1)
        mean_BCHW = self._chain.posterior_mean(x0_BCHW, x_BCHW, position_B)
        if step == 0:
            return mean_BCHW
        noise_BCHW = normal(seed, STEP_STREAM, step, images_B, x_BCHW.shape[1:])
        return mean_BCHW + torch.exp(0.5 * self._chain.log_variance(fraction_BCHW, position_B)) * noise_BCHW


class DPMSolverSampler:
    """DPM-Solver++ (order 2, multistep, uniform in time) of diffusers: an ODE solver, so all noise is in the start."""

    def __init__(self, diffusion: GaussianDiffusion, steps: int) -> None:
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler  # slow import

        alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), diffusion.alpha_bar[:-1]])
        betas = 1 - diffusion.alpha_bar / alpha_bar_prev
        self._make = lambda: DPMSolverMultistepScheduler(
            num_train_timesteps=diffusion.timesteps,
            trained_betas=betas.numpy(),
            solver_order=2,
            prediction_type="epsilon",
            algorithm_type="dpmsolver++",
        )
        kept_timesteps(diffusion.timesteps, steps)  # the same bounds as the ancestral chain
        self._steps = steps

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, x_BCHW: Tensor, images_B: Tensor, seed: int) -> Tensor:
        """x_BCHW: initial noise. Returns latents [B, C, H, W]. `seed` is unused: nothing is drawn."""
        scheduler = self._make()  # it carries the history of one trajectory
        scheduler.set_timesteps(self._steps, device=x_BCHW.device)
        for t in scheduler.timesteps:
            epsilon_BCHW = denoiser(x_BCHW, torch.full_like(images_B, int(t)))[:, : x_BCHW.shape[1]]
            x_BCHW = scheduler.step(epsilon_BCHW, t, x_BCHW).prev_sample
        return x_BCHW


Sampler = AncestralSampler | DPMSolverSampler


def make_sampler(name: Literal["ddpm", "dpm-solver++"], diffusion: GaussianDiffusion, steps: int) -> Sampler:
    """The sampler that `sample.sampler` names, as published: without clipping. Raises ConfigError on an impossible step count."""
    if name == "ddpm":
        return AncestralSampler(diffusion, steps, clip_denoised=False)
    return DPMSolverSampler(diffusion, steps)
