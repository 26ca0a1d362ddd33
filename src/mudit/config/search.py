"""Sections of `config.yaml` that say what is searched: learning-rate grids along the paper's axes, and the random search."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mudit.config.base import Count, Log2, PositiveInt, SchemeName, Section, Seeds


class WidthAxis(Section):
    """Algorithm 1: batch size and steps fixed."""

    width: list[PositiveInt] = Field(min_length=1, description="model widths, in channels; one is a proxy without a check")
    batch_size: PositiveInt = Field(description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")


class BatchAxis(Section):
    """Algorithm 2: width and steps fixed."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: list[PositiveInt] = Field(min_length=2, description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")


class StepAxis(Section):
    """Algorithm 3: width and batch size fixed; the learning rate is constant, so one run serves all horizons."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: PositiveInt = Field(description="images per step")
    steps: list[PositiveInt] = Field(min_length=2, description="optimizer steps")


class OutputMultAxis(Section):
    """The readout's multiplier: batch size and steps fixed, its optimum at each width (the published code's `logstd`)."""

    width: list[PositiveInt] = Field(min_length=1, description="model widths, in channels")
    batch_size: PositiveInt = Field(description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")
    log2_output_mult: list[int] = Field(min_length=3, description="ascending; model.output_mult is replaced by these powers of two")

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if sorted(set(self.log2_output_mult)) != self.log2_output_mult:
            raise ValueError("log2_output_mult must be ascending and without repeats")
        return self


class TunedSetting(Section):
    """A sweep at the target's own width: what muP saves, paid here once to measure regret and to tune the baselines."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: PositiveInt = Field(description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")
    schemes: list[SchemeName] = Field(description="arms that are swept at this width")


class SweepSection(Section):
    """Learning-rate grids for Algorithms 1 to 3 under each scheme."""

    schemes: list[SchemeName] = Field(min_length=1, description="parametrizations")
    log2_lr: list[Log2] = Field(min_length=2, description="first grid of base learning rates")
    log2_lr_min: Log2 = Field(description="the grid never grows below this")
    log2_lr_max: Log2 = Field(description="the grid never grows above this")
    seeds: Seeds = Field(min_length=1, description="the first walks the grid, all measure the points that decide")
    divergence_factor: float = Field(gt=1, description="multiple of the first loss at which a run has diverged")
    widths: WidthAxis = Field(description="Algorithm 1")
    batch_sizes: BatchAxis | None = Field(description="Algorithm 2; null: not run")
    steps: StepAxis | None = Field(description="Algorithm 3; null: not run")
    output_mults: OutputMultAxis | None = Field(description="study of the readout's multiplier; null: not run")
    tuned: TunedSetting | None = Field(description="sweep at the target width; null: not run")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sorted(set(self.log2_lr)) != self.log2_lr:
            raise ValueError("log2_lr must be ascending and without repeats")
        gaps = {round(b - a, 9) for a, b in zip(self.log2_lr, self.log2_lr[1:], strict=False)}
        if len(gaps) > 1:
            raise ValueError("log2_lr must be evenly spaced")
        if self.log2_lr[0] < self.log2_lr_min or self.log2_lr[-1] > self.log2_lr_max:
            raise ValueError("log2_lr must lie between log2_lr_min and log2_lr_max")
        return self


class LogRange(Section):
    """Range of a hyperparameter that is drawn uniformly in its base-2 logarithm."""

    low: Log2 = Field(description="smallest log2")
    high: Log2 = Field(description="largest log2")

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class StepRange(Section):
    """Range of a number of steps that is drawn uniformly."""

    low: Count = Field(description="smallest")
    high: Count = Field(description="largest")

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class SearchSection(Section):
    """Random search of the base hyperparameters on the proxy (paper, MMDiT: 80 trials over four of them)."""

    scheme: SchemeName = Field(description="parametrization of the proxy")
    width: PositiveInt = Field(description="model width of the proxy, in channels")
    batch_size: PositiveInt = Field(description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")
    trials: PositiveInt = Field(description="hyperparameter sets drawn (published: 80)")
    sampler_seed: Count = Field(description="seed of the draws")
    log2_lr: LogRange = Field(description="base learning rate")
    log2_clip_norm: LogRange = Field(description="largest norm of the whole gradient")
    log2_alignment_weight: LogRange = Field(description="weight of the REPA loss")
    warmup_steps: StepRange = Field(description="linear warm-up")
    seeds: Seeds = Field(min_length=1, description="the first runs every trial, all run the best `confirm` trials")
    confirm: PositiveInt = Field(description="trials that all seeds run before the best is chosen: guards against a lucky seed")
    divergence_factor: float = Field(gt=1, description="multiple of the first loss at which a run has diverged")
    confidence: float = Field(gt=0, lt=1, description="level of the sensitivities' intervals")
    resamples: PositiveInt = Field(ge=100, description="bootstrap resamples of the trials behind those intervals")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.confirm > self.trials:
            raise ValueError(f"confirm {self.confirm} must not be above trials {self.trials}")
        if self.warmup_steps.high > self.steps:
            raise ValueError(f"warmup_steps.high {self.warmup_steps.high} must not be above steps {self.steps}")
        return self
