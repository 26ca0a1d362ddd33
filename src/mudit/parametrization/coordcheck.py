"""Coordinate check: do activations and their updates keep their size as width grows? Measured as log-log slopes.

Three probes of one parametrization (Yang et al. 2022, appendix D.1; paper, appendix on coordinate checks):
  size    rms of every module's output and of the attention logits, at init and after each step
  update  rms of what a layer's own training changed: its present weights on its inputs at init, minus its output at init; so one
          layer's wrong learning rate is not hidden by what the right ones change before it (tables: how far they moved;
          attention logits of modules that do not say how they come about: how far they moved in the whole network)
  decay   the share by which one optimizer step without gradients shrinks each weight, under a probe weight decay: activations
          hardly show a wrong weight-decay rule (known from mup's own users), this shows it exactly
A slope is d log2 rms / d log2 width over all widths and seeds, with a Student interval. muP keeps all of them near zero.

Legend: B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mudit.config.schema import AnyDiffusion, CoordCheckSection, OptimizerSection
from mudit.diffusion.objective import make_objective
from mudit.models.blocks import HasLogits
from mudit.parametrization.apply import parameter_groups, parametrize
from mudit.parametrization.attention import AttentionLogits
from mudit.parametrization.table import ParameterTable
from mudit.select.optimum import slope_interval
from mudit.train.batches import Batch
from mudit.train.loss import aligns, training_loss

Probe = Literal["size", "update", "decay"]
Objective = Callable[[nn.Module], Tensor]  # a model's mean loss on one fixed batch, by one forward pass
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


def measure(
    check: CoordCheckSection,
    optimizer: OptimizerSection,
    diffusion: AnyDiffusion,
    batch: Batch,
    subject: Subject,
    width: int,
    seed: int,
) -> list[Measurement]:
    """`measure_objective` with the training loss of one batch."""
    process = make_objective(diffusion)
    xt = process.noised(batch.x0, batch.t, batch.noise)

    def objective(model: nn.Module) -> Tensor:
        return training_loss(model, process, batch, [diffusion.alignment_weight] if aligns(model) else None, xt).total

    return measure_objective(check, optimizer, objective, subject, width, seed)


def measure_objective(
    check: CoordCheckSection, optimizer_section: OptimizerSection, objective: Objective, subject: Subject, width: int, seed: int
) -> list[Measurement]:
    """Train one model for the configured steps on one fixed batch and record every module before each step and after the last."""
    table = subject.table(width)
    model = parametrize(subject.build(width), table, seed)
    lr = 2.0**check.log2_lr
    measurements = _decay(model, table, lr, width, seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, table, lr=lr, weight_decay=optimizer_section.weight_decay),
        betas=optimizer_section.betas,
        eps=optimizer_section.eps,
        fused=True,
    )
    initial: Recorder | None = None
    for step in range(check.steps + 1):
        with Recorder(model) as recorder:
            loss = objective(model)
        initial = initial or recorder
        sizes = {name: _rms(value) for name, value in recorder.outputs.items()}
        updates = {name: _rms(value) for name, value in initial.updates(recorder).items()} if step else {}
        measurements += [Measurement("size", name, step, width, seed, value) for name, value in sizes.items()]
        measurements += [Measurement("update", name, step, width, seed, value) for name, value in updates.items()]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
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
    """While active, keeps the outputs of every module, the logits of every attention, the tables that blocks hold themselves, and
    the inputs of the layers that own parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._inputs: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._running: list[str] = []  # names of the modules that are being called, the innermost last
        tells = any(isinstance(module, HasLogits) for module in model.modules())
        self._attention = None if tells else AttentionLogits(lambda: f"{self._running[-1]}.logits".lstrip("."))
        self._layers = {name for name, module in model.named_modules() if _is_layer(module)}
        owners = {name: name.rpartition(".")[0] for name, _ in model.named_parameters()}
        self._tables = [name for name, owner in owners.items() if owner not in self._layers]
        self.outputs: dict[str, Tensor] = {}

    def __enter__(self) -> Recorder:
        for name, module in self._model.named_modules():
            if not isinstance(module, nn.Sequential | nn.ModuleList):
                self._handles.append(module.register_forward_pre_hook(self._enter(name)))
                keep = self._keep(name, name in self._layers)
                self._handles.append(module.register_forward_hook(keep, with_kwargs=True))
        if self._attention is not None:
            self._attention.__enter__()
        return self

    @torch.no_grad()
    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        if self._attention is not None:
            self._attention.__exit__(kind, *exception)
        for handle in self._handles:
            handle.remove()
        if kind is not None:
            return  # what was seen is not the whole pass
        self.outputs |= self._logits(self.outputs) | self._seen_logits()
        self.outputs |= {name: self._model.get_parameter(name).detach().clone() for name in self._tables}

    @torch.no_grad()
    def updates(self, later: Recorder) -> dict[str, Tensor]:
        """Each layer's present weights on the recorded inputs, minus the recorded outputs; also of the logits and tables.

        Logits of attentions that torch was seen to compute are those of the `later` pass.
        """
        present = {name: self._model.get_submodule(name).forward(*a, **k) for name, (a, k) in self._inputs.items()}
        present |= self._logits(present) | later._seen_logits()
        present |= {name: self._model.get_parameter(name) for name in self._tables}
        return {name: value - self.outputs[name] for name, value in present.items()}

    def _enter(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, inputs: self._running.append(name)

    def _keep(self, name: str, is_layer: bool) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            self._running.pop()
            if isinstance(output, Tensor):
                self.outputs[name or "output"] = output.detach()
            elif isinstance(output, tuple | list):
                parts = [part.detach() for part in output if isinstance(part, Tensor) and part.is_floating_point()]
                named = {f"{name or 'output'}.{index}": part for index, part in enumerate(parts)}
                if not name:  # a model's first output is its prediction
                    named = {"output": named.pop("output.0"), **named}
                self.outputs |= named
            if is_layer and isinstance(output, Tensor):
                self._inputs[name] = tuple(map(_detached, inputs)), {key: _detached(value) for key, value in keywords.items()}

        return hook

    def _seen_logits(self) -> dict[str, Tensor]:
        """Logits of the attentions that torch was seen to compute."""
        return {} if self._attention is None else self._attention.found

    def _logits(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of every attention from the outputs of its layers."""
        logits = {}
        for name, module in self._model.named_modules():
            if isinstance(module, HasLogits):
                layers = [f"{name}.{layer}" for layer in module.logit_layers]
                logits[f"{name}.logits"] = module.logits([outputs[layer] for layer in layers])
        return logits


def _is_layer(module: nn.Module) -> bool:
    """A module whose own parameters make its output from its input alone."""
    return next(module.parameters(recurse=False), None) is not None and next(module.children(), None) is None


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _decay(model: nn.Module, table: ParameterTable, lr: float, width: int, seed: int) -> list[Measurement]:
    """Shrinkage per weight in one step without gradients: lr times weight-decay multiplier, as the optimizer has them."""
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
