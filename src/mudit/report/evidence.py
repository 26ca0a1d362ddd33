"""Everything that the page is made from, read once: manifests, gate, certificate, sweeps, target runs, metrics."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.config.schema import Experiment
from mudit.provenance import manifest as manifests
from mudit.provenance.source import digest
from mudit.runs import Target
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


@dataclass(frozen=True)
class Evidence:
    """One experiment's artefacts. `folders` and `manifests` go by artefact name (`sweep/mup_w32_b64`)."""

    experiment: str
    config: Experiment
    folders: dict[str, Path]
    manifests: dict[str, dict[str, Any]]
    coordcheck: dict[str, Any]
    certificate: Certificate
    trials: dict[str, list[TrialRecord]]
    parameters: dict[str, int]  # trainable parameters by sweep setting
    hyperparameters: dict[str, Hyperparameters]
    runs: list[TargetRun]
    metrics: dict[str, dict[str, Record]]  # target -> metric -> record
    extractor: dict[str, Any]

    @classmethod
    def read(cls, job: Job) -> Evidence:
        """From the folders of a job of the stage `report`."""
        folders = job.inputs
        sweeps = {name.partition("/")[2]: _json(path / "trials.json") for name, path in _of(folders, "sweep")}
        return cls(
            experiment=job.experiment,
            config=job.config,
            folders=folders,
            manifests={name: _manifest(path) for name, path in folders.items()},
            coordcheck=_json(folders["coordcheck"] / "coordcheck.json"),
            certificate=Certificate.read(folders["select"]),
            trials={name: [TrialRecord.model_validate(trial) for trial in sweep["trials"]] for name, sweep in sweeps.items()},
            parameters={name: sweep["parameters"] for name, sweep in sweeps.items()},
            hyperparameters={name.partition("/")[2]: Hyperparameters.read(path) for name, path in _of(folders, "transfer")},
            runs=[_run(Target.parse(name.partition("/")[2]), path) for name, path in _of(folders, "train")],
            metrics={
                name.partition("/")[2]: {record["metric"]: record for record in _json(path / "metrics.json")["records"]}
                for name, path in _of(folders, "evaluate")
            },
            extractor=_json(folders["extractor"] / "extractor.json"),
        )

    @cached_property
    def arms(self) -> list[str]:
        """Arms in the order of the configuration."""
        return list(self.config.train.arms)

    @cached_property
    def subject(self) -> str | None:
        """The arm whose learning rate was transferred: the one that the others are compared with."""
        return next((name for name, arm in self.config.train.arms.items() if arm.log2_lr == "transferred"), None)

    def of_arm(self, arm: str) -> dict[int, TargetRun]:
        """Seed -> run."""
        return {run.target.seed: run for run in self.runs if run.target.arm == arm}

    @cached_property
    def config_digest(self) -> str:
        """SHA-256 of all sections of the experiment."""
        return digest({name: getattr(self.config, name).model_dump(mode="json") for name in Experiment.model_fields})


def _of(folders: dict[str, Path], stage: str) -> list[tuple[str, Path]]:
    return [(name, path) for name, path in folders.items() if name.startswith(stage + "/")]


def _run(target: Target, folder: Path) -> TargetRun:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    finite = [record for record in lines if all(math.isfinite(record[loss]) for loss in ("mse", "vb", "ema_mse", "ema_vb"))]
    return TargetRun(target, _json(folder / "run.json"), finite)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = manifests.read(folder)
    assert manifest is not None, f"{folder} is an input without a manifest"
    return manifest


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
