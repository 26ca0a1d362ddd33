"""What a model is trained to predict: times, noising and loss terms behind one interface. No network code.

Legend: M probes, `...` leading dimensions (batch, or trials and batch), C channels, h w latent height and width.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from mudit.config.schema import AnyDiffusion, GaussianSection
from mudit.diffusion.flow import RectifiedFlow
from mudit.diffusion.gaussian import GaussianDiffusion

TIME_STREAM = "timestep"


class Losses(NamedTuple):
    """Terms per image (...): the squared error of what is predicted, and the variational bound (zero where there is none)."""

    mse: Tensor
    vb: Tensor


class Objective(Protocol):
    """A process and its loss."""

    def draw_times(self, seed: int, step: int | Tensor, places_B: Tensor) -> Tensor:
        """Training times of samples: a function of seed, step and place in the batch."""
        ...

    def stratified_times(self, quantile_M: Tensor) -> Tensor:
        """The times at quantiles (float64 in [0, 1)) of the training distribution."""
        ...

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of images and standard normals (..., C, h, w)."""
        ...

    def model_time(self, t: Tensor) -> Tensor:
        """What the network gets for times (...): steps 0 .. 999, or as many thousandths."""
        ...

    def losses(self, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor, noise: Tensor) -> Losses | tuple[Tensor, Tensor]:
        """Per-image terms of the training loss, their sum being the published objective."""
        ...


def make_objective(section: AnyDiffusion) -> Objective:
    """The objective that `diffusion` describes."""
    if isinstance(section, GaussianSection):
        return GaussianDiffusion.linear(section)
    return RectifiedFlow(section.logit_mean, section.logit_std)
