"""What a random search found, as typed JSON. Imports no torch and no Optuna: the stage `transfer` reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mudit.config.search import LogRange, StepRange
from mudit.select.records import Bounds, Record
from mudit.sweep.records import RunRecord
from mudit.train.knobs import Knobs

FILE = "search.json"


class Draw(Record):
    """One point of the search space, in the units in which it is drawn uniformly."""

    log2_lr: float
    log2_clip_norm: float
    log2_alignment_weight: float
    warmup_steps: int

    @property
    def knobs(self) -> Knobs:
        """What a run is made with."""
        return Knobs(self.log2_lr, 2.0**self.log2_clip_norm, self.warmup_steps, 2.0**self.log2_alignment_weight)


class SearchRun(RunRecord):
    """A run of one trial, as the journal keeps it."""

    trial: int


class SearchTrial(Record):
    """One draw and its runs: the searching seed's, and the other seeds' if it was among the best."""

    number: int
    draw: Draw
    loss: float | None = Field(description="validation mse of the first seed; null if it diverged")
    mean: float | None = Field(description="mean over all seeds; null if they did not all run it, or one diverged")
    runs: list[RunRecord]


class EffectPoint(Record):
    """The fitted mean rank at one value of a hyperparameter, the others averaged out. Rank 0 is the best trial, 1 the worst."""

    value: float
    rank: float
    interval: Bounds


class Sensitivity(Record):
    """How much one hyperparameter matters, judged by the ranks of all trials' losses; diverged ones share the worst rank."""

    name: str = Field(description="field of the draw; its unit holds for `curve` and `best`")
    share: float = Field(
        description="share of the ranks' variance that a quadratic in this hyperparameter alone explains, adjusted for its two "
        "coefficients: about 0, or below, where there is no effect"
    )
    interval: Bounds = Field(description="bootstrap over trials")
    chance: float = Field(
        description="share that a hyperparameter without effect exceeds by chance with probability 1 - confidence"
    )
    fanova: float = Field(description="second opinion: Optuna's fANOVA, share of variance of a random forest's main effect")
    curve: list[EffectPoint] = Field(description="effect in a fit of all hyperparameters' quadratics together")
    differences: list[list[Bounds]] = Field(
        description="bootstrap over trials of rank[i] - rank[j] of `curve`: the intervals of two points may overlap where their "
        "difference is sure"
    )
    best: float = Field(
        description="value at which that curve is lowest within the range; a quadratic leans away from where trials diverge"
    )
    best_interval: Bounds = Field(description="bootstrap over trials; the whole range if the trials do not say")


class SearchResult(Record):
    """Everything that the search says. Losses are the metric after `steps` optimizer steps."""

    experiment: str
    metric: str
    scheme: str
    width: int
    batch_size: int
    steps: int
    parameters: int
    parametrization: str
    seeds: list[int]
    ranges: dict[str, LogRange | StepRange] = Field(description="field of the draw -> range")
    trials: list[SearchTrial] = Field(description="by number")
    confirmed: list[int] = Field(description="numbers of the trials that every seed ran, best first")
    trial_steps: int = Field(description="optimizer steps of all runs together: what the search cost")
    confidence: float
    sensitivities: list[Sensitivity] | None = Field(description="null if the trials are too few to say")

    @property
    def best(self) -> SearchTrial:
        """The trial with the lowest mean over the seeds."""
        return self.trials[self.confirmed[0]]

    @classmethod
    def read(cls, folder: Path) -> SearchResult:
        """From the artefact of the stage `search`."""
        return cls.model_validate_json((folder / FILE).read_text())
