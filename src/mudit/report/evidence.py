"""Everything that the page is made from, read once: manifests, gates, certificate, sweeps, search, target runs, metrics.

An experiment has some of the stages; what the others would have made is empty or None here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.config.schema import Experiment
from mudit.provenance import manifest as manifests
from mudit.report.claims import config_digest
from mudit.runs import Benchmarked, Target
from mudit.search.records import SearchResult
from mudit.select.certificate import Certificate
from mudit.select.hyperparameters import Hyperparameters
from mudit.sweep.records import TrialRecord

if TYPE_CHECKING:
    from mudit.stages import Job

Record = dict[str, Any]


@dataclass(frozen=True)
class TargetRun:
    """One arm and seed: `outcome` is `run.json`, `history` the validation records with finite losses, in order of steps."""

    target: Target
    outcome: dict[str, Any]
    history: list[dict[str, float]]

    @property
    def diverged_at(self) -> int | None:
        """Step, or None if the run finished."""
        step = self.outcome["diverged_at"]
        return None if step is None else int(step)

    def curve(self, loss: str) -> tuple[list[int], list[float]]:
        """Steps and one of `mse`, `ema_mse`, `vb`, `ema_vb`."""
        return [int(record["step"]) for record in self.history], [record[loss] for record in self.history]

    def final(self, loss: str) -> float | None:
        """The last of these losses; None if the run diverged."""
        return None if self.diverged_at is not None else self.history[-1][loss]


@dataclass(frozen=True)
class Evidence:
    """One experiment's artefacts. `folders` and `manifests` go by artefact name (`sweep/mup_w32_b64`)."""

    experiment: str
    config: Experiment
    folders: dict[str, Path]
    manifests: dict[str, dict[str, Any]]
    coordchecks: dict[str, dict[str, Any]]  # family -> coordcheck.json, the experiment's own first
    certificate: Certificate | None
    trials: dict[str, list[TrialRecord]]  # by sweep setting
    parameters: dict[str, int]  # trainable parameters by sweep setting
    search: SearchResult | None
    hyperparameters: dict[str, Hyperparameters]  # by arm
    runs: list[TargetRun]
    imported: dict[str, int]  # name of a checkpoint from elsewhere -> its width
    metrics: dict[str, dict[str, Record]]  # target -> metric -> record
    snapshots: dict[str, dict[int, dict[str, Record]]]  # target -> step before the last -> metric -> record
    benchmarks: dict[str, dict[str, dict[str, Record]]]  # benchmark -> run -> metric -> record
    extractor: dict[str, Any] | None
    scorer: dict[str, Any] | None

    @classmethod
    def read(cls, job: Job) -> Evidence:
        """From the folders of a job of the stage `report`."""
        folders = job.inputs
        sweeps = {key: _json(path / "trials.json") for key, path in _keyed(folders, "sweep")}
        scores = {key: _json(path / "metrics.json") for key, path in _keyed(folders, "evaluate")}
        return cls(
            experiment=job.experiment,
            config=job.config,
            folders=folders,
            manifests={name: _manifest(path) for name, path in folders.items()},
            coordchecks={key: _json(path / "coordcheck.json") for key, path in _keyed(folders, "coordcheck")},
            certificate=Certificate.read(folders["select"]) if "select" in folders else None,
            trials={key: [TrialRecord.model_validate(trial) for trial in sweep["trials"]] for key, sweep in sweeps.items()},
            parameters={key: sweep["parameters"] for key, sweep in sweeps.items()},
            search=SearchResult.read(folders["search"]) if "search" in folders else None,
            hyperparameters={key: Hyperparameters.read(path) for key, path in _keyed(folders, "transfer")},
            runs=[_run(Target.parse(key), path) for key, path in _keyed(folders, "train")],
            imported={key: int(_json(path / "run.json")["width"]) for key, path in _keyed(folders, "imported")},
            metrics={key: _by_metric(each["records"]) for key, each in scores.items()},
            snapshots={key: _by_step(each.get("snapshots", [])) for key, each in scores.items()},
            benchmarks=_benchmarks(_keyed(folders, "benchmark")),
            extractor=_json(folders["extractor"] / "extractor.json") if "extractor" in folders else None,
            scorer=_json(folders["scorer"] / "scorer.json") if "scorer" in folders else None,
        )

    @property
    def family(self) -> str:
        """The experiment's own architecture."""
        return self.config.model.family

    @cached_property
    def arms(self) -> list[str]:
        """Arms in the order of the configuration; none without target runs."""
        return list(self.config.train.arms) if self.config.has("train") else []

    @cached_property
    def subject(self) -> str | None:
        """The arm whose base hyperparameters were transferred: the one that the others are compared with."""
        return next((name for name in self.arms if self.config.train.arms[name].log2_lr == "transferred"), None)

    @cached_property
    def baseline(self) -> str | None:
        """The arm that the paper's claim is against: a rate that nobody tuned, under SP if there is such an arm."""
        stated = [name for name in self.arms if not isinstance(self.config.train.arms[name].log2_lr, str)]
        return next((name for name in stated if self.config.train.arms[name].scheme == "sp"), stated[0] if stated else None)

    @property
    def confidence(self) -> float:
        """Level of the intervals: the certificate's, the search's or, where there is neither, the gate's."""
        for section in ("select", "search"):
            if self.config.has(section):
                return float(getattr(self.config, section).confidence)
        return self.config.coordcheck.confidence

    def of_arm(self, arm: str) -> dict[int, TargetRun]:
        """Seed -> run."""
        return {run.target.seed: run for run in self.runs if run.target.arm == arm}

    def at_step(self, target: Target, step: int) -> dict[str, Record]:
        """Metric -> record of the weights at a step of a target run; empty where they were not evaluated."""
        if step == self.config.train.steps:
            return self.metrics.get(target.name, {})
        return self.snapshots.get(target.name, {}).get(step, {})

    @cached_property
    def config_digest(self) -> str:
        """SHA-256 of all sections of the experiment."""
        return config_digest(self.config)


def _keyed(folders: dict[str, Path], stage: str) -> list[tuple[str, Path]]:
    """Key -> folder of a stage that makes several artefacts."""
    return [(name.partition("/")[2], path) for name, path in folders.items() if name.startswith(stage + "/")]


def _run(target: Target, folder: Path) -> TargetRun:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    finite = [record for record in lines if all(math.isfinite(record[loss]) for loss in ("mse", "vb", "ema_mse", "ema_vb"))]
    return TargetRun(target, _json(folder / "run.json"), finite)


def _by_metric(records: list[Record]) -> dict[str, Record]:
    return {record["metric"]: record for record in records}


def _by_step(records: list[Record]) -> dict[int, dict[str, Record]]:
    steps = sorted({record["step"] for record in records})
    return {step: _by_metric([record for record in records if record["step"] == step]) for step in steps}


def _benchmarks(folders: list[tuple[str, Path]]) -> dict[str, dict[str, dict[str, Record]]]:
    found: dict[str, dict[str, dict[str, Record]]] = {}
    for key, path in folders:
        run, benchmark = Benchmarked.parse(key)
        found.setdefault(benchmark, {})[run] = _by_metric(_json(path / "metrics.json")["records"])
    return found


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = manifests.read(folder)
    assert manifest is not None, f"{folder} is an input without a manifest"
    return manifest


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
