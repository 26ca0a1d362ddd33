"""The global batch of each step as a pure function of (seed, step, place in the batch).

Legend: B images of the batch, C channels, h w latent height and width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mudit import random
from mudit.config.schema import DiffusionSection
from mudit.data.reader import LatentSplit


class Batch(NamedTuple):
    """What one optimizer step sees."""

    x0_BChw: Tensor  # latents, float32
    t_B: Tensor  # timesteps, int64
    noise_BChw: Tensor  # standard normals, float32
    y_B: Tensor  # labels, int64; num_classes is the null class

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class BatchStream:
    """Batches of a split for one seed. Epochs are seeded permutations laid end to end, so no image is dropped or repeated early."""

    def __init__(self, split: LatentSplit, diffusion: DiffusionSection, *, batch_size: int, seed: int, num_classes: int) -> None:
        self._split, self._diffusion = split, diffusion
        self._batch_size, self._seed, self._num_classes = batch_size, seed, num_classes
        self._order: dict[int, Tensor] = {}

    def at(self, step: int) -> Batch:
        """The batch of `step` (from 0), on the CPU."""
        seed, place_B = self._seed, torch.arange(self._batch_size)
        indices_B = self._indices(step)
        shape = self._split.latent_shape
        posterior = random.normal(seed, "posterior", step, place_B, shape) if self._split.has_std else None
        flip_B = random.uniform(seed, "flip", step, place_B) < 0.5 if self._split.flip else None
        labels_B = self._split.labels(indices_B)
        dropped_B = random.uniform(seed, "label-drop", step, place_B) < self._diffusion.label_dropout
        return Batch(
            x0_BChw=self._split.latents(indices_B, posterior, flip_B),
            t_B=random.integers(seed, "timestep", step, place_B, self._diffusion.timesteps),
            noise_BChw=random.normal(seed, "noise", step, place_B, shape),
            y_B=torch.where(dropped_B, self._num_classes, labels_B),
        )

    def _indices(self, step: int) -> Tensor:
        """Positions step * B .. step * B + B - 1 of the endless sequence of epochs, as image indices."""
        count = len(self._split)
        position_B = step * self._batch_size + torch.arange(self._batch_size)
        epoch_B, offset_B = position_B // count, position_B % count
        epochs = range(int(epoch_B[0]), int(epoch_B[-1]) + 1)
        self._order = {epoch: self._epoch_order(epoch) for epoch in epochs}
        if len(epochs) == 1:
            return self._order[epochs[0]][offset_B]
        return torch.stack([self._order[int(epoch)][offset] for epoch, offset in zip(epoch_B, offset_B, strict=True)])

    def _epoch_order(self, epoch: int) -> Tensor:
        cached = self._order.get(epoch)
        return random.permutation(self._seed, "order", epoch, len(self._split)) if cached is None else cached
