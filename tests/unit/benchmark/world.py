"""A captioned folder, a store, a run with random weights, and the three benchmarks in their smallest form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.models.families import build
from mudit.parametrization.apply import parametrize
from mudit.parametrization.table import table_for
from mudit.scoped import scoped
from mudit.stages import Job, inputs, parse
from mudit.train.weights import save_weights
from support import ROOT

NAME, RUN, WIDTH = "smoke-pixart", "mup_s0", 16
QUESTIONS: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {
        "tag": "two_object",
        "include": [{"class": "dog", "count": 1}, {"class": "computer mouse", "count": 1}],
        "prompt": "a dog and a computer mouse",
    },
    {
        "tag": "counting",
        "include": [{"class": "dog", "count": 2}],
        "exclude": [{"class": "dog", "count": 3}],
        "prompt": "a photo of two dogs",
    },
    {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
    {
        "tag": "position",
        "include": [{"class": "bench", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        "prompt": "a dog left of a bench",
    },
    {
        "tag": "color_attr",
        "include": [{"class": "bench", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "color": "green"}],
        "prompt": "a red bench and a green dog",
    },
]


def benchmarks(coco: tuple[Path, Path], clip: Path, detector: Path, questions: Path) -> dict[str, Any]:
    """As a configuration has them. The detector's threshold is low, so that a random one finds things."""
    captions, images = map(str, coco)
    return {
        "coco": {
            "kind": "fid-clip",
            "protocol": "any",
            "prompts": {"kind": "coco", "captions": captions, "images": images, "draw_seed": 0},
            "images": 24,
            "max_corrupt_share": 0.1,
            "clip": str(clip),
        },
        "geneval": {
            "kind": "geneval",
            "protocol": "any",
            "prompts": str(questions),
            "images_per_prompt": 2,
            "rules": {"threshold": 0.02, "counting_threshold": 0.02, "max_objects": 16, "max_overlap": 1.0, "position_slack": 0.1},
            "detector": {"path": str(detector), "short_side": 64, "long_side": 128, "detections": 20},
            "clip": str(clip),
        },
    }


def experiment(captioned: Path, sections: dict[str, Any]) -> Experiment:
    """The smoke test's PixArt-α on a folder, with sampling and metrics, and with these benchmarks."""
    config = load(ROOT / "tests/smoke-text/config.yaml")
    raw = {name: section for name, section in config.experiments[NAME].model_dump(mode="json").items() if section is not None}
    other = config.experiments["smoke-mmdit"].model_dump(mode="json")
    raw["data"]["source"]["path"] = str(captioned)
    raw["sample"] = other["sample"] | {"train_seeds": [0], "sampler": "ddpm", "steps": 3, "batch_size": 8}
    raw["evaluate"], raw["benchmarks"] = other["evaluate"], sections
    return Experiment.model_validate_json(json.dumps(raw), strict=True)


def job(made: Experiment, name: str, root: Path, out: Path | None = None) -> Job:
    """A job on artefacts below `root`, with the view of the configuration that the stage declares, and a state beside its `out`."""
    artefact = parse(NAME, name)
    folders = {each.name: root / each.name for each in inputs(artefact, made)}
    out = out or root / name
    out.mkdir(parents=True)
    return Job(NAME, scoped(made, artefact), artefact.key, folders, out, out.with_name(f"{out.name}-state"))


def write_target(folder: Path, made: Experiment, scale: float = 1.0) -> None:
    """A train artefact with weights as initialised, times `scale`, and none of them zero."""
    folder.mkdir(parents=True)
    table = table_for(made.model, WIDTH, "mup")
    model = parametrize(build(made.model, WIDTH), table, seed=0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator)).mul_(scale)
    save_weights(folder, model, model, {"family": "pixart", "scheme": "mup", "width": WIDTH, "parametrization": table.digest})
    outcome = {"arm": "mup", "seed": 0, "ema_decay": 0.9, "alignment_weight": 0.0, "steps": 10}
    (folder / "run.json").write_text(json.dumps(outcome))
