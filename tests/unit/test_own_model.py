"""A model of someone else through every stage: the section that docs/own-model.md shows, from gate to finished weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from mudit.config.load import load, read
from mudit.config.schema import Experiment
from mudit.provenance.execute import make
from mudit.select.certificate import Certificate
from mudit.stages import artefacts, parse
from mudit.train.weights import load_model
from support import ROOT

KEPT = ("model", "data", "diffusion", "optimizer", "validation", "coordcheck", "sweep", "select", "transfer", "train", "report")


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """`diffusers`' unmodified DiTTransformer2DModel, as documented, in the smallest study; the working directory is its folder."""
    monkeypatch.chdir(tmp_path)
    documented = re.search(r"```yaml\n(model:\n.*?)```", (ROOT / "docs/own-model.md").read_text(), re.DOTALL)
    assert documented is not None
    raw = read(ROOT / "tests/smoke/config.yaml")
    own = {name: section for name, section in raw["experiments"]["smoke"].items() if name in KEPT}
    own |= yaml.safe_load(documented[1])
    own["coordcheck"] |= {"also": [], "widths": [16, 32, 64, 128]}
    own["sweep"] |= {"schemes": ["mup"], "batch_sizes": None, "steps": None, "tuned": None}
    own["sweep"]["widths"] |= {"width": [16, 32]}
    own["train"] |= {"width": 64, "steps": 20, "snapshots": [], "arms": {"mup": {"scheme": "mup", "log2_lr": "transferred"}}}
    raw |= {"study": "own", "studies": {"own": ["own-dit"]}, "experiments": {"own-dit": own}}
    Path("config.yaml").write_text(yaml.safe_dump(raw))
    return load(Path("config.yaml")).experiments["own-dit"]


def test_an_unmodified_class_of_diffusers_goes_from_gate_to_target(experiment: Experiment) -> None:
    made = artefacts("own-dit", experiment)
    for artefact in made:
        make(artefact, experiment, force=False)
    names = [artefact.name for artefact in made]
    assert names[:2] == ["data", "coordcheck/external"]
    assert names[-4:] == ["select", "transfer/mup", "train/mup_s0", "report"]
    gate = json.loads((parse("own-dit", "coordcheck/external").path / "coordcheck.json").read_text())
    assert gate["passed"]
    certificate = Certificate.read(parse("own-dit", "select").path)
    (axis,) = certificate.axes
    assert [setting.value for setting in axis.settings] == [16, 32]
    assert axis.drift_interval is not None
    chosen = json.loads((parse("own-dit", "transfer/mup").path / "hyperparameters.json").read_text())
    proxy = next(setting for setting in axis.settings if setting.value == experiment.transfer.proxy_width)
    assert chosen["log2_lr"] == proxy.best_log2_lr
    folder = parse("own-dit", "train/mup_s0").path
    run = json.loads((folder / "run.json").read_text())
    assert run["diverged_at"] is None
    rows = {row["name"]: row for row in json.loads((parse("own-dit", "report").path / "ledger.json").read_text())["rows"]}
    assert rows["rules-external"]["verdict"] == rows["drift-mup-width"]["verdict"] == "measured", "the paper says nothing of it"
    model = load_model(folder, experiment)
    x, t, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 50]), torch.tensor([3, 10])
    assert model(x, t, labels).shape == (2, 2, 8, 8)
