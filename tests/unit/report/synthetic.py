"""Evidence made by hand: one experiment's artefacts with manifests, small, and with a known answer to every claim."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mudit.config.schema import Experiment, SearchSection
from mudit.evaluate.samples import FINAL, Samples, Shard, save_samples, shard_name, write_set
from mudit.provenance import manifest as manifests
from mudit.provenance import source
from mudit.runs import Target
from mudit.search.records import Draw, EffectPoint, SearchResult, SearchTrial, Sensitivity
from mudit.search.space import ranges
from mudit.select import stage as select_stage
from mudit.select import transfer_stage
from mudit.stages import STAGES, Job
from mudit.sweep.plan import Grid, next_trials
from mudit.sweep.records import RunRecord, TrialRecord
from mudit.sweep.settings import settings

BEST = {"mup": -7.0, "sp": -6.0, "sp-same-init": -7.0}
RATES = {"mup": 3.0, "sp-published": 1.0, "sp-tuned": 3.3, "sp-same-init": 3.0, "sp-default": 1.0, "mup-default": 1.5}

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
            accuracy = None if config.model.conditioning == "text" else {"validation": {"value": 0.97, "n": 297}}
            _write(folder / "extractor.json", {"name": config.evaluate.extractor, "accuracy": accuracy})
        elif stage == "scorer":
            _write(folder / "scorer.json", scorer())
        elif stage == "coordcheck":
            _write(folder / "coordcheck.json", coordcheck(key))
        elif stage == "sweep":
            _sweep(config, folder, key)
        elif stage == "search":
            (folder / "search.json").write_text(search(config).model_dump_json())
        elif stage == "select":
            select_stage.run(Job("dit-digits", config, "", inputs, folder, root))
        elif stage == "transfer":
            transfer_stage.run(Job("dit-digits", config, key, inputs, folder, root))
        elif stage == "imported":
            _write(folder / "run.json", {"width": 64, "diverged_at": None})
        elif stage == "train":
            _train(config, folder, Target.parse(key), diverged)
        elif stage == "sample":
            _sample(config, folder)
        elif stage == "evaluate":
            _evaluate(config, folder, key)
        manifests.write(folder, _manifest(name, folder))
    return inputs


def coordcheck(family: str = "dit", *, mup_failed: int = 0, sp_failed: int = 1) -> dict[str, Any]:
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
        for slope in slopes[:failed]:
            steep = max(exponent, 0.5)
            slope |= {"slope": steep, "low": steep - 0.1, "high": steep + 0.1, "flat": False}
        measurements = [
            {"probe": "update", "name": name, "step": 2, "width": width, "seed": seed, "rms": width**exponent}
            for name in modules
            for width in (16, 32, 64)
            for seed in (0, 1)
        ]
        return {"failed": failed, "worst": slopes[0], "slopes": slopes, "measurements": measurements}

    schemes = {"mup": result(0.02, mup_failed), "sp": result(1.0, sp_failed)}
    check = {"tolerance": 0.25, "confidence": 0.95, "widths": [16, 32, 64]}
    return {"family": family, **check, "schemes": schemes, "passed": True}


def _sweep(config: Experiment, folder: Path, key: str) -> None:
    """Parabolas: muP's optimum stays, SP's falls by one per doubling of width; two octaves above it everything diverges.

    The readout's multiplier costs a little on both sides of its best, and moves the best rate down by half.
    """
    setting = next(setting for setting in settings(config.sweep) if setting.name == key)
    horizons = settings(config.sweep)[setting]
    sweep, multiplier = config.sweep, setting.log2_output_mult or 0
    grid = Grid(tuple(sweep.log2_lr), sweep.log2_lr_min, sweep.log2_lr_max, tuple(sweep.seeds))
    shift = -math.log2(setting.width / 32) if setting.scheme == "sp" else -0.5 * multiplier
    best = BEST[setting.scheme] + shift
    trials: dict[tuple[float, int], TrialRecord] = {}
    while wanted := next_trials(grid, {k: {h: r.loss(h) for h in horizons} for k, r in trials.items()}, horizons):
        for log2_lr, seed in wanted:
            mse = (
                0.13
                - 0.002 * math.log2(setting.width)
                + 0.0005 * (multiplier - 0.5) ** 2
                + 0.004 * (log2_lr - best - 0.05 * seed) ** 2
            )
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


def search(config: Experiment, *, draws: int | None = None) -> SearchResult:
    """Uniform draws; a parabola in log2 lr with its best at -7, a slope in the clip below 1, next to nothing from the others."""
    section, generator = config.search, np.random.default_rng(0)
    every = ranges(section)
    trials = []
    for number in range(draws or section.trials):
        values = {name: generator.uniform(each.low, each.high) for name, each in every.items()}
        draw = Draw(**{**values, "warmup_steps": round(values["warmup_steps"])})
        loss = 0.1 + 0.003 * (draw.log2_lr + 7) ** 2 + 0.004 * max(0.0, -draw.log2_clip_norm) + 0.0005 * generator.normal()
        diverged = draw.log2_lr > -5
        trials.append(
            SearchTrial(
                number=number, draw=draw, loss=None if diverged else loss, mean=None, runs=[_run(section, 0, loss, diverged)]
            )
        )
    trained = sorted((trial for trial in trials if trial.loss is not None), key=lambda trial: trial.loss or math.inf)
    confirmed = [trial.number for trial in trained[: section.confirm]]
    for number in confirmed:
        runs = [_run(section, seed, trials[number].loss or 0.0, False) for seed in section.seeds]
        trials[number] = trials[number].model_copy(update={"mean": trials[number].loss, "runs": runs})
    return SearchResult(
        experiment="made",
        metric="validation mse",
        scheme=section.scheme,
        width=section.width,
        batch_size=section.batch_size,
        steps=section.steps,
        parameters=12 * section.width**2,
        parametrization="p" * 64,
        seeds=section.seeds,
        ranges=every,
        trials=trials,
        confirmed=confirmed,
        trial_steps=section.steps * (len(trials) + 2 * len(confirmed)),
        confidence=section.confidence,
        sensitivities=[
            sensitivity("log2_lr", 0.6, (0.45, 0.72), best=-7, best_interval=(-7.4, -6.6), values=(-11, -7, -4)),
            sensitivity("log2_clip_norm", 0.1, (0.02, 0.25), best=0.2, best_interval=(-1.5, 2.0), values=(-6.64, -3.3, 0, 3.32)),
            sensitivity("log2_alignment_weight", 0.0, (-0.02, 0.08), best=0, best_interval=(-4.32, 1), values=(-4.32, 1)),
            sensitivity("warmup_steps", -0.01, (-0.03, 0.07), best=30, best_interval=(0, 60), values=(0, 30, 60)),
        ],
    )


def _run(section: SearchSection, seed: int, loss: float, diverged: bool) -> RunRecord:
    return RunRecord(
        seed=seed,
        status="diverged" if diverged else "finished",
        diverged_at=9 if diverged else None,
        first_loss=1.0,
        losses={} if diverged else {section.steps: {"mse": loss, "vb": 0.0, "train": loss}},
    )


def sensitivity(
    name: str,
    share: float,
    interval: tuple[float, float],
    *,
    best: float,
    best_interval: tuple[float, float],
    values: tuple[float, ...],
    low: float = 0.1,
    high: float = 0.8,
) -> Sensitivity:
    """A made sensitivity whose curve falls from rank `high` at its first value to `low` at its last, within +-0.1."""
    ranks = np.linspace(high, low, len(values)).tolist()
    curve = [
        EffectPoint(value=value, rank=rank, interval=(rank - 0.1, rank + 0.1)) for value, rank in zip(values, ranks, strict=True)
    ]
    return Sensitivity(
        name=name,
        share=share,
        interval=interval,
        chance=0.05,
        fanova=abs(share),
        curve=curve,
        differences=[[(a - b - 0.12, a - b + 0.12) for b in ranks] for a in ranks],
        best=best,
        best_interval=best_interval,
    )


def scorer() -> dict[str, Any]:
    """What the page reads of `scorer.json`."""

    def share(value: float) -> dict[str, Any]:
        return {"value": value, "interval": [value - 0.05, value + 0.05], "n": 16, "chance": 0.1}

    return {
        "held_out_by": "subject",
        "images": {"train": 32, "validation": 16},
        "held_out": {
            "retrieval": {"all": {"text_to_image": {"R@1": share(0.3), "R@5": share(0.6)}}, "classes": {}},
            "style_accuracy": share(0.95),
            "subject_accuracy": share(0.7),
            "composition_accuracy": share(0.66),
        },
    }


def _sample(config: Experiment, folder: Path) -> None:
    count, text = 100, config.model.conditioning == "text"
    labels_N = torch.arange(count) % (2 if text else 10)
    channels, side = config.model.channels, config.model.image_size
    images_NCHW = (labels_N * 25).to(torch.uint8)[:, None, None, None].expand(count, channels, side, side).contiguous()
    captions_N = torch.arange(count) % 16 if text else None
    samples = Samples(images_NCHW, labels_N, torch.zeros(count, 2).long(), torch.ones(count).bool(), captions_N)
    (folder / FINAL).mkdir()
    save_samples(folder / FINAL / shard_name(0), [samples])
    shard = Shard(shard_name(0), count, "0" * 64)
    write_set(folder / FINAL, [shard], {"class_names": list("0123456789")}, ["a thing"] * count if text else None)


def _evaluate(config: Experiment, folder: Path, key: str) -> None:
    if config.has("imported") and key in config.imported:
        records = [distance("frechet_distance", 12.0), distance("spatial_frechet_distance", 6.0), score("inception_score", 50.0)]
        records += [score("precision", 0.6), score("recall", 0.5), distance("kernel_distance", 0.1)]
        _write(folder / "metrics.json", {"run": key, "records": records, "snapshots": []})
        return
    target = Target.parse(key)
    quality = {"mup": 3.0, "sp-published": 9.0, "sp-default": 9.0}.get(target.arm, 4.0) + 0.1 * target.seed
    records = [distance("frechet_distance", quality), distance("kernel_distance", quality)]
    if config.model.conditioning == "text":
        records += [distance("kernel_distance/noto", quality), score("clip_like_score", 30 - quality)]
        records += [
            score(name, 1 - quality / 10, "chance") for name in ("style_accuracy", "subject_accuracy", "composition_accuracy")
        ]
    _write(folder / "metrics.json", {"run": key, "records": records, "snapshots": []})


# Of every record of images: how they were drawn and judged, as no published figure is.
_CONTEXT: dict[str, Any] = {
    "reference": {"kind": "data", "split": "train", "n": 1500, "kept": 1500, "images": "pixels", "sha256": "d" * 64},
    "run": "mup_s0",
    "n": 100,
    "confidence": 0.95,
    "protocol": "any",
    "sampling": {"sampler": "ddpm", "steps": 50, "guidance": 1.0},
    "extractor": {"name": "digits-cnn", "sha256": "d" * 64},
}
AS_PUBLISHED: dict[str, Any] = {
    "n": 50_000,
    "protocol": "fid-50k",
    "sampling": {"sampler": "ddpm", "steps": 250, "guidance": 1.0},
    "extractor": {"name": "inception-v3-compat", "sha256": "i" * 64},
    "reference": {"kind": "file", "file": "reference.npz", "sha256": "r" * 64, "n": None, "kept": 10_000},
}


def score(metric: str, value: float, floor: str = "floor") -> dict[str, Any]:
    """A record of a metric that a text model is judged by: higher is better, with a ceiling."""
    interval = [value - 0.05, value + 0.05]
    limits = {"ceiling": {"value": value + 1, "interval": interval, "n": 16}}
    limits |= {"floor": {"value": 0.01, "interval": interval, "n": 100}} if floor == "floor" else {"chance": 0.1}
    return {**_CONTEXT, "metric": metric, "value": value, "interval": interval, "caution": None, **limits}


def distance(metric: str, value: float | None, half: float = 0.5) -> dict[str, Any]:
    """A record of an image metric."""
    record = {**_CONTEXT, "metric": metric, "value": value}
    if value is None:
        return {**record, "reason": "3 of 100 generated images are not finite"}
    return {**record, "interval": [value - half, value + half], "matched": {"n": 50, "value": value, "floor": 0.2}}


def _manifest(name: str, folder: Path) -> dict[str, Any]:
    outputs = manifests.outputs(folder)
    flops = {"sweep": 2 * 10**11, "search": 10**11, "train": 10**12}.get(name.partition("/")[0])
    return {
        "schema": manifests.SCHEMA,
        "artefact": f"dit-digits/{name}",
        "content": source.digest(outputs),
        "digests": {"parameters": source.digest(name), "code": source.digest(folder.name)},
        "environment": {"digest": "e" * 64, "python": "3.11", "packages": {"torch": "2.14.1"}, "lock": None},
        "git": {"commit": "c" * 40, "dirty": False},
        "run": {"device": "cpu", "processes": 1, "threads": 2, "wall_s": 1.5, "max_rss_bytes": 2**29, "flops": flops},
        "outputs": outputs,
    }


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
