"""Evidence made by hand: one experiment's artefacts with manifests, small, and with a known answer to every claim."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from mudit.config.schema import Experiment
from mudit.evaluate.samples import Samples, save_samples
from mudit.provenance import manifest as manifests
from mudit.provenance import source
from mudit.runs import Target
from mudit.select import stage as select_stage
from mudit.select import transfer_stage
from mudit.stages import STAGES, Job
from mudit.sweep.plan import Grid, next_trials
from mudit.sweep.records import TrialRecord
from mudit.sweep.settings import settings

BEST = {"mup": -7.0, "sp": -6.0, "sp-same-init": -7.0}
RATES = {"mup": 3.0, "sp-published": 1.0, "sp-tuned": 3.3, "sp-same-init": 3.0}  # of convergence

Inputs = dict[str, Path]


def make_inputs(config: Experiment, data: Path, root: Path, diverged: tuple[str, ...] = ()) -> Inputs:
    """The inputs of the stage `report` under `root`; arms named in `diverged` diverge in every seed."""
    inputs = {name: root / "results" / name for name in STAGES["report"].inputs(config, "")}
    for name, folder in inputs.items():
        folder.mkdir(parents=True)
        stage, _, key = name.partition("/")
        if stage == "data":
            for file in data.iterdir():
                (folder / file.name).symlink_to(file)
        elif stage == "extractor":
            _write(folder / "extractor.json", {"name": "digits-cnn", "accuracy": {"validation": {"value": 0.97, "n": 297}}})
        elif stage == "coordcheck":
            _write(folder / "coordcheck.json", coordcheck())
        elif stage == "sweep":
            _sweep(config, folder, key)
        elif stage == "select":
            select_stage.run(Job("dit-digits", config, "", inputs, folder, root))
        elif stage == "transfer":
            transfer_stage.run(Job("dit-digits", config, key, inputs, folder, root))
        elif stage == "train":
            _train(config, folder, Target.parse(key), diverged)
        elif stage == "sample":
            _sample(folder)
        elif stage == "evaluate":
            _evaluate(folder, key)
        manifests.write(folder, _manifest(name, folder))
    return inputs


def coordcheck(*, mup_failed: int = 0, sp_failed: int = 1) -> dict[str, Any]:
    """The content of `coordcheck.json` with two modules: muP flat, SP growing with exponent 1."""

    def result(exponent: float, failed: int) -> dict[str, Any]:
        modules = ("blocks.0.attn.logits", "blocks.1.attn.logits", "output")
        slopes = [
            {
                "probe": probe,
                "name": name,
                "step": step,
                "slope": exponent,
                "low": exponent - 0.1,
                "high": exponent + 0.1,
                "flat": True,
            }
            for probe in ("size", "update")
            for name in modules
            for step in (1, 2)
        ]
        measurements = [
            {"probe": "update", "name": name, "step": 2, "width": width, "seed": seed, "rms": width**exponent}
            for name in modules
            for width in (16, 32, 64)
            for seed in (0, 1)
        ]
        return {"failed": failed, "worst": slopes[0], "slopes": slopes, "measurements": measurements}

    schemes = {"mup": result(0.02, mup_failed), "sp": result(1.0, sp_failed)}
    return {"tolerance": 0.25, "confidence": 0.95, "widths": [16, 32, 64], "schemes": schemes, "passed": True}


def _sweep(config: Experiment, folder: Path, key: str) -> None:
    """Parabolas: muP's optimum stays, SP's falls by one per doubling of width; two octaves above it everything diverges."""
    setting = next(setting for setting in settings(config.sweep) if setting.name == key)
    horizons = settings(config.sweep)[setting]
    sweep = config.sweep
    grid = Grid(tuple(sweep.log2_lr), sweep.log2_lr_min, sweep.log2_lr_max, tuple(sweep.seeds))
    shift = -math.log2(setting.width / 32) if setting.scheme == "sp" else 0.0
    best = BEST[setting.scheme] + shift
    trials: dict[tuple[float, int], TrialRecord] = {}
    while wanted := next_trials(grid, {k: {h: r.loss(h) for h in horizons} for k, r in trials.items()}, horizons):
        for log2_lr, seed in wanted:
            mse = 0.13 - 0.002 * math.log2(setting.width) + 0.004 * (log2_lr - best - 0.05 * seed) ** 2
            stopped = log2_lr >= best + 2
            trials[log2_lr, seed] = TrialRecord(
                log2_lr=log2_lr,
                seed=seed,
                status="diverged" if stopped else "finished",
                diverged_at=7 if stopped else None,
                first_loss=1.0,
                losses={} if stopped else {h: {"mse": mse + 0.1 / h, "vb": 0.01, "train": mse} for h in horizons},
            )
    _write(
        folder / "trials.json",
        {
            "setting": {},
            "parameters": 12 * setting.width**2,
            "trials": [record.model_dump(mode="json") for record in trials.values()],
        },
    )


def _train(config: Experiment, folder: Path, target: Target, diverged: tuple[str, ...]) -> None:
    train, stopped = config.train, target.arm in diverged
    lines = []
    for step in range(train.eval_every, (train.steps // 2 if stopped else train.steps) + 1, train.eval_every):
        loss = 0.1 + math.exp(-RATES[target.arm] * step / 400) + 0.001 * target.seed
        lines.append({"step": step, "images": step, "train": loss, "mse": loss * 1.02, "vb": 0.01, "ema_mse": loss, "ema_vb": 0.01})
    if stopped:
        lines.append({**lines[-1], "step": train.steps // 2 + 1, "mse": math.nan, "ema_mse": math.nan})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = {"parameters": 12 * train.width**2, "diverged_at": train.steps // 2 + 1 if stopped else None}
    _write(folder / "run.json", outcome)


def _sample(folder: Path) -> None:
    labels_N = torch.arange(100) % 10
    images_NCHW = (labels_N * 25).to(torch.uint8)[:, None, None, None].expand(100, 1, 8, 8).contiguous()
    save_samples(folder / "samples.safetensors", Samples(images_NCHW, labels_N, torch.zeros(100, 2).long(), torch.ones(100).bool()))


def _evaluate(folder: Path, key: str) -> None:
    value = {"mup": 3.0, "sp-published": 9.0}.get(Target.parse(key).arm, 4.0)
    _write(
        folder / "metrics.json", {"run": key, "records": [distance("frechet_distance", value), distance("kernel_distance", value)]}
    )


def distance(metric: str, value: float | None, half: float = 0.5) -> dict[str, Any]:
    """A record of an image metric."""
    record = {"metric": metric, "run": "mup_s0", "value": value, "n": 100, "confidence": 0.95}
    if value is None:
        return {**record, "reason": "3 of 100 generated images are not finite"}
    return {**record, "interval": [value - half, value + half], "matched": {"n": 50, "value": value, "floor": 0.2}}


def _manifest(name: str, folder: Path) -> dict[str, Any]:
    outputs = manifests.outputs(folder)
    flops = {"sweep": 2 * 10**11, "train": 10**12}.get(name.partition("/")[0])
    return {
        "schema": manifests.SCHEMA,
        "artefact": f"dit-digits/{name}",
        "content": source.digest(outputs),
        "digests": {"parameters": source.digest(name), "code": source.digest(folder.name)},
        "environment": {"digest": "e" * 64, "python": "3.11", "packages": {"torch": "2.14.1"}, "lock": None},
        "git": {"commit": "c" * 40, "dirty": False},
        "run": {"device": "cpu", "threads": 2, "wall_s": 1.5, "max_rss_bytes": 2**29, "flops": flops},
        "outputs": outputs,
    }


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
