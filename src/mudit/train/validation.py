"""Validation loss on a fixed set of (image, t, noise): the number that selects learning rates and compares arms.

The same for every run of an experiment: its spread over runs is the runs' own, not the probe's. Several processes share the probes
and add the losses up in the order in which one process does: the same number up to the rounding of products of other batch sizes.

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
from mudit.jobs.distributed import World, gather
from mudit.models.condition import Condition, TextCondition, map_condition
from mudit.train.batches import condition_of

_HELD_BYTES = 2**28  # of conditions that are kept in memory
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
        self._split, self._model, self._image_M = split, config.model, image_M
        # Many captions' token features are too much to hold, 2 MB each of T5-XXL: then each pass reads its own.
        self._held = self._read(image_M) if _bytes(self._read(image_M[:1])) * count <= _HELD_BYTES else None
        self.xt = self._objective.noised(self.x0, self.t_M, self.noise)

    @torch.inference_mode()
    def losses(self, model: nn.Module, trials: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean (mse, vb) over the probes: scalars, or [K] for a packed model of `trials` trials. No condition is dropped."""
        count = len(self.t_M)
        return self._means([self._terms(model, slice(start, start + _CHUNK), trials) for start in range(0, count, _CHUNK)])

    @torch.inference_mode()
    def shared_losses(self, model: nn.Module, world: World, at_once: int | None) -> tuple[Tensor, Tensor]:
        """`losses` by all processes together, at most `at_once` probes per forward pass.

        Every rank makes as many passes as any other, as sharded models need it.
        """
        count, share = len(self.t_M), -(-len(self.t_M) // world.size)
        # The last ranks repeat the last probe where there are too few, and nobody counts it twice.
        mine = torch.arange(world.rank * share, (world.rank + 1) * share).clamp(max=count - 1)
        parts = [self._terms(model, places, None) for places in mine.split(min(at_once or _CHUNK, _CHUNK))]
        ranks = gather([torch.cat(term) for term in zip(*parts, strict=True)])
        mse_M, vb_M = (torch.cat(term)[:count] for term in zip(*ranks, strict=True))
        return self._means(list(zip(mse_M.split(_CHUNK), vb_M.split(_CHUNK), strict=True)))

    def _terms(self, model: nn.Module, places: slice | Tensor, trials: int | None) -> tuple[Tensor, Tensor]:
        """(mse, vb) of some probes, on the CPU: [probes], or [K, probes]."""
        device = next(model.parameters()).device

        def moved(tensor: Tensor) -> Tensor:
            value = tensor.to(device)
            return value if trials is None else value.expand(trials, *value.shape)

        xt, t, x0, noise = (moved(tensor[places]) for tensor in (self.xt, self.t_M, self.x0, self.noise))
        output = model(xt, self._objective.model_time(t), map_condition(moved, self._condition(places)))
        mse, vb = self._objective.losses(output, x0, xt, t, noise)
        return mse.cpu(), vb.cpu()

    def _condition(self, places: slice | Tensor) -> Condition:
        """What the model is told about some probes."""
        if self._held is None:
            return self._read(self._image_M[places])
        return map_condition(lambda tensor: tensor[places], self._held)

    def _read(self, image_B: Tensor) -> Condition:
        return condition_of(self._split, self._model, image_B, torch.zeros(len(image_B), dtype=torch.bool))

    def _means(self, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Means over all probes of their terms, given in pieces of _CHUNK."""
        mse, vb = torch.zeros(()), torch.zeros(())
        for mse_of_part, vb_of_part in parts:
            mse, vb = mse + mse_of_part.sum(dim=-1), vb + vb_of_part.sum(dim=-1)
        return mse / len(self.t_M), vb / len(self.t_M)


def _bytes(condition: Condition) -> int:
    return sum(tensor.nbytes for tensor in (condition if isinstance(condition, TextCondition) else [condition]))


def validation_loss(model: nn.Module, store: LatentStore, config: Experiment) -> dict[str, float]:
    """{"mse", "vb"} of one plain model on the experiment's fixed probes."""
    mse, vb = ValidationSet(store, config).losses(model)
    return {"mse": mse.item(), "vb": vb.item()}
