"""The global batch of each step as a pure function of (seed, step, place in the batch).

Legend: B images of the batch, C channels, h w latent height and width, N image tokens, Z image features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mudit import random
from mudit.config.models import ModelSection
from mudit.config.schema import AnyDiffusion
from mudit.data.reader import LatentSplit
from mudit.diffusion.objective import make_objective
from mudit.models.condition import Condition, map_condition

_CHUNK = 16  # most steps of random numbers drawn at once ...
_CHUNK_NUMBERS = 1 << 20  # ... and most normals, unless one step has more: bounds memory


class Batch(NamedTuple):
    """What one optimizer step sees, on one device."""

    x0: Tensor  # latents [B, C, h, w], float32
    t: Tensor  # times [B]: int64 steps, or float32 in (0, 1)
    noise: Tensor  # standard normals [B, C, h, w], float32
    condition: Condition  # labels, or captions
    features: Tensor | None  # image features for REPA [B, N, Z], float32

    def map(self, function: Callable[..., Tensor], *others: Batch) -> Batch:
        """Apply a function to corresponding tensors of this batch and others of its kind."""
        batches = (self, *others)

        def part(index: int) -> Tensor:
            return function(*(batch[index] for batch in batches))

        condition = map_condition(function, *(batch.condition for batch in batches))
        return Batch(part(0), part(1), part(2), condition, None if self.features is None else part(4))

    def split(self, count: int) -> list[Batch]:
        """Equal parts, in order; `count` divides the images."""
        size = len(self.t) // count
        return [self.map(lambda tensor, first=first: tensor[first : first + size]) for first in range(0, count * size, size)]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class _Draws(NamedTuple):
    """Random numbers of a batch. The last two are None where the store has nothing random to offer."""

    timestep: Tensor
    noise: Tensor
    dropped: Tensor
    posterior: Tensor | None
    flip: Tensor | None

    def part(self, place: slice) -> _Draws:
        """Those of some samples."""
        posterior = None if self.posterior is None else self.posterior[place]
        flip = None if self.flip is None else self.flip[place]
        return _Draws(self.timestep[place], self.noise[place], self.dropped[place], posterior, flip)


class BatchStream:
    """Batches of a split for one seed. Epochs are seeded permutations laid end to end, so no image is dropped or repeated early."""

    def __init__(
        self,
        split: LatentSplit,
        model: ModelSection,
        diffusion: AnyDiffusion,
        *,
        batch_size: int,
        seed: int,
        places: range | None = None,
        sharing_draws: int | None = None,
    ) -> None:
        """`places`: those of the global batch that this process computes; nothing else is drawn or read. None: all of them.

        `sharing_draws`: places after which random numbers, and not images, repeat (`shared-draws`). None: they do not.
        """
        self._split, self._model, self._diffusion = split, model, diffusion
        self._objective = make_objective(diffusion)
        self._batch_size, self._seed = batch_size, seed
        self._period = sharing_draws or batch_size
        self._places_B = torch.arange(batch_size) if places is None else torch.arange(places.start, places.stop)
        numbers = len(self._places_B) * math.prod(split.latent_shape)
        self._steps_at_once = max(1, min(_CHUNK, _CHUNK_NUMBERS // numbers))
        self._order: dict[int, Tensor] = {}
        self._first = -1  # first step of the chunk of random numbers at hand
        self._chunk: _Draws

    def at(self, step: int) -> Batch:
        """The batch of `step` (from 0), or this process's places of it, on the CPU."""
        draws, indices_B = self._draws(step), self._indices(step)
        return Batch(
            x0=self._split.latents(indices_B, draws.posterior, draws.flip),
            t=draws.timestep,
            noise=draws.noise,
            condition=condition_of(self._split, self._model, indices_B, draws.dropped),
            features=self._split.features(indices_B) if getattr(self._model, "alignment", None) is not None else None,
        )

    def _draws(self, step: int) -> _Draws:
        """Random numbers of a step, from a chunk that is drawn at once: a function call per tensor costs more than its numbers."""
        first, count = step - step % self._steps_at_once, len(self._places_B)
        if first != self._first:
            self._first, self._chunk = first, self._draw(first)
        return self._chunk.part(slice((step - first) * count, (step - first + 1) * count))

    def _draw(self, first: int) -> _Draws:
        """Random numbers of some steps from `first` on, one after another along the batch dimension."""
        seed, shape = self._seed, self._split.latent_shape
        place = (self._places_B % self._period).repeat(self._steps_at_once)
        step = first + torch.arange(self._steps_at_once).repeat_interleave(len(self._places_B))
        return _Draws(
            timestep=self._objective.draw_times(seed, step, place),
            noise=random.normal(seed, "noise", step, place, shape),
            dropped=random.uniform(seed, "label-drop", step, place) < self._diffusion.condition_dropout,
            posterior=random.normal(seed, "posterior", step, place, shape) if self._split.has_std else None,
            flip=random.uniform(seed, "flip", step, place) < 0.5 if self._split.flip else None,
        )

    def _indices(self, step: int) -> Tensor:
        """The global batch is positions step * B .. step * B + B - 1 of the endless sequence of epochs; as image indices."""
        count = len(self._split)
        position_B = step * self._batch_size + self._places_B
        epoch_B, offset_B = position_B // count, position_B % count
        epochs = range(int(epoch_B[0]), int(epoch_B[-1]) + 1)
        self._order = {epoch: self._epoch_order(epoch) for epoch in epochs}
        if len(epochs) == 1:
            return self._order[epochs[0]][offset_B]
        return torch.stack([self._order[int(epoch)][offset] for epoch, offset in zip(epoch_B, offset_B, strict=True)])

    def _epoch_order(self, epoch: int) -> Tensor:
        cached = self._order.get(epoch)
        return random.permutation(self._seed, "order", epoch, len(self._split)) if cached is None else cached


def condition_of(split: LatentSplit, model: ModelSection, indices_B: Tensor, dropped_B: Tensor) -> Condition:
    """What the model is told about these images; dropped ones get the null condition."""
    if model.conditioning == "text":
        return split.text(indices_B, dropped_B)
    null_class: int = model.num_classes  # type: ignore[attr-defined]  # conditioning on labels means that there are classes
    return torch.where(dropped_B, null_class, split.labels(indices_B))
