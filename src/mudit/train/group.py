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
from mudit.diffusion.objective import make_objective
from mudit.models.registry import build
from mudit.parametrization.apply import group_rows, parametrize
from mudit.parametrization.table import ParameterTable
from mudit.train.batches import Batch, BatchStream
from mudit.train.device import compute_device, matmul_precision
from mudit.train.knobs import Knobs
from mudit.train.loss import aligns, training_loss
from mudit.train.packed import Alone, pack, packable, trial_gradients, trial_views


@dataclass(frozen=True)
class Member:
    """One run of a group: its base hyperparameters and its seed (initialisation, data order, noise)."""

    knobs: Knobs
    seed: int


class TrialGroup:
    """K runs with stacked parameters. Runs with one seed share one data and noise stream; each has its own hyperparameters.

    Gradients are clipped and torch's fused AdamW steps on each trial's slice, so an update is the very one of a solo run. A model
    that cannot be packed runs as a group of one.
    """

    def __init__(
        self, config: Experiment, store: LatentStore, table: ParameterTable, members: Sequence[Member], batch_size: int
    ) -> None:
        self._config, self._table, self.device = config, table, compute_device()
        self._objective = make_objective(config.diffusion)
        self._streams = {
            seed: BatchStream(store.split("train"), config.model, config.diffusion, batch_size=batch_size, seed=seed)
            for seed in sorted({member.seed for member in members})
        }
        self.members = list(members)
        self._stack([self._new_model(member.seed) for member in members])

    def step(self, step: int) -> Tensor:
        """One optimizer step of every trial; returns the training losses (mse + vb) before it, float32 [K]."""
        self.model.zero_grad(set_to_none=True)
        weights = [member.knobs.alignment_weight for member in self.members] if self._aligns else None
        with matmul_precision(self._config.optimizer.precision, self.device):
            loss = training_loss(self.model, self._objective, self._batch(step), weights)
        loss.total.sum().backward()
        gradients = trial_gradients(self.model, len(self.members))
        for member, views, gradients_of_trial in zip(self.members, self._views, gradients, strict=True):
            for name, view in views.items():
                view.grad = gradients_of_trial.get(name)
            if member.knobs.clip_norm is not None:
                nn.utils.clip_grad_norm_(views.values(), member.knobs.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = group["full_lr"] * group["knobs"].warmup(step)
        self._optimizer.step()
        return loss.prediction.detach()

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these trials only: how diverged ones stop costing time."""
        views, states = self._views, self._optimizer.state
        kept = [{name: states[view] for name, view in views[index].items()} for index in indices]
        models = []
        for index in indices:
            model = self._new_model(self.members[index].seed)
            with torch.no_grad():
                for name, view in views[index].items():
                    parameter = model.get_parameter(name)
                    parameter.copy_(view.view_as(parameter))
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
        self.packable = packable(models[0])
        self.model = (pack(models) if self.packable else Alone(*models)).to(self.device)
        self._aligns = aligns(models[0])
        self._views = trial_views(self.model, len(models))
        rows = {row.name: row for row in self._table.rows}
        groups = [
            group | {"full_lr": group["lr"], "knobs": member.knobs}
            for member, views in zip(self.members, self._views, strict=True)
            for group in group_rows(
                ((name, view, rows[name]) for name, view in views.items()), member.knobs.base_lr, optimizer.weight_decay
            )
        ]
        self._optimizer = torch.optim.AdamW(groups, betas=optimizer.betas, eps=optimizer.eps, fused=True)

    def _batch(self, step: int) -> Batch:
        batches = {seed: self._streams[seed].at(step).to(self.device) for seed in {member.seed for member in self.members}}
        if len(batches) == 1:
            (batch,) = batches.values()
            return batch.map(lambda tensor: tensor.expand(len(self.members), *tensor.shape))
        first, *others = (batches[member.seed] for member in self.members)
        return first.map(lambda *tensors: torch.stack(tensors), *others)


def measure_group_size(
    make: Callable[[Sequence[Member]], TrialGroup], members: Sequence[Member], *, steps: int = 3
) -> tuple[int, dict[int, float]]:
    """How many trials to pack: seconds per trial and step at sizes 1, half and all, on this machine, for this shape.

    Results do not depend on the choice (a packed trial equals its solo run), so it may follow a noisy clock.
    Returns the fastest size and all measurements.
    """
    if not make(members[:1]).packable:
        return 1, {}
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
