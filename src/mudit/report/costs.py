"""What things cost: sums over manifests, and the price of a search as a share of the target run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mudit.report.evidence import Evidence
from mudit.runs import Setting


@dataclass(frozen=True)
class Cost:
    """Model FLOPs, and wall seconds times threads."""

    flops: int
    core_seconds: float


@dataclass(frozen=True)
class Search:
    """A search of R trials beside one target run. S trainable parameters, B images per step, T steps."""

    what: str
    artefact: str
    trials: int
    parameters: int
    batch_size: int
    steps: int
    target_parameters: int
    target_batch_size: int
    target_steps: int
    measured: float  # model FLOPs of the sweep as it ran, over those of one target run

    @property
    def share(self) -> float:
        """R S_p B_p T_p / (S_t B_t T_t): the paper's accounting of tuning cost (appendix D, section 4)."""
        search = self.trials * self.parameters * self.batch_size * self.steps
        return search / (self.target_parameters * self.target_batch_size * self.target_steps)


def spent(manifests: Mapping[str, Mapping[str, Any]], artefacts: Iterable[str]) -> Cost:
    """Sum over artefacts, from their manifests. An artefact without model FLOPs counts its seconds only."""
    runs = [manifests[name]["run"] for name in dict.fromkeys(artefacts)]
    return Cost(sum(run["flops"] or 0 for run in runs), round(sum(run["wall_s"] * run["threads"] for run in runs), 3))


def searches(evidence: Evidence) -> list[Search]:
    """The proxy sweep whose best learning rate was transferred, then each baseline's own sweep at the target's width."""
    transfer, tuned, arms = evidence.config.transfer, evidence.config.sweep.tuned, evidence.config.train.arms
    found = []
    for name, arm in arms.items():
        if arm.log2_lr == "transferred":
            setting = Setting(arm.scheme, transfer.proxy_width, transfer.proxy_batch_size)
            found.append(_search(evidence, f"{name} on the proxy of width {setting.width}", name, setting, transfer.proxy_steps))
        elif arm.log2_lr == "tuned":
            setting = Setting(arm.scheme, tuned.width, tuned.batch_size)
            found.append(_search(evidence, f"{name} at the target's width", name, setting, tuned.steps))
    return found


def _search(evidence: Evidence, what: str, arm: str, setting: Setting, steps: int) -> Search:
    artefact = f"sweep/{setting.name}"
    runs = [run for run in evidence.runs if run.target.arm == arm]
    target = spent(evidence.manifests, [f"train/{run.target.name}" for run in runs]).flops / len(runs)
    chosen = evidence.hyperparameters[arm]
    return Search(
        what=what,
        artefact=artefact,
        trials=len(evidence.trials[setting.name]),
        parameters=evidence.parameters[setting.name],
        batch_size=setting.batch_size,
        steps=steps,
        target_parameters=runs[0].outcome["parameters"],
        target_batch_size=chosen.batch_size,
        target_steps=chosen.steps,
        measured=spent(evidence.manifests, [artefact]).flops / target,
    )
