"""A group of runs of one shape that step together: the engine of the sweeps.

Legend: K trials, B batch, C channels, h w latent height and width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mudit.config.published import images_sharing_draws
from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.diffusion.objective import make_objective
from mudit.errors import ConfigError
from mudit.models.families import build
from mudit.parametrization.apply import group_rows, parametrize
from mudit.parametrization.table import ParameterTable
from mudit.train.ahead import Ahead, steps_to_prepare
from mudit.train.batches import Batch, BatchStream
from mudit.train.device import compute_device, matmul_precision
from mudit.train.knobs import Knobs
from mudit.train.loss import aligns, training_loss
from mudit.train.packed import Alone, pack, packable, trial_gradients, trial_views

_OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Member:
    """One run of a group: its base hyperparameters and its seed (initialisation, data order, noise)."""

    knobs: Knobs
    seed: int


class TrialGroup:
    """K runs with stacked parameters. Runs with one seed share one data and noise stream; each has its own hyperparameters.

    Gradients are clipped and torch's fused AdamW steps on each trial's slice, so an update is the very one of a solo run. A model
    that cannot be packed runs as a group of one. With `micro_batch`, images of one trial per forward pass, gradients are summed
    over parts of the batch: the same step to rounding (tests/unit/train/test_packed_memory.py), in less memory.
    """

    def __init__(
        self,
        config: Experiment,
        store: LatentStore,
        table: ParameterTable,
        members: Sequence[Member],
        batch_size: int,
        micro_batch: int | None = None,
        steps: int | None = None,
    ) -> None:
        """`steps` of the runs: where they are known, a GPU's batches are prepared ahead, up to there."""
        self._config, self._table, self.device = config, table, compute_device()
        self._batch_size, self._part_size = batch_size, min(micro_batch or batch_size, batch_size)
        self._objective = make_objective(config.diffusion)
        split, sharing = store.split("train"), images_sharing_draws(config)
        to_prepare = steps_to_prepare(split, steps)

        def stream(seed: int) -> BatchStream:
            return BatchStream(split, config.model, config.diffusion, batch_size=batch_size, seed=seed, sharing_draws=sharing)

        seeds = sorted({member.seed for member in members})
        self._batches = {seed: Ahead(stream(seed).at, self.device, to_prepare) for seed in seeds}
        self.members = list(members)
        self._stack([self._new_model(member.seed) for member in members])

    def step(self, step: int) -> Tensor:
        """One optimizer step of every trial; returns the training losses (mse + vb) before it, float32 [K]."""
        self.model.zero_grad(set_to_none=True)
        weights = [member.knobs.alignment_weight for member in self.members] if self._aligns else None
        loss_K = torch.zeros(len(self.members), device=self.device)
        for part, share in self._parts(step):
            with matmul_precision(self._config.optimizer.precision, self.device):
                loss = training_loss(self.model, self._objective, part, weights)
            (share * loss.total.sum()).backward()
            loss_K += share * loss.prediction.detach()
        gradients = trial_gradients(self.model, len(self.members))
        for member, views, gradients_of_trial in zip(self.members, self._views, gradients, strict=True):
            for name, view in views.items():
                view.grad = gradients_of_trial.get(name)
            if member.knobs.clip_norm is not None:
                nn.utils.clip_grad_norm_(views.values(), member.knobs.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = group["full_lr"] * group["knobs"].warmup(step)
        self._optimizer.step()
        return loss_K

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state of every trial, by its place among the members, as `load` takes them. Not copied."""
        found = {}
        for place, views in enumerate(self._views):
            for name, view in views.items():
                found[f"{place}.weight.{name}"] = view
                # A parameter that the loss does not reach has no state.
                found |= {f"{place}.{key}.{name}": value for key, value in self._optimizer.state.get(view, {}).items()}
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave for a group of the same members. Any device."""
        for place, views in enumerate(self._views):
            for name, view in views.items():
                view.copy_(tensors[f"{place}.weight.{name}"])
                saved = {key: tensors.get(f"{place}.{key}.{name}") for key in _OPTIMIZER_STATE}
                self._optimizer.state[view] = {
                    key: value.to(self.device, copy=True) for key, value in saved.items() if value is not None
                }

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
        for seed in self._batches.keys() - {member.seed for member in self.members}:
            self._batches.pop(seed).close()
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

    def _parts(self, step: int) -> Iterator[tuple[Batch, float]]:
        """The batch of a step in parts that are computed one after another, and the share of the batch that each is."""
        batch = self._batch(step)
        for start in range(0, self._batch_size, self._part_size):
            stop = min(start + self._part_size, self._batch_size)
            yield batch.map(lambda tensor, part=slice(start, stop): tensor[:, part]), (stop - start) / self._batch_size

    def _batch(self, step: int) -> Batch:
        batches = {seed: self._batches[seed].at(step).to(self.device) for seed in {member.seed for member in self.members}}
        if len(batches) == 1:
            (batch,) = batches.values()
            return batch.map(lambda tensor: tensor.expand(len(self.members), *tensor.shape))
        first, *others = (batches[member.seed] for member in self.members)
        return first.map(lambda *tensors: torch.stack(tensors), *others)


def measure_group_size(
    make: Callable[[Sequence[Member]], TrialGroup],
    members: Sequence[Member],
    *,
    rehearse: Callable[[TrialGroup], object] = lambda group: None,
    steps: int = 3,
) -> tuple[int, dict[int, float]]:
    """How many trials to pack: seconds per trial and step at sizes 1, half and all, on this machine, for this shape.

    Where all of them do not fit in the GPU's memory, half as many take their place, and so on. `rehearse` does with a group what
    else a run does with it, so that its memory counts. Results do not depend on the choice (a packed trial equals its solo run), so
    it may follow a noisy clock. Returns the fastest size and all measurements. Raises ConfigError if not even one trial fits.
    """
    if not make(members[:1]).packable:
        return 1, {}
    largest = len(members)
    while (measured := _seconds(make, members[:largest], rehearse, steps)) is None:
        if largest == 1:
            raise ConfigError("one trial does not fit in the GPU's memory; set a smaller micro_batch in this stage's execution")
        largest //= 2
        torch.cuda.empty_cache()
    seconds = {largest: measured}
    for size in {1, max(1, largest // 2)} - {largest}:
        measured = _seconds(make, members[:size], rehearse, steps)
        if measured is not None:
            seconds[size] = measured
    seconds = dict(sorted(seconds.items()))
    return min(seconds, key=seconds.__getitem__), seconds


def _seconds(
    make: Callable[[Sequence[Member]], TrialGroup],
    members: Sequence[Member],
    rehearse: Callable[[TrialGroup], object],
    steps: int,
) -> float | None:
    """Seconds per trial and step of a group; None if it does not fit in the GPU's memory."""
    try:
        group = make(members)
        group.step(0).tolist()  # allocations and first-call set-up stay out of the figure
        rehearse(group)
        start = time.perf_counter()
        for step in range(1, 1 + steps):
            group.step(step).tolist()  # as the sweep does it; a GPU's step has run once its losses are here
        return (time.perf_counter() - start) / steps / len(members)
    except torch.OutOfMemoryError:
        return None
