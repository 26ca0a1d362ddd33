"""A model of someone else through every stage: the sections that docs/own-model.md shows, from gate to finished weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mudit.config.load import load, read
from mudit.config.schema import Experiment
from mudit.models.condition import TextCondition
from mudit.provenance.execute import make
from mudit.select.certificate import Certificate
from mudit.stages import artefacts, parse
from mudit.train.weights import load_model
from support import ROOT

KEPT = ("model", "data", "diffusion", "optimizer", "validation", "coordcheck", "sweep", "select", "transfer", "train", "report")
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "grey": (130, 130, 130)}


def documented(family: str) -> dict[str, Any]:
    """The section `model` that docs/own-model.md shows for a class of diffusers."""
    blocks = re.findall(r"```yaml\n(model:\n.*?)```", (ROOT / "docs/own-model.md").read_text(), re.DOTALL)
    found: list[dict[str, Any]] = [yaml.safe_load(block) for block in blocks]
    return next(each for each in found if each["model"]["factory"].endswith(family))


def smallest(name: str, project: str, parts: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole configuration of a tiny project, and the sections of its experiment `parts` from gate to target run."""
    raw = read(ROOT / "tests" / project / "config.yaml")
    own = {section: value for section, value in raw["experiments"][parts].items() if section in KEPT}
    own["sweep"] |= {"schemes": ["mup"], "batch_sizes": None, "steps": None, "tuned": None}
    own["train"] |= {"width": 64, "steps": 20, "snapshots": [], "arms": {"mup": {"scheme": "mup", "log2_lr": "transferred"}}}
    return raw | {"study": "own", "studies": {"own": [name]}, "experiments": {name: own}}, own


def loaded(raw: dict[str, Any], name: str) -> Experiment:
    Path("config.yaml").write_text(yaml.safe_dump(raw))
    return load(Path("config.yaml")).experiments[name]


@pytest.fixture
def dit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """`diffusers`' unmodified DiTTransformer2DModel, as documented, in the smallest study; the working directory is its folder."""
    monkeypatch.chdir(tmp_path)
    raw, own = smallest("own-dit", "smoke", "smoke")
    own |= documented("diffusers_dit")
    own["coordcheck"] |= {"also": [], "widths": [16, 32, 64, 128]}
    own["sweep"]["widths"] |= {"width": [16, 32]}
    return loaded(raw, "own-dit")


@pytest.fixture
def sd3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """`diffusers`' unmodified SD3Transformer2DModel, as documented but for colours, on captioned squares."""
    monkeypatch.chdir(tmp_path)
    raw, own = smallest("own-sd3", "smoke-text", "smoke-pixart")
    own |= documented("diffusers_sd3")
    own["model"] |= {"channels": 3, "options": own["model"]["options"] | {"in_channels": 3, "out_channels": 3}}
    own["data"] |= {"image_size": 8}
    own["data"]["captions"] |= {"max_tokens": own["model"]["max_tokens"]}
    own["diffusion"] = {
        "kind": "rectified-flow",
        "logit_mean": 0.0,
        "logit_std": 1.0,
        "condition_dropout": 0.1,
        "alignment_weight": 0.0,
    }
    own["optimizer"] |= {"eps": 1e-8}
    own["coordcheck"] |= {"widths": [32, 64, 128, 256], "steps": 3, "tolerance": 0.25}
    own["sweep"]["widths"] |= {"width": [16, 32]}
    draw(Path("captioned"))
    return loaded(raw, "own-sd3")


def draw(folder: Path) -> None:
    """Squares of four colours and nine sizes in two class folders, each with its caption beside it."""
    for style in ("filled", "outlined"):
        (folder / style).mkdir(parents=True)
        for name, colour in COLOURS.items():
            for side in range(3, 12):
                pixels = np.full((16, 16, 3), 255, np.uint8)
                low = 8 - side // 2
                pixels[low : low + side, low : low + side] = colour
                if style == "outlined":
                    pixels[low + 1 : low + side - 1, low + 1 : low + side - 1] = 255
                Image.fromarray(pixels).save(folder / style / f"{name}-{side}.png")
                (folder / style / f"{name}-{side}.txt").write_text(f"{style} {name} square, {side} wide\n")


def make_all(name: str, experiment: Experiment) -> Path:
    """Every stage, from gate to report, with what each must come to. Returns the folder of the target run."""
    made = artefacts(name, experiment)
    for artefact in made:
        make(artefact, experiment, force=False)
    names = [artefact.name for artefact in made]
    assert names[:2] == ["data", "coordcheck/external"]
    assert names[-4:] == ["select", "transfer/mup", "train/mup_s0", "report"]
    gate = json.loads((parse(name, "coordcheck/external").path / "coordcheck.json").read_text())
    assert gate["passed"]
    certificate = Certificate.read(parse(name, "select").path)
    (axis,) = certificate.axes
    assert [setting.value for setting in axis.settings] == [16, 32]
    assert axis.drift_interval is not None
    chosen = json.loads((parse(name, "transfer/mup").path / "hyperparameters.json").read_text())
    proxy = next(setting for setting in axis.settings if setting.value == experiment.transfer.proxy_width)
    assert chosen["log2_lr"] == proxy.best_log2_lr
    folder = parse(name, "train/mup_s0").path
    run = json.loads((folder / "run.json").read_text())
    assert run["diverged_at"] is None
    rows = {row["name"]: row for row in json.loads((parse(name, "report").path / "ledger.json").read_text())["rows"]}
    assert rows["rules-external"]["verdict"] == rows["drift-mup-width"]["verdict"] == "measured", "the paper says nothing of it"
    return folder


def test_an_unmodified_class_of_diffusers_goes_from_gate_to_target(dit: Experiment) -> None:
    model = load_model(make_all("own-dit", dit), dit)
    x, t, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 50]), torch.tensor([3, 10])
    assert model(x, t, labels).shape == (2, 2, 8, 8)


def test_so_does_one_that_reads_captions(sd3: Experiment) -> None:
    model = load_model(make_all("own-sd3", sd3), sd3)
    tokens, mask = torch.randn(2, 12, 384), torch.ones(2, 12, dtype=torch.bool)
    captions = TextCondition(tokens, mask, torch.randn(2, 384), torch.tensor([False, True]))
    assert model(torch.zeros(2, 3, 8, 8), torch.tensor([0.1, 0.9]), captions).shape == (2, 3, 8, 8)
