"""What things cost: sums over manifests, and the price of a search as a share of the target run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mudit.report.evidence import Evidence
from mudit.runs import Setting


@dataclass(frozen=True)
class Cost:
    """Model FLOPs, and wall seconds times the threads of all processes."""

    flops: int
    core_seconds: float


@dataclass(frozen=True)
class Search:
    """A search of R trials beside one target run. S trainable parameters, B images per step, T steps."""

    what: str
    artefact: str
    trials: int  # all of them, confirming seeds included
    points: int  # of the first seed: what a search with one seed would have run
    parameters: int
    batch_size: int
    steps: int
    target_parameters: int
    target_batch_size: int
    target_steps: int
    measured: float  # model FLOPs of the search as it ran, over those of one target run

    @property
    def share(self) -> float:
        """R S_p B_p T_p / (S_t B_t T_t): the paper's accounting of tuning cost (appendix D, section 4)."""
        return self._share(self.trials)

    @property
    def share_of_points(self) -> float:
        """The same, counting the first seed only."""
        return self._share(self.points)

    def _share(self, trials: int) -> float:
        search = trials * self.parameters * self.batch_size * self.steps
        return search / (self.target_parameters * self.target_batch_size * self.target_steps)


def spent(manifests: Mapping[str, Mapping[str, Any]], artefacts: Iterable[str]) -> Cost:
    """Sum over artefacts, from their manifests. An artefact without model FLOPs counts its seconds only."""
    runs = [manifests[name]["run"] for name in dict.fromkeys(artefacts)]
    core_seconds = sum(run["wall_s"] * run["threads"] * run["processes"] for run in runs)
    return Cost(sum(run["flops"] or 0 for run in runs), round(core_seconds, 3))


def searches(evidence: Evidence) -> list[Search]:
    """What was searched on the proxy and transferred, then each baseline's own sweep at the target's width."""
    config, found = evidence.config, []
    for name, arm in config.train.arms.items() if config.has("train") else ():
        if arm.log2_lr == "transferred" and evidence.search is not None:
            found.append(_random_search(evidence, name))
        elif arm.log2_lr == "transferred":
            transfer = config.transfer
            setting = Setting(arm.scheme, transfer.proxy_width, transfer.proxy_batch_size)
            found.append(_sweep(evidence, f"{name} on the proxy of width {setting.width}", name, setting, transfer.proxy_steps))
        elif arm.log2_lr == "tuned":
            tuned = config.sweep.tuned
            assert tuned is not None, "config/consistency.py asks for it"
            setting = Setting(arm.scheme, tuned.width, tuned.batch_size)
            found.append(_sweep(evidence, f"{name} at the target's width", name, setting, tuned.steps))
    return found


def _random_search(evidence: Evidence, arm: str) -> Search:
    result = evidence.search
    assert result is not None
    return Search(
        what=f"{arm} by random search on the proxy of width {result.width}",
        artefact="search",
        trials=sum(len(trial.runs) for trial in result.trials),
        points=len(result.trials),
        parameters=result.parameters,
        batch_size=result.batch_size,
        steps=result.steps,
        **_target(evidence, arm, "search"),
    )


def _sweep(evidence: Evidence, what: str, arm: str, setting: Setting, steps: int) -> Search:
    artefact, trials = f"sweep/{setting.name}", evidence.trials[setting.name]
    first = evidence.config.sweep.seeds[0]
    return Search(
        what=what,
        artefact=artefact,
        trials=len(trials),
        points=sum(trial.seed == first for trial in trials),
        parameters=evidence.parameters[setting.name],
        batch_size=setting.batch_size,
        steps=steps,
        **_target(evidence, arm, artefact),
    )


def _target(evidence: Evidence, arm: str, artefact: str) -> dict[str, Any]:
    """The target's side of the formula, and the search's FLOPs over those of one target run."""
    runs = [run for run in evidence.runs if run.target.arm == arm]
    flops = spent(evidence.manifests, [f"train/{run.target.name}" for run in runs]).flops / len(runs)
    chosen = evidence.hyperparameters[arm]
    return {
        "target_parameters": runs[0].outcome["parameters"],
        "target_batch_size": chosen.batch_size,
        "target_steps": chosen.steps,
        "measured": spent(evidence.manifests, [artefact]).flops / flops,
    }
