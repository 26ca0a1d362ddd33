"""From noise to latents: ancestral DDPM on a respaced chain, DPM-Solver++, and Euler for rectified flow.

No network code: a sampler sees a function. Sources: Nichol & Dhariwal 2021 (iDDPM), section 4 for respacing and eq. 15 for the
learned variance; Ho et al. 2020, section 3.2 for the fixed one; Ho & Salimans 2022 for classifier-free guidance; Lu et al. 2022 for
DPM-Solver++; Esser et al. 2024, section 2 for the flow. The published DiT figures use 250 ancestral steps, no guidance and no
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

from mudit.diffusion.flow import RectifiedFlow
from mudit.diffusion.gaussian import GaussianDiffusion
from mudit.diffusion.objective import Objective
from mudit.errors import ConfigError
from mudit.models.condition import Condition, TextCondition, map_condition
from mudit.random import normal

# (x_BCHW, t_B, condition) -> prediction [B, C, H, W], or [B, 2C, H, W] with the variance fraction behind it.
# t: int64 timesteps of the full process, or float32 thousandths of the flow's time. The prediction: noise, or the flow's velocity.
Model = Callable[[Tensor, Tensor, Condition], Tensor]
# (x_BCHW, t_B) -> the same, condition and guidance already inside.
Denoiser = Callable[[Tensor, Tensor], Tensor]

INITIAL_STREAM = "sample-initial"
STEP_STREAM = "sample-step"


def guided(model: Model, condition: Condition, null: Condition, scale: float, channels: Literal["all", "first-three"]) -> Denoiser:
    """Classifier-free guidance: unconditional + scale * (conditional - unconditional), both in one forward pass of 2B images.

    `null` is `null_condition` of the condition. Only the noise (or velocity) is guided, in `all` channels or in the `first-three`
    as the published code does; the variance fraction, and unguided channels, are the conditional prediction's. Scale 1 is the
    conditional model alone, without a second pass.
    """
    if scale == 1.0:
        return lambda x_BCHW, t_B: model(x_BCHW, t_B, condition)
    both = map_condition(lambda *halves: torch.cat(halves), condition, null)

    def denoiser(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        output = model(torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B]), both)
        conditional, unconditional = output.chunk(2)
        num_guided = x_BCHW.shape[1] if channels == "all" else min(3, x_BCHW.shape[1])
        guided_part = torch.lerp(unconditional[:, :num_guided], conditional[:, :num_guided], scale)
        return torch.cat([guided_part, conditional[:, num_guided:]], dim=1)

    return denoiser


def null_condition(condition: Condition, num_classes: int | None) -> Condition:
    """What guidance contrasts with: the null class instead of labels, or the same captions marked as dropped."""
    if isinstance(condition, TextCondition):
        return condition._replace(dropped=torch.ones_like(condition.dropped))
    assert num_classes is not None, "labels without classes"
    return torch.full_like(condition, num_classes)


def initial_noise(seed: int, images_B: Tensor, shape_CHW: tuple[int, int, int]) -> Tensor:
    """x_T of the images numbered `images_B` (int64 [B]): standard normals, float32 [B, C, H, W]."""
    return normal(seed, INITIAL_STREAM, 0, images_B, shape_CHW)


def kept_timesteps(timesteps: int, steps: int) -> Tensor:
    """`steps` of 0 .. timesteps - 1, evenly strided and rounded, the first and the last included, ascending int64 [T]."""
    if not 2 <= steps <= timesteps:
        raise ConfigError(f"sample.steps {steps}: must lie between 2 and diffusion.timesteps {timesteps}")
    return torch.linspace(0, timesteps - 1, steps, dtype=torch.float64).round().to(torch.int64)


class AncestralSampler:
    """DDPM sampling on a respaced chain, whose variances are recomputed from the kept alpha-bars.

    The variance of a step is the model's where the model learns it. Where it is fixed, it is the posterior variance (`fixed-small`)
    of DDPM's two choices: the other, beta, is far worse on a shortened chain (Song et al. 2021, table 1).
    """

    def __init__(self, diffusion: GaussianDiffusion, steps: int, clip_denoised: bool) -> None:
        """steps: network evaluations per image; clip_denoised: clamp the predicted x_0 to [-1, 1] (published: no)."""
        self.kept_T = kept_timesteps(diffusion.timesteps, steps)
        alpha_bar_T = diffusion.alpha_bar[self.kept_T]
        previous_T = torch.cat([torch.ones(1, dtype=alpha_bar_T.dtype), alpha_bar_T[:-1]])
        self._chain = GaussianDiffusion(1 - alpha_bar_T / previous_T, learned_variance=diffusion.learned_variance)
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
        output = denoiser(x_BCHW, torch.full_like(images_B, int(self.kept_T[step])))
        channels = x_BCHW.shape[1]
        assert output.shape[1] == (2 * channels if self._chain.learned_variance else channels), "model and variance do not fit"
        x0_BCHW = self._chain.predict_x0(x_BCHW, position_B, output[:, :channels])
        if self._clip:
            x0_BCHW = x0_BCHW.clamp(-1, 1)
        mean_BCHW = self._chain.posterior_mean(x0_BCHW, x_BCHW, position_B)
        if step == 0:
            return mean_BCHW
        noise_BCHW = normal(seed, STEP_STREAM, step, images_B, x_BCHW.shape[1:])
        if self._chain.learned_variance:
            log_variance = self._chain.log_variance(output[:, channels:], position_B)
        else:
            log_variance = self._chain.table("log_posterior_variance", position_B)
        return mean_BCHW + torch.exp(0.5 * log_variance) * noise_BCHW


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


class EulerSampler:
    """Rectified flow in equal steps of time from noise (t = 1) to image (t = 0): an ODE solver, so all noise is in the start."""

    def __init__(self, flow: RectifiedFlow, steps: int) -> None:
        """steps: network evaluations per image, at t = 1, 1 - 1/steps, ..., 1/steps."""
        self._flow, self._steps = flow, steps

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, x_BCHW: Tensor, images_B: Tensor, seed: int) -> Tensor:
        """x_BCHW: initial noise. Returns latents [B, C, H, W]. `seed` is unused: nothing is drawn."""
        for step in range(self._steps):
            t_B = torch.full(images_B.shape, 1 - step / self._steps, dtype=torch.float32, device=x_BCHW.device)
            x_BCHW = x_BCHW - denoiser(x_BCHW, self._flow.model_time(t_B)) / self._steps
        return x_BCHW


Sampler = AncestralSampler | DPMSolverSampler | EulerSampler


def make_sampler(name: Literal["ddpm", "dpm-solver++", "euler"], objective: Objective, steps: int) -> Sampler:
    """The sampler that `sample.sampler` names, as published: without clipping.

    Raises ConfigError on a step count that the process cannot have. Which samplers an objective has, the configuration checks.
    """
    if name == "euler":
        assert isinstance(objective, RectifiedFlow), "euler needs a flow"
        return EulerSampler(objective, steps)
    assert isinstance(objective, GaussianDiffusion), f"{name} needs a Gaussian process"
    if name == "ddpm":
        return AncestralSampler(objective, steps, clip_denoised=False)
    return DPMSolverSampler(objective, steps)
