"""A group of runs of one shape that step together: the engine of the sweeps.

Legend: K trials, B batch, C channels, h w latent height and width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.diffusion.gaussian import GaussianDiffusion
from mudit.models.registry import build
from mudit.parametrization.apply import group_rows, parametrize
from mudit.parametrization.table import ParameterTable
from mudit.train.batches import Batch, BatchStream
from mudit.train.device import compute_device, matmul_precision
from mudit.train.packed import pack, trial_views


@dataclass(frozen=True)
class Member:
    """One run of a group: log2 of its base learning rate and its seed (initialisation, data order, noise)."""

    log2_lr: float
    seed: int


class TrialGroup:
    """K runs with stacked parameters. Runs with one seed share one data and noise stream; each has its own learning rate.

    The optimizer is torch's fused AdamW on each trial's slice, so an update is the very one of a solo run.
    """

    def __init__(
        self, config: Experiment, store: LatentStore, table: ParameterTable, members: Sequence[Member], batch_size: int
    ) -> None:
        self._config, self._table, self.device = config, table, compute_device()
        self._process = GaussianDiffusion.linear(config.diffusion)
        self._streams = {
            seed: BatchStream(
                store.split("train"), config.diffusion, batch_size=batch_size, seed=seed, num_classes=config.model.num_classes
            )
            for seed in sorted({member.seed for member in members})
        }
        self.members = list(members)
        self._stack([self._new_model(member.seed) for member in members])

    def step(self, step: int) -> Tensor:
        """One optimizer step of every trial; returns the training losses (mse + vb) before it, float32 [K]."""
        x0, t, noise, y = self._batch(step)
        for parameter in self._parameters.values():
            parameter.grad = None
        xt = self._process.noised(x0, t, noise)
        with matmul_precision(self._config.optimizer.precision, self.device):
            output = self.model(xt, t, y)
        mse, vb = self._process.losses(output.float(), x0, xt, t, noise)
        loss_K = (mse + vb).mean(dim=-1)
        loss_K.sum().backward()
        for name, parameter in self._parameters.items():
            assert parameter.grad is not None
            for views, gradient in zip(self._views, parameter.grad.unbind(0), strict=True):
                views[name].grad = gradient
        self._optimizer.step()
        return loss_K.detach()

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these trials only: how diverged ones stop costing time."""
        views, states = self._views, self._optimizer.state
        kept = [{name: states[view] for name, view in views[index].items()} for index in indices]
        models = []
        for index in indices:
            model = self._new_model(self.members[index].seed)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(views[index][name].view_as(parameter))
            models.append(model)
        self.members = [self.members[index] for index in indices]
        if not models:
            return
        self._stack(models)
        for views_of_trial, state_of_trial in zip(self._views, kept, strict=True):
            for name, view in views_of_trial.items():
                self._optimizer.state[view] = {key: value.clone() for key, value in state_of_trial[name].items()}

    def _new_model(self, seed: int) -> nn.Module:
        return parametrize(build(self._config.model, self._table.width), self._table, seed)

    def _stack(self, models: list[nn.Module]) -> None:
        optimizer = self._config.optimizer
        self.model = pack(models).to(self.device)
        self._parameters = dict(self.model.named_parameters())
        self._views = trial_views(self.model, len(models))
        rows = {row.name: row for row in self._table.rows}
        groups = [
            group
            for member, views in zip(self.members, self._views, strict=True)
            for group in group_rows(
                ((name, view, rows[name]) for name, view in views.items()), 2.0**member.log2_lr, optimizer.weight_decay
            )
        ]
        self._optimizer = torch.optim.AdamW(groups, betas=optimizer.betas, eps=optimizer.eps, fused=True)

    def _batch(self, step: int) -> Batch:
        batches = {seed: self._streams[seed].at(step).to(self.device) for seed in {member.seed for member in self.members}}
        if len(batches) == 1:
            (batch,) = batches.values()
            return Batch(*(tensor.expand(len(self.members), *tensor.shape) for tensor in batch))
        return Batch(*(torch.stack(tensors) for tensors in zip(*(batches[m.seed] for m in self.members), strict=True)))


def measure_group_size(
    make: Callable[[Sequence[Member]], TrialGroup], members: Sequence[Member], *, steps: int = 3
) -> tuple[int, dict[int, float]]:
    """How many trials to pack: seconds per trial and step at sizes 1, half and all, on this machine, for this shape.

    Results do not depend on the choice (a packed trial equals its solo run), so it may follow a noisy clock.
    Returns the fastest size and all measurements.
    """
    sizes = sorted({1, max(1, len(members) // 2), len(members)})
    seconds = {}
    for size in sizes:
        group = make(members[:size])
        group.step(0)  # allocations and first-call set-up stay out of the figure
        start = time.perf_counter()
        for step in range(1, 1 + steps):
            group.step(step)
        seconds[size] = (time.perf_counter() - start) / steps / size
    return min(seconds, key=seconds.__getitem__), seconds
