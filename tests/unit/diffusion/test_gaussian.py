"""The published process and objective against independent sources: diffusers' tables, torch.distributions, hand-made cases."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from mudit.config.schema import GaussianSection
from mudit.diffusion.gaussian import GaussianDiffusion, discretized_log_likelihood

SECTION = GaussianSection(
    kind="gaussian",
    timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    variance="learned-range",
    condition_dropout=0.1,
    alignment_weight=0.0,
)


@pytest.fixture
def process() -> GaussianDiffusion:
    return GaussianDiffusion.linear(SECTION)


def _images(*lead, seed=0):
    return torch.randn(*lead, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_schedule_and_noising_match_diffusers(process):
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    torch.testing.assert_close(process.alpha_bar.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
    x0, noise, t = _images(5), _images(5, seed=1), torch.tensor([0, 1, 500, 998, 999])
    torch.testing.assert_close(process.noised(x0, t, noise), scheduler.add_noise(x0, noise, t), rtol=1e-4, atol=1e-4)


def test_x0_is_recovered_from_the_true_noise(process):
    x0, noise, t = _images(4), _images(4, seed=1), torch.tensor([0, 10, 300, 700])
    torch.testing.assert_close(process.predict_x0(process.noised(x0, t, noise), t, noise), x0, rtol=1e-3, atol=1e-3)


def test_posterior_mean_is_bayes_rule(process):
    """q(x_{t-1} | x_t, x_0) by conditioning the joint Gaussian of (x_{t-1}, x_t) given x_0."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = 400
    alpha_bar_prev = process.alpha_bar[t - 1]
    x0, xt = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.8, dtype=torch.float64)
    mean_prev, var_prev = alpha_bar_prev.sqrt() * x0, 1 - alpha_bar_prev
    gain = var_prev * (1 - beta[t]).sqrt() / (1 - process.alpha_bar[t])
    expected = mean_prev + gain * (xt - (1 - beta[t]).sqrt() * mean_prev)
    image = torch.full((1, 1, 1, 1), 1.0)
    got = process.posterior_mean(image * x0.float(), image * xt.float(), torch.tensor([t]))
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_vb_is_the_kl_of_torch_distributions_in_bits(process):
    x0, noise, t = _images(6), _images(6, seed=1), torch.tensor([1, 5, 50, 300, 700, 999])
    xt = process.noised(x0, t, noise)
    output = torch.cat([noise + 0.3 * _images(6, seed=2), _images(6, seed=3).tanh()], dim=1)
    mse, vb = process.losses(output, x0, xt, t, noise)
    epsilon, fraction = output.chunk(2, dim=1)
    predicted = process.posterior_mean(process.predict_x0(xt, t, epsilon), xt, t)
    true = process.posterior_mean(x0, xt, t)
    low, high = process.table("log_posterior_variance", t), process.table("log_beta", t)
    std = (0.5 * ((fraction + 1) / 2 * high + (1 - fraction) / 2 * low)).exp()
    expected = kl_divergence(Normal(true, (0.5 * low).exp()), Normal(predicted, std)).mean(dim=(1, 2, 3)) / math.log(2)
    torch.testing.assert_close(vb, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(mse, (epsilon - noise).square().mean(dim=(1, 2, 3)))


def test_the_bound_trains_the_variance_only(process):
    x0, noise, t = _images(3), _images(3, seed=1), torch.tensor([0, 200, 900])
    output = torch.cat([noise, 0.1 * noise], dim=1).requires_grad_()
    _, vb = process.losses(output, x0, process.noised(x0, t, noise), t, noise)
    vb.sum().backward()
    assert not output.grad[:, :1].any() and output.grad[:, 1:].any()


def test_first_step_is_a_likelihood_of_8_bit_data():
    """The 256 bins are a partition: their probabilities sum to one, whatever the mean and scale."""
    bins = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(256, 1, 1, 1)
    for mean, log_scale in ((0.0, -1.0), (0.7, -3.0), (-1.4, 0.0)):
        total = discretized_log_likelihood(bins, torch.tensor(mean), torch.tensor(log_scale)).exp().sum()
        assert total.item() == pytest.approx(1.0, abs=1e-6)


def test_leading_dimensions_do_not_matter(process):
    x0, noise = _images(2, 3), _images(2, 3, seed=1)
    t = torch.tensor([[0, 5, 10], [999, 0, 400]])
    xt = process.noised(x0, t, noise)
    output = torch.cat([noise * 0.9, noise * 0.1], dim=-3)
    packed = process.losses(output, x0, xt, t, noise)
    flat = process.losses(*(tensor.flatten(0, 1) for tensor in (output, x0, xt)), t.flatten(), noise.flatten(0, 1))
    for a, b in zip(packed, flat, strict=True):
        torch.testing.assert_close(a.flatten(), b)


def test_a_fixed_variance_leaves_the_noise_alone() -> None:
    """U-ViT: C output channels, squared error only."""
    process = GaussianDiffusion.linear(SECTION.model_copy(update={"variance": "fixed"}))
    x0, noise = torch.randn(2, 4, 1, 3, 3), torch.randn(2, 4, 1, 3, 3)
    t = torch.randint(0, 1000, (2, 4))
    output = torch.randn_like(noise)
    mse, vb = process.losses(output, x0, process.noised(x0, t, noise), t, noise)
    torch.testing.assert_close(mse, ((output - noise) ** 2).flatten(2).mean(2))
    assert not vb.any()


def test_times_cover_every_step_and_quantiles_are_their_inverse() -> None:
    process = GaussianDiffusion.linear(SECTION)
    times = process.draw_times(0, 1, torch.arange(50_000))
    assert times.min() == 0 and times.max() == 999 and abs(times.double().mean() - 499.5) < 6
    assert process.stratified_times(torch.tensor([0.0, 0.5, 1 - 1e-12], dtype=torch.float64)).tolist() == [0, 500, 999]
