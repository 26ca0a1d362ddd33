"""The one training loop of a single run: proxy or target, any family.

State is a function of the step: data, noise and label drops come from `BatchStream`, so a run that was killed and started again
takes the same steps and ends with the same weights, bit for bit on the same machine.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.diffusion.objective import make_objective
from mudit.interrupt import Interrupt, Interrupted
from mudit.models.flops import train_flops
from mudit.models.registry import build
from mudit.parametrization.apply import parameter_groups, parametrize
from mudit.parametrization.table import ParameterTable
from mudit.train.batches import BatchStream
from mudit.train.checkpoint import Checkpoint, CheckpointFolder
from mudit.train.device import compute_device, matmul_precision
from mudit.train.ema import Ema
from mudit.train.knobs import Knobs
from mudit.train.loss import aligns, training_loss
from mudit.train.throughput import Utilisation
from mudit.train.validation import ValidationSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSpec:
    """One run: scale, hyperparameters and what to record. `identity` ties checkpoints to everything that the run depends on."""

    table: ParameterTable
    knobs: Knobs
    seed: int
    batch_size: int
    steps: int
    ema_decay: float
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int
    identity: str


@dataclass
class History:
    """Validation records in order of steps, and whether the run diverged."""

    records: list[dict[str, float]] = field(default_factory=list)
    diverged_at: int | None = None


class Trainer:
    """Model, average, optimizer and history of one run."""

    def __init__(self, config: Experiment, store: LatentStore, spec: RunSpec, state: Path) -> None:
        self.spec, self.step, self.history = spec, 0, History()
        optimizer = config.optimizer
        self.device, self._precision = compute_device(), optimizer.precision
        self.model = parametrize(build(config.model, spec.table.width), spec.table, spec.seed).to(self.device)
        self.ema = Ema(self.model, spec.ema_decay)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, spec.table, lr=spec.knobs.base_lr, weight_decay=optimizer.weight_decay),
            betas=optimizer.betas,
            eps=optimizer.eps,
            fused=True,
        )
        self._full_lr = [group["lr"] for group in self.optimizer.param_groups]
        self._objective = make_objective(config.diffusion)
        self._alignment = [spec.knobs.alignment_weight] if aligns(self.model) else None
        self._validation = ValidationSet(store, config)
        self._batches = BatchStream(
            store.split("train"), config.model, config.diffusion, batch_size=spec.batch_size, seed=spec.seed
        )
        self.utilisation = Utilisation(train_flops(config.model, spec.table.width, spec.batch_size), self.device)
        self._checkpoints = CheckpointFolder(state / "checkpoints", identity=spec.identity, keep=spec.keep_checkpoints)

    def run(self, advance: Callable[[float], Any], record: Callable[[dict[str, float]], Any] = lambda values: None) -> History:
        """Train to the last step. Asked to stop by a signal or a deadline, it writes a checkpoint and raises Interrupted.

        `advance(loss)` is called after each step, `record(values)` with each validation record.
        """
        with Interrupt() as interrupt:
            while self.step < self.spec.steps and self.history.diverged_at is None:
                with self.utilisation.step():
                    loss = self._train_step()
                advance(loss)
                if self.step % self.spec.eval_every == 0 or self.step == self.spec.steps:
                    self._record(loss)
                    record(self.history.records[-1])
                if interrupt.asked:
                    self._checkpoint()
                    log.info("asked to stop: checkpoint written at step %d", self.step)
                    raise Interrupted
                if self.step % self.spec.checkpoint_every == 0 and self.step < self.spec.steps:
                    self._checkpoint()
        return self.history

    def _train_step(self) -> float:
        batch = self._batches.at(self.step).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with matmul_precision(self._precision, self.device):
            loss = training_loss(self.model, self._objective, batch, self._alignment)
        loss.total.backward()
        if self.spec.knobs.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.knobs.clip_norm)
        for group, full_lr in zip(self.optimizer.param_groups, self._full_lr, strict=True):
            group["lr"] = full_lr * self.spec.knobs.warmup(self.step)
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        value = loss.prediction.item()
        if not math.isfinite(value):
            self.history.diverged_at = self.step
            log.warning("loss is not finite at step %d: the run has diverged and ends here, as a result", self.step)
        return value

    def _record(self, train_loss: float) -> None:
        raw_mse, raw_vb = self._validation.losses(self.model)
        ema_mse, ema_vb = self._validation.losses(self.ema.model)
        self.history.records.append(
            {
                "step": self.step,
                "images": self.step * self.spec.batch_size,
                "train": train_loss,
                "mse": raw_mse.item(),
                "vb": raw_vb.item(),
                "ema_mse": ema_mse.item(),
                "ema_vb": ema_vb.item(),
            }
        )

    def _checkpoint(self) -> None:
        tensors = {f"model.{name}": tensor.detach() for name, tensor in self.model.named_parameters()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            for key, tensor in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = tensor
        self._checkpoints.save(
            Checkpoint(self.step, tensors, {"records": self.history.records, "diverged_at": self.history.diverged_at})
        )

    @torch.no_grad()
    def resume(self) -> None:
        """Go to the newest undamaged checkpoint, if there is one. Raises CheckpointError if it is another run's."""
        checkpoint = self._checkpoints.latest()
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            saved = {key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            # A parameter that is frozen, or that the loss does not reach, has no state.
            self.optimizer.state[parameter] = {key: value.to(self.device) for key, value in saved.items() if value is not None}
        for name, average in self.ema.model.named_parameters():
            average.copy_(tensors[f"ema.{name}"])
        self.step = checkpoint.step
        self.history = History(checkpoint.state["records"], checkpoint.state["diverged_at"])
        log.info("resumed from step %d", self.step)
