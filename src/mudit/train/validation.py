"""Validation loss on a fixed set of (image, t, noise): the number that selects learning rates and compares arms.

The same for every run of an experiment: its spread over runs is the runs' own, not the probe's.

Legend: M probes, K packed trials, C channels, h w latent height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mudit import random
from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.diffusion.objective import make_objective
from mudit.errors import ConfigError
from mudit.models.condition import map_condition
from mudit.train.batches import condition_of

_CHUNK = 256  # probes of one forward pass: large enough for full matmul speed, small enough for the cache


class ValidationSet:
    """The fixed probes. Times are stratified: one from each of M equal slices of their distribution, in a seeded order."""

    def __init__(self, store: LatentStore, config: Experiment) -> None:
        section, split = config.validation, store.split("validation")
        if section.images > len(split):
            raise ConfigError(f"validation.images {section.images} is more than the {len(split)} held-out images of the store")
        self._objective = make_objective(config.diffusion)
        count = section.images * section.draws
        probe_M = torch.arange(count)
        image_M = probe_M % section.images
        slice_M = random.permutation(section.seed, "validation-slices", 0, count)
        within_M = random.uniform(section.seed, "validation-timestep", 0, probe_M)
        self.t_M = self._objective.stratified_times((slice_M + within_M) / count)
        self.noise = random.normal(section.seed, "validation-noise", 0, probe_M, split.latent_shape)
        self.x0 = split.latents(image_M)
        self.condition = condition_of(split, config.model, image_M, torch.zeros(count, dtype=torch.bool))
        self.xt = self._objective.noised(self.x0, self.t_M, self.noise)

    @torch.inference_mode()
    def losses(self, model: nn.Module, trials: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean (mse, vb) over the probes: scalars, or [K] for a packed model of `trials` trials. No condition is dropped."""
        sums = [torch.zeros(()), torch.zeros(())]
        device = next(model.parameters()).device
        for start in range(0, len(self.t_M), _CHUNK):
            part = slice(start, start + _CHUNK)

            def taken(tensor: Tensor, part: slice = part) -> Tensor:
                value = tensor[part].to(device)
                return value if trials is None else value.expand(trials, *value.shape)

            xt, t, x0, noise = map(taken, (self.xt, self.t_M, self.x0, self.noise))
            output = model(xt, self._objective.model_time(t), map_condition(taken, self.condition))
            for index, term in enumerate(self._objective.losses(output, x0, xt, t, noise)):
                sums[index] = sums[index] + term.sum(dim=-1).cpu()
        return sums[0] / len(self.t_M), sums[1] / len(self.t_M)


def validation_loss(model: nn.Module, store: LatentStore, config: Experiment) -> dict[str, float]:
    """{"mse", "vb"} of one plain model on the experiment's fixed probes."""
    mse, vb = ValidationSet(store, config).losses(model)
    return {"mse": mse.item(), "vb": vb.item()}
