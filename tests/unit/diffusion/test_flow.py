"""Rectified flow: paths, times and loss by the definitions of Esser et al. 2024."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from mudit.config.schema import FlowSection
from mudit.diffusion.flow import RectifiedFlow
from mudit.diffusion.objective import make_objective

FLOW = RectifiedFlow(0.5, 1.2)


def test_the_section_makes_the_process() -> None:
    section = FlowSection(kind="rectified-flow", logit_mean=0.5, logit_std=1.2, condition_dropout=0.1, alignment_weight=0.5)
    quantiles = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    assert torch.equal(make_objective(section).stratified_times(quantiles), FLOW.stratified_times(quantiles))


def test_paths_are_straight_from_image_to_noise() -> None:
    x0, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    xt = FLOW.noised(x0, torch.tensor([0.0, 0.25, 1.0]), noise)
    assert torch.equal(xt[0], x0[0]) and torch.equal(xt[2], noise[2])
    torch.testing.assert_close(xt[1], 0.75 * x0[1] + 0.25 * noise[1])


def test_the_loss_is_the_squared_error_of_the_velocity_per_image() -> None:
    x0, noise, output = (torch.randn(2, 5, 3, 4, 4) for _ in range(3))  # two trials of five images
    t = torch.rand(2, 5)
    mse, vb = FLOW.losses(output, x0, FLOW.noised(x0, t, noise), t, noise)
    expected = ((output - (noise - x0)) ** 2).flatten(2).mean(2)
    torch.testing.assert_close(mse, expected)
    assert not vb.any() and FLOW.losses(noise - x0, x0, x0, t, noise)[0].max() < 1e-12


def test_times_are_logit_normal() -> None:
    times = FLOW.draw_times(0, 3, torch.arange(20_000))
    logits = torch.logit(times.double())
    assert times.min() > 0 and times.max() < 1
    assert abs(logits.mean() - 0.5) < 4 * 1.2 / math.sqrt(20_000) and abs(logits.std() - 1.2) < 0.03
    assert torch.equal(times[40:50], FLOW.draw_times(0, 3, torch.arange(40, 50))), "a function of the place"


@given(st.floats(-2, 2), st.floats(0.2, 3))
def test_quantiles_invert_the_distribution(mean: float, std: float) -> None:
    quantiles = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    times = RectifiedFlow(mean, std).stratified_times(quantiles).double()
    below = torch.special.ndtr((torch.logit(times) - mean) / std)
    torch.testing.assert_close(below, quantiles, atol=1e-3, rtol=0)
    assert (times.diff() > 0).all()


def test_the_network_gets_thousandths() -> None:
    assert FLOW.model_time(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0.0, 500.0, 1000.0]
