"""Samplers against closed forms (Gaussian data, for which the best prediction is known) and against diffusers, step by step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mudit.config.schema import FlowSection, GaussianSection
from mudit.diffusion import samplers
from mudit.diffusion.flow import RectifiedFlow
from mudit.diffusion.objective import make_objective
from mudit.diffusion.samplers import (
    AncestralSampler,
    DPMSolverSampler,
    EulerSampler,
    guided,
    initial_noise,
    kept_timesteps,
    make_sampler,
    null_condition,
)
from mudit.errors import ConfigError
from mudit.models.condition import TextCondition

SECTION = GaussianSection(
    kind="gaussian",
    timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    variance="learned-range",
    condition_dropout=0.1,
    alignment_weight=0,
)
FLOW_SECTION = FlowSection(kind="rectified-flow", logit_mean=0, logit_std=1, condition_dropout=0.1, alignment_weight=0)
DIFFUSION = make_objective(SECTION)
FIXED = make_objective(SECTION.model_copy(update={"variance": "fixed"}))
FLOW = make_objective(FLOW_SECTION)
MEAN, STD = 0.5, 0.3


def gaussian_denoiser(kept_T: Tensor):
    """The best noise and variance fraction for data N(MEAN, STD^2), on the chain of `kept_T`."""
    alpha_bar_T = DIFFUSION.alpha_bar[kept_T]
    previous_T = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar_T[:-1]])
    beta_T = 1 - alpha_bar_T / previous_T
    tilde_T = beta_T * (1 - previous_T) / (1 - alpha_bar_T)
    marginal_T = alpha_bar_T * STD**2 + 1 - alpha_bar_T
    # Var(x_{t-1} | x_t) = tilde beta + (coefficient of x_0)^2 Var(x_0 | x_t), which lies inside the learned range.
    coefficient_T = beta_T * previous_T.sqrt() / (1 - alpha_bar_T)
    variance_T = tilde_T + coefficient_T**2 * STD**2 * (1 - alpha_bar_T) / marginal_T
    fraction_T = 2 * (variance_T.log() - tilde_T.log()) / (beta_T.log() - tilde_T.log()) - 1
    fraction_T[0] = 0.0  # no noise after the last step
    assert fraction_T.abs().max() <= 1

    def denoiser(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        t = int(t_B[0])
        position = int((kept_T == t).nonzero())
        alpha_bar = float(DIFFUSION.alpha_bar[t])
        epsilon_BCHW = math.sqrt(1 - alpha_bar) * (x_BCHW - math.sqrt(alpha_bar) * MEAN) / float(marginal_T[position])
        return torch.cat([epsilon_BCHW, torch.full_like(x_BCHW, float(fraction_T[position]))], dim=1)

    return denoiser


def exact_final_std(kept_T: Tensor) -> float:
    """The last step returns E[x_0 | x at the first kept timestep], which lacks Var(x_0 | x)."""
    alpha_bar = float(DIFFUSION.alpha_bar[kept_T[0]])
    return STD**2 * math.sqrt(alpha_bar / (alpha_bar * STD**2 + 1 - alpha_bar))


@pytest.mark.parametrize("steps", [10, 250])
def test_ancestral_sampler_reproduces_gaussian_data(steps):
    images = torch.arange(40_000)
    sampler = AncestralSampler(DIFFUSION, steps, clip_denoised=False)
    x = sampler.sample(gaussian_denoiser(sampler.kept_T), initial_noise(3, images, (1, 1, 1)), images, seed=3)
    assert x.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(len(images)))
    assert x.std().item() == pytest.approx(exact_final_std(sampler.kept_T), rel=4 / math.sqrt(2 * len(images)))


def test_dpm_solver_reproduces_gaussian_data():
    images = torch.arange(20_000)
    sampler = DPMSolverSampler(DIFFUSION, 200)

    def denoiser(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        alpha_bar = float(DIFFUSION.alpha_bar[int(t_B[0])])
        epsilon = math.sqrt(1 - alpha_bar) * (x_BCHW - math.sqrt(alpha_bar) * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)
        return torch.cat([epsilon, epsilon], dim=1)

    x = sampler.sample(denoiser, initial_noise(4, images, (1, 1, 1)), images, seed=4)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize(("steps", "clip"), [(1000, False), (250, False), (250, True), (10, True)])
def test_ancestral_steps_equal_diffusers(monkeypatch, steps, clip):
    from diffusers import DDPMScheduler

    sampler = AncestralSampler(DIFFUSION, steps, clip_denoised=clip)
    linear = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = DDPMScheduler(**linear, variance_type="learned_range", clip_sample=clip)
    scheduler.set_timesteps(timesteps=sampler.kept_T.flip(0).tolist())
    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(samplers, "normal", lambda seed, stream, step, images_B, shape: torch.randn(2, *shape, generator=noise))
    for step in (steps - 1, steps // 2, 1, 0):
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        output = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(step + 1)).clamp(-1, 1)
        noise.manual_seed(step)
        theirs = scheduler.step(output, int(sampler.kept_T[step]), x, generator=torch.Generator().manual_seed(step)).prev_sample
        ours = sampler.step(lambda x_BCHW, t_B, output=output: output, x, step, torch.arange(2), seed=0)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("steps", [1000, 50])
def test_fixed_variance_steps_equal_diffusers(monkeypatch, steps):
    """A model of C channels: the posterior variance, which diffusers calls `fixed_small`."""
    from diffusers import DDPMScheduler

    sampler = AncestralSampler(FIXED, steps, clip_denoised=False)
    scheduler = DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", variance_type="fixed_small", clip_sample=False
    )
    scheduler.set_timesteps(timesteps=sampler.kept_T.flip(0).tolist())
    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(samplers, "normal", lambda seed, stream, step, images_B, shape: torch.randn(2, *shape, generator=noise))
    for step in (steps - 1, steps // 2, 1, 0):
        x, output = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step + more)) for more in (0, 1))
        noise.manual_seed(step)
        theirs = scheduler.step(output, int(sampler.kept_T[step]), x, generator=torch.Generator().manual_seed(step)).prev_sample
        ours = sampler.step(lambda x_BCHW, t_B, output=output: output, x, step, torch.arange(2), seed=0)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_a_model_without_variance_is_not_taken_for_one_that_learns_it():
    sampler = AncestralSampler(DIFFUSION, 10, clip_denoised=False)
    with pytest.raises(AssertionError, match="variance"):
        sampler.step(lambda x_BCHW, t_B: x_BCHW, torch.zeros(1, 2, 2, 2), 5, torch.arange(1), seed=0)


def gaussian_velocity(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
    """E[noise - x_0 | x_t] for data N(MEAN, STD^2), at thousandths of time."""
    t_B111 = (t_B / 1000)[:, None, None, None]
    variance = (1 - t_B111) ** 2 * STD**2 + t_B111**2
    centred = x_BCHW - (1 - t_B111) * MEAN
    return t_B111 / variance * centred - (MEAN + (1 - t_B111) * STD**2 / variance * centred)


def test_euler_reproduces_gaussian_data():
    images = torch.arange(20_000)
    x = EulerSampler(FLOW, 200).sample(gaussian_velocity, initial_noise(5, images, (1, 1, 1)), images, seed=5)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(STD, rel=0.02)


def test_euler_is_exact_where_paths_are_straight():
    """One image: the velocity at (x, t) is (x - image) / t, and one step arrives as exactly as many do."""
    image = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    def velocity(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return (x_BCHW - image) / (t_B / 1000)[:, None, None, None]

    start = initial_noise(0, torch.arange(4), (2, 3, 3))
    for steps in (1, 7, 50):
        found = EulerSampler(FLOW, steps).sample(velocity, start, torch.arange(4), seed=0)
        torch.testing.assert_close(found, image.expand(4, -1, -1, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 28])
def test_euler_equals_diffusers(steps):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)])
    images = torch.arange(5)
    start = initial_noise(6, images, (1, 4, 4))
    theirs, times = start, []
    for t in scheduler.timesteps:
        theirs = scheduler.step(gaussian_velocity(theirs, t.expand(5)), t, theirs).prev_sample

    def watched(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        times.append(t_B)
        return gaussian_velocity(x_BCHW, t_B)

    ours = EulerSampler(FLOW, steps).sample(watched, start, images, seed=6)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.stack(times)[:, 0], scheduler.timesteps)


def test_kept_timesteps_are_strided_with_both_ends():
    kept = kept_timesteps(1000, 250)
    assert (kept[0], kept[-1], len(kept)) == (0, 999, 250)
    assert set(kept.diff().tolist()) == {4, 5}
    assert kept_timesteps(1000, 1000).tolist() == list(range(1000))


@pytest.mark.parametrize("steps", [1, 1001])
@pytest.mark.parametrize("name", ["ddpm", "dpm-solver++"])
def test_impossible_step_counts_are_config_errors(name, steps):
    with pytest.raises(ConfigError, match=r"sample\.steps"):
        make_sampler(name, DIFFUSION, steps)


def test_the_objective_decides_which_samplers_there_are():
    assert isinstance(make_sampler("euler", FLOW, 5), EulerSampler)
    assert isinstance(FLOW, RectifiedFlow)
    for name, objective in (("euler", DIFFUSION), ("ddpm", FLOW), ("dpm-solver++", FLOW)):
        with pytest.raises(AssertionError, match="needs a"):
            make_sampler(name, objective, 5)


def toy_model(x_BCHW: Tensor, t_B: Tensor, y_B: Tensor) -> Tensor:
    """Elementwise, so that batch size cannot change its rounding: any difference would be the sampler's."""
    shift = (0.01 * y_B.float() + 1e-4 * t_B.float())[:, None, None, None]
    return torch.cat([0.9 * x_BCHW + shift, torch.tanh(x_BCHW)], dim=1)


def toy_velocity(x_BCHW: Tensor, t_B: Tensor, y_B: Tensor) -> Tensor:
    """The same for a flow."""
    return toy_model(x_BCHW, t_B, y_B)[:, : x_BCHW.shape[1]]


SAMPLERS = {"ddpm": (DIFFUSION, toy_model), "dpm-solver++": (DIFFUSION, toy_model), "euler": (FLOW, toy_velocity)}


@pytest.mark.parametrize(("name", "scale"), list(itertools.product(SAMPLERS, [1.0, 3.0])))
def test_images_do_not_depend_on_batching(name, scale):
    objective, model = SAMPLERS[name]
    sampler = make_sampler(name, objective, 8)

    def images(numbers: Tensor) -> Tensor:
        denoiser = guided(model, numbers % 10, torch.full_like(numbers, 10), scale, "all")
        return sampler.sample(denoiser, initial_noise(1, numbers, (2, 3, 3)), numbers, seed=1)

    whole = images(torch.arange(12))
    parts = torch.cat([images(torch.arange(0, 5)), images(torch.arange(5, 6)), images(torch.arange(6, 12))])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(initial_noise(1, torch.tensor([7]), (2, 3, 3))[0], initial_noise(1, torch.arange(12), (2, 3, 3))[7])


def test_seeds_images_and_steps_draw_different_noise():
    images = torch.arange(3)
    noise = initial_noise(0, images, (1, 8, 8))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, initial_noise(1, images, (1, 8, 8)))


def test_guidance_is_linear_in_the_noise_only():
    x, t, y = torch.randn(2, 4, 2, 2), torch.tensor([5, 5]), torch.tensor([1, 2])
    null = null_condition(y, 10)
    conditional, unconditional = toy_model(x, t, y), toy_model(x, t, torch.tensor([10, 10]))
    output = guided(toy_model, y, null, 4.0, "all")(x, t)
    torch.testing.assert_close(output[:, :4], unconditional[:, :4] + 4 * (conditional - unconditional)[:, :4])
    torch.testing.assert_close(output[:, 4:], conditional[:, 4:])
    quirk = guided(toy_model, y, null, 4.0, "first-three")(x, t)
    torch.testing.assert_close(quirk[:, :3], output[:, :3])
    torch.testing.assert_close(quirk[:, 3:], conditional[:, 3:])


def test_captions_are_guided_away_from_dropped_ones():
    """Both halves get the same captions; only the mark differs, and the model decides what a dropped caption is."""
    generator = torch.Generator().manual_seed(0)
    captions = TextCondition(
        tokens=torch.randn(2, 3, 4, generator=generator),
        mask=torch.tensor([[True, True, False], [True, False, False]]),
        pooled=torch.randn(2, 5, generator=generator),
        dropped=torch.zeros(2, dtype=torch.bool),
    )
    null = null_condition(captions, None)
    assert null.dropped.all() and not captions.dropped.any()

    def model(x_BCHW: Tensor, t_B: Tensor, condition: TextCondition) -> Tensor:
        return x_BCHW + condition.zeroed().pooled.sum(dim=1)[:, None, None, None]

    x, t = torch.randn(2, 2, 2, 2, generator=generator), torch.full((2,), 500.0)
    shift = captions.pooled.sum(dim=1)[:, None, None, None]
    torch.testing.assert_close(guided(model, captions, null, 2.5, "all")(x, t), x + 2.5 * shift)
    torch.testing.assert_close(guided(model, captions, null, 1.0, "all")(x, t), x + shift)


def test_scale_one_makes_no_second_pass():
    sizes = []

    def model(x_BCHW, t_B, y_B):
        sizes.append(len(x_BCHW))
        return toy_model(x_BCHW, t_B, y_B)

    x, t, y = torch.randn(2, 1, 2, 2), torch.tensor([5, 5]), torch.tensor([1, 2])
    null = null_condition(y, 10)
    torch.testing.assert_close(guided(model, y, null, 1.0, "all")(x, t), toy_model(x, t, y))
    guided(model, y, null, 2.0, "all")(x, t)
    assert sizes == [2, 4]
