"""Images by number from a network: prompts, noise, sampler and decoder of one batch.

Only the network's own products follow `sample.precision`: the sampler's arithmetic is float32, and the decoder's convolutions are
TF32 unless fp32 is asked for. With bf16 the first images are drawn in float32 as well, and how far the two are apart is part of
the set.

Shapes: N compared images, B batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mudit.config.models import ExternalSection, ModelSection
from mudit.config.schema import AnyDiffusion, SampleSection
from mudit.data.encoders import Encoder
from mudit.diffusion.objective import make_objective
from mudit.diffusion.samplers import Model, Sampler, guided, initial_noise, make_sampler
from mudit.evaluate.prompts import Prompt, Prompts
from mudit.evaluate.samples import Samples
from mudit.models.condition import Condition, TextCondition, map_condition
from mudit.models.pixart import PixArt
from mudit.train.device import compute_device, matmul_precision
from mudit.train.parallel import compile_blocks

COMPARED = 16  # images of a set that are drawn in float32, too; all of a smaller one


class NetworkDrawer:
    """Draws any images of one set by number (see `mudit.evaluate.generate.Drawer`).

    The network is made when the first batch is drawn: a set that is finished needs none.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        prompts: Prompts,
        encoder: Encoder,
        sample: SampleSection,
        model: ModelSection,
        diffusion: AnyDiffusion,
        compiled: bool = False,
    ) -> None:
        """`compiled`: by torch.compile, its blocks. Raises ConfigError on a step count that the process cannot have."""
        self.device = compute_device()
        self.batch_size = sample.batch_size
        self._make_network, self._prompts, self._encoder, self._sample = network, prompts, encoder, sample
        self._compiled, self._own_family = compiled, not isinstance(model, ExternalSection)
        self._latent_shape = (model.channels, model.image_size, model.image_size)
        self.image_bytes = encoder.decode(torch.zeros(1, *self._latent_shape)).numel()
        self._sampler: Sampler = make_sampler(sample.sampler, make_objective(diffusion), sample.steps)

    def draw(self, numbers_B: Tensor) -> Samples:
        """The images with these numbers, int64 [B]."""
        prompt, seed = self._prompts.of(numbers_B), self._sample.seed
        latents_BCHW = self._latents(self._network, numbers_B, prompt)
        finite_B = latents_BCHW.isfinite().flatten(1).all(dim=1)
        images_BCHW = self._decoded(latents_BCHW, finite_B)
        seeds_B2 = torch.stack([torch.full_like(numbers_B, seed), numbers_B], dim=1)
        return Samples(images_BCHW, prompt.labels_B, seeds_B2, finite_B, prompt.captions_B, prompt.subjects_B)

    def measured(self, count: int) -> dict[str, Any]:
        """`precision_difference` of bf16 against float32: latents in units of what the network sees, pixels of 0 to 255.

        count: images of the set, of which the first are compared.
        """
        if self._sample.precision != "bf16":
            return {}
        batches = torch.arange(min(COMPARED, count)).split(self.batch_size)
        both = [self._in_batches(self._network, batches)]
        del self._network  # one of them at a time
        both.append(self._in_batches(self._ready("fp32"), batches))
        finite_N = torch.stack(both).isfinite().flatten(2).all(dim=2).all(dim=0)
        latents = [latents_NCHW[finite_N] for latents_NCHW in both]
        pixels = [self._decoded_in_batches(latents_NCHW, finite_N)[finite_N].float() for latents_NCHW in both]
        difference = {"latents": _apart(*latents), "pixels": _apart(*pixels)}
        return {"precision_difference": {"against": "fp32", "images": int(finite_N.sum()), **difference}}

    def _in_batches(self, network: Model, batches: Iterable[Tensor]) -> Tensor:
        """Latents [N, C, H, W] of some images, no more at once than the set is drawn in."""
        return torch.cat([self._latents(network, numbers_B, self._prompts.of(numbers_B)) for numbers_B in batches])

    def _decoded_in_batches(self, latents_NCHW: Tensor, finite_N: Tensor) -> Tensor:
        """Their images, uint8 [N, C, H, W]."""
        parts = zip(latents_NCHW.split(self.batch_size), finite_N.split(self.batch_size), strict=True)
        return torch.cat([self._decoded(latents_BCHW, finite_B) for latents_BCHW, finite_B in parts])

    @cached_property
    def _network(self) -> Model:
        return self._ready(self._sample.precision)

    def _ready(self, precision: str) -> Model:
        network = self._make_network().eval()
        if precision == "bf16" and self._own_family:
            _round_linear(network)
        network.to(self.device)
        if self._compiled:
            compile_blocks(network)
        return _Network(network, precision, self.device)

    @torch.no_grad()
    def _latents(self, network: Model, numbers_B: Tensor, prompt: Prompt) -> Tensor:
        """Latents [B, C, H, W], on the CPU."""
        section = self._sample
        condition, null = (map_condition(lambda part: part.to(self.device), each) for each in (prompt.condition, prompt.null))
        denoiser = guided(network, condition, null, section.guidance, section.guide_channels)
        places_B = numbers_B.to(self.device)
        noise_BCHW = initial_noise(section.seed, places_B, self._latent_shape)
        return self._sampler.sample(denoiser, noise_BCHW, places_B, section.seed).cpu()

    def _decoded(self, latents_BCHW: Tensor, finite_B: Tensor) -> Tensor:
        """Images, uint8 [B, C, H, W]; zeros where latents are not finite."""
        with matmul_precision("fp32" if self._sample.precision == "fp32" else "tf32", self.device):
            images_BCHW = self._encoder.decode(torch.where(finite_B[:, None, None, None], latents_BCHW, 0.0))
        images_BCHW[~finite_B] = 0
        return images_BCHW


class _Network:
    """A network whose products follow a precision and whose output is float32.

    What it makes of the condition alone is made once for all steps that are given the same one.
    """

    def __init__(self, network: nn.Module, precision: str, device: torch.device) -> None:
        self._network, self._precision, self._device = network, precision, device
        self._condition: Condition | None = None
        self._prepared: Any = None

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, condition: Condition) -> Tensor:
        with matmul_precision(self._precision, self._device):
            if condition is not self._condition:
                self._condition = condition
                self._prepared = self._prepare(condition)
            output: Tensor = self._network(x_BCHW, t_B, self._prepared)
        return output.float()

    def _prepare(self, condition: Condition) -> Any:
        if isinstance(self._network, PixArt) and isinstance(condition, TextCondition):
            return self._network.prepare(condition)
        return condition


def _round_linear(network: nn.Module) -> None:
    """Keep the weights of linear layers in bf16, to which autocast would round them in every step."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)


def _apart(ours: Tensor, theirs: Tensor) -> dict[str, float | None]:
    """Largest and mean absolute difference, and the standard deviation of what is compared. None where nothing is."""
    if not len(ours):
        return {"max": None, "mean": None, "std": None}
    difference = (ours - theirs).abs()
    return {"max": difference.max().item(), "mean": difference.mean().item(), "std": theirs.std().item()}
