"""Coordinate check: do activations and their updates keep their size as width grows? Measured as log-log slopes.

Three probes of one parametrization (Yang et al. 2022, appendix D.1; paper, appendix on coordinate checks):
  size    rms of every module's output and of the attention logits, at init and after each step
  update  rms of what a layer's own training changed: its present weights on its inputs at init, minus its output at init; so one
          layer's wrong learning rate is not hidden by what the right ones change before it
  decay   the share by which one optimizer step without gradients shrinks each weight, under a probe weight decay: activations
          hardly show a wrong weight-decay rule (known from mup's own users), this shows it exactly
A slope is d log2 rms / d log2 width over all widths and seeds, with a Student interval. muP keeps all of them near zero.

Legend: B batch, N tokens, H heads, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.diffusion.gaussian import GaussianDiffusion
from mudit.models.blocks import Attention
from mudit.parametrization.apply import parameter_groups, parametrize
from mudit.parametrization.table import ParameterTable
from mudit.select.optimum import slope_interval
from mudit.train.batches import BatchStream

Probe = Literal["size", "update", "decay"]
_PROBE_DECAY = 1.0
_SILENT = 1e-12  # rms below which a signal is zero by design (zero-initialised readout, closed gates)


@dataclass(frozen=True)
class Subject:
    """What is checked: how to build the architecture at a width, and its table there."""

    build: Callable[[int], nn.Module]
    table: Callable[[int], ParameterTable]


@dataclass(frozen=True)
class Measurement:
    """One rms: of a module's output (or its change), or a weight's shrinkage."""

    probe: Probe
    name: str
    step: int
    width: int
    seed: int
    rms: float


@dataclass(frozen=True)
class Slope:
    """A fitted slope with its interval. `flat` is the verdict against the tolerance."""

    probe: Probe
    name: str
    step: int
    slope: float
    low: float
    high: float
    flat: bool


def measure(config: Experiment, store: LatentStore, subject: Subject, width: int, seed: int) -> list[Measurement]:
    """Train one model for the configured steps on one fixed batch and record every module before each step and after the last."""
    check = config.coordcheck
    table = subject.table(width)
    model = parametrize(subject.build(width), table, seed)
    lr = 2.0**check.log2_lr
    measurements = _decay(model, table, lr, width, seed)
    stream = BatchStream(
        store.split("train"), config.diffusion, batch_size=check.batch_size, seed=seed, num_classes=config.model.num_classes
    )
    batch, process = stream.at(0), GaussianDiffusion.linear(config.diffusion)
    xt = process.noised(batch.x0_BChw, batch.t_B, batch.noise_BChw)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, table, lr=lr, weight_decay=config.optimizer.weight_decay),
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=True,
    )
    initial: Recorder | None = None
    for step in range(check.steps + 1):
        with Recorder(model) as recorder:
            output = model(xt, batch.t_B, batch.y_B)
        initial = initial or recorder
        sizes = {name: _rms(value) for name, value in recorder.outputs.items()}
        updates = {name: _rms(value) for name, value in initial.updates().items()} if step else {}
        measurements += [Measurement("size", name, step, width, seed, value) for name, value in sizes.items()]
        measurements += [Measurement("update", name, step, width, seed, value) for name, value in updates.items()]
        mse_B, vb_B = process.losses(output, batch.x0_BChw, xt, batch.t_B, batch.noise_BChw)
        optimizer.zero_grad(set_to_none=True)
        (mse_B + vb_B).mean().backward()
        optimizer.step()
    return measurements


def fit_slopes(measurements: list[Measurement], tolerance: float, confidence: float) -> list[Slope]:
    """One slope per (probe, name, step). Signals that are zero by design at every width have none; a non-finite rms is not flat."""
    groups: dict[tuple[Probe, str, int], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.probe, measurement.name, measurement.step), []).append(measurement)
    slopes = []
    for (probe, name, step), group in groups.items():
        values = [measurement.rms for measurement in group]
        if all(value < _SILENT for value in values):
            continue
        if any(not math.isfinite(value) or value < _SILENT for value in values):
            slopes.append(Slope(probe, name, step, math.nan, math.nan, math.nan, flat=False))
            continue
        slope, interval = slope_interval(
            [math.log2(measurement.width) for measurement in group], [math.log2(value) for value in values], confidence
        )
        slopes.append(Slope(probe, name, step, slope, interval.low, interval.high, flat=abs(slope) <= tolerance))
    return slopes


class Recorder:
    """While active, keeps the output of every module that computes one tensor, the logits of every attention, and the inputs of
    the layers that own parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def __enter__(self) -> Recorder:
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Sequential | nn.ModuleList):
                continue
            owns_parameters = next(module.parameters(recurse=False), None) is not None
            self._handles.append(module.register_forward_hook(self._keep(name or "output", owns_parameters)))
            if isinstance(module, Attention):
                self._handles.append(module.qkv.register_forward_hook(self._keep_logits(f"{name}.logits", module.heads)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def updates(self) -> dict[str, Tensor]:
        """Each layer's present weights on the recorded inputs, minus the recorded outputs; for attentions also of the logits."""
        changes = {}
        for name, value in self._inputs.items():
            present = self._model.get_submodule(name).forward(value)
            changes[name] = present - self.outputs[name]
            attention_name, _, leaf = name.rpartition(".")
            attention = self._model.get_submodule(attention_name)
            if leaf == "qkv" and isinstance(attention, Attention):
                logits = f"{attention_name}.logits"
                changes[logits] = _logits(present, attention.heads) - self.outputs[logits]
        return changes

    def _keep(self, name: str, owns_parameters: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.outputs[name] = output.detach()
            if owns_parameters:
                self._inputs[name] = inputs[0].detach()

        return hook

    def _keep_logits(self, name: str, heads: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], qkv: Tensor) -> None:
            self.outputs[name] = _logits(qkv.detach(), heads)

        return hook


def _logits(qkv: Tensor, heads: int) -> Tensor:
    """qkv (B, N, 3D) -> q.k / sqrt(head_dim), (B, H, N, N)."""
    q, k, _ = qkv.unflatten(-1, (3, heads, -1)).unbind(-3)  # each (B, N, H, D/H)
    return torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5


def _decay(model: nn.Module, table: ParameterTable, lr: float, width: int, seed: int) -> list[Measurement]:
    """Shrinkage of each weight in one step without gradients: lr multiplier times weight-decay multiplier, as the optimizer has it."""
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, table, lr=lr, weight_decay=_PROBE_DECAY), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    measurements = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            before = _rms(weights[name])
            if before > _SILENT:
                measurements.append(Measurement("decay", name, 1, width, seed, _rms(parameter - weights[name]) / before))
            parameter.copy_(weights[name])
            parameter.grad = None
    return measurements


def _rms(value: Tensor) -> float:
    return value.double().square().mean().sqrt().item()
