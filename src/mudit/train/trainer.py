"""The one training loop of a single run: proxy or target, any family, one process or many.

State is a function of the step: data, noise and label drops come from `BatchStream`, so a run that was killed and started again
takes the same steps and ends with the same weights, bit for bit on the same machine with the same number of processes, and to
rounding with another.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mudit.config.published import images_sharing_draws
from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.diffusion.objective import make_objective
from mudit.errors import ResultsError
from mudit.jobs.interrupt import Interrupt, Interrupted
from mudit.models.flops import train_flops
from mudit.parametrization.apply import parameter_groups
from mudit.parametrization.table import ParameterTable
from mudit.train.ahead import Ahead, steps_to_prepare
from mudit.train.batches import Batch, BatchStream
from mudit.train.checkpoint import Checkpoint, CheckpointFolder
from mudit.train.device import compute_device, matmul_precision
from mudit.train.ema import Ema
from mudit.train.knobs import Knobs
from mudit.train.loss import aligns, training_loss
from mudit.train.parallel import Layout, Network
from mudit.train.snapshots import Snapshots
from mudit.train.stored import Stored
from mudit.train.throughput import Utilisation
from mudit.train.validation import ValidationSet

log = logging.getLogger(__name__)

_MOMENTS = ("exp_avg", "exp_avg_sq")


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
    keep_every: int | None = None
    snapshots: tuple[int, ...] = ()


@dataclass
class History:
    """Validation records in order of steps, and whether the run diverged."""

    records: list[dict[str, float]] = field(default_factory=list)
    diverged_at: int | None = None


class Trainer:
    """Model, average, optimizer and history of one run. With several processes, every method is for all of them together."""

    def __init__(self, config: Experiment, store: LatentStore, spec: RunSpec, state: Path, layout: Layout | None = None) -> None:
        """`layout`: how the processes share the run; None: replicated over those that there are."""
        self.spec, self.step, self.history = spec, 0, History()
        self._layout = layout or Layout.of(None, spec.batch_size)
        optimizer = config.optimizer
        self.device, self._precision = compute_device(), optimizer.precision
        self._network = Network(config.model, spec.table, spec.seed, self._layout, self.device)
        self.model = self._network.model
        self.ema = Ema(self.model, self._network.average, spec.ema_decay)
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
        split = store.split("train")
        stream = BatchStream(
            split,
            config.model,
            config.diffusion,
            batch_size=spec.batch_size,
            seed=spec.seed,
            places=self._layout.places,
            sharing_draws=images_sharing_draws(config),
        )
        self._batches = Ahead(stream.at, self.device, steps_to_prepare(split, spec.steps))
        flops = train_flops(config.model, spec.table.width, len(self._layout.places))
        self.utilisation = Utilisation(flops, self.device, self._precision)
        self.checkpoints = CheckpointFolder(
            state / "checkpoints",
            identity=spec.identity,
            keep=spec.keep_checkpoints,
            keep_every=spec.keep_every,
            world=self._layout.world,
        )
        self.snapshots = Snapshots(state / "snapshots", spec.snapshots, self._layout.world)

    def run(self, advance: Callable[[float], Any], record: Callable[[dict[str, float]], Any] = lambda values: None) -> History:
        """Train to the last step. Asked to stop by a signal or a deadline, it writes a checkpoint and raises Interrupted.

        `advance(loss)` is called after each step, `record(values)` with each validation record. A checkpoint that the disk refuses
        is a warning: the run goes on with the older ones, and tries again at the next. Only when it is asked to stop, and would
        lose what it has done since, is that a ResultsError. When any process is asked, all stop, after the same step.
        """
        longest_s = 0.0
        with Interrupt() as interrupt, self._batches:
            while self.step < self.spec.steps and self.history.diverged_at is None:
                started = time.monotonic()
                with self.utilisation.step():
                    own_loss = self._train_step()
                loss, asked, written = self._agreed(own_loss, interrupt)
                advance(loss)
                if self.step % self.spec.eval_every == 0 or self.step == self.spec.steps:
                    self._record(loss)
                    record(self.history.records[-1])
                if self.step in self.snapshots.steps and self.history.diverged_at is None:
                    self.snapshots.take(self.step, self.ema.model)
                if asked:
                    self._stop()
                if written:
                    self._unless_refused(self.checkpoints.finish)
                # One after the last step, too: the disk may refuse the weights that are written then.
                if self.step % self.spec.checkpoint_every == 0 or self.step == self.spec.steps:
                    self._unless_refused(self.checkpoints.finish)
                    self.checkpoints.begin(self._checkpoint())
                longest_s = max(longest_s, time.monotonic() - started)
                # A deadline is looked at once a step, and then a checkpoint must still be written.
                interrupt.margin_s = longest_s + self.checkpoints.seconds
            self._unless_refused(self.checkpoints.finish)
        return self.history

    def _train_step(self) -> float:
        """One optimizer step. Returns the mean loss over this process's images, before the step."""
        batch = self._batches.at(self.step).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch.split(self._layout.passes))
        if self.spec.knobs.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.knobs.clip_norm)
        for group, full_lr in zip(self.optimizer.param_groups, self._full_lr, strict=True):
            group["lr"] = full_lr * self.spec.knobs.warmup(self.step)
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return loss.item()

    def _backward(self, parts: list[Batch]) -> Tensor:
        """Gradients of the mean loss over the global batch. Returns the prediction's mean loss over this process's images."""
        mean = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            with self._network.accumulating(last=number == len(parts)):
                with matmul_precision(self._precision, self.device):
                    loss = training_loss(self._network.call, self._objective, part, self._alignment)
                (loss.total / len(parts)).backward()
            mean += loss.prediction.detach() / len(parts)
        return mean

    def _agreed(self, own_loss: float, interrupt: Interrupt) -> tuple[float, bool, bool]:
        """What all processes hold of the step: its loss, whether any is asked to stop, whether all have written a checkpoint."""
        size = self._layout.world.size
        loss, asked, written = self._layout.summed(
            [own_loss / size, float(interrupt.asked), float(self.checkpoints.written)], self.device
        )
        if not math.isfinite(loss):
            self.history.diverged_at = self.step
            if self._layout.world.main:
                log.warning("loss is not finite at step %d: the run has diverged and ends here, as a result", self.step)
        return loss, asked > 0, written == size

    def _record(self, train_loss: float) -> None:
        raw_mse, raw_vb = self._validation_losses(self.model)
        ema_mse, ema_vb = self._validation_losses(self.ema.model)
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

    def _validation_losses(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        world, at_once = self._layout.world, self._layout.micro_batch
        if world.size == 1 and at_once is None:
            return self._validation.losses(model)
        return self._validation.shared_losses(model, world, at_once)

    def _stop(self) -> None:
        """Write a checkpoint and leave."""
        self._unless_refused(self.checkpoints.finish)
        self.checkpoints.save(self._checkpoint())
        log.info("asked to stop: checkpoint written at step %d", self.step)
        raise Interrupted

    def _unless_refused(self, finish: Callable[[], None]) -> None:
        """A full disk may be free again at the next checkpoint; hours of many processes are not thrown away for it."""
        try:
            finish()
        except ResultsError as error:
            if self._layout.world.main:
                log.warning("%s; the run goes on, and would lose the steps since then if it stopped now", error)

    def _checkpoint(self) -> Checkpoint:
        tensors: dict[str, Tensor] = {f"ema.{name}": tensor for name, tensor in self.ema.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = tensor
        state = {
            "records": list(self.history.records),
            "diverged_at": self.history.diverged_at,
            "snapshots": dict(self.snapshots.taken),
        }
        return Checkpoint(self.step, tensors, state)

    @torch.no_grad()
    def resume(self) -> None:
        """Go to the newest undamaged checkpoint, if there is one.

        Raises CheckpointError if it is another run's, or if a snapshot from before it is damaged.
        """
        checkpoint = self.checkpoints.latest()
        self.snapshots.resume({} if checkpoint is None else checkpoint.state["snapshots"])
        if checkpoint is None:
            return
        stored = checkpoint.tensors
        assert isinstance(stored, Stored)
        for name, parameter in self.model.named_parameters():
            stored.fill(parameter, f"model.{name}")
            # A parameter that is frozen, or that the loss does not reach, has no state.
            if f"optimizer.step.{name}" in stored:
                moments = {key: torch.zeros_like(parameter) for key in _MOMENTS}
                for key, moment in moments.items():
                    stored.fill(moment, f"optimizer.{key}.{name}")
                step = stored[f"optimizer.step.{name}"].to(self.device)
                self.optimizer.state[parameter] = {"step": step, **moments}
        for name, average in self.ema.model.named_parameters():
            stored.fill(average, f"ema.{name}")
        self.step = checkpoint.step
        self.history = History(checkpoint.state["records"], checkpoint.state["diverged_at"])
        log.info("resumed from step %d", self.step)
