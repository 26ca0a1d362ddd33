"""The gate: muP passes, SP fails, and every planted mistake fails. The mistakes: tests/mistakes.py."""

from __future__ import annotations

import json

import pytest
from torch import nn

from mistakes import MISTAKES, Mistake, of_family, page
from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.errors import GateError
from mudit.models.families import build
from mudit.parametrization import gate
from mudit.parametrization.coordcheck import Slope, Subject, fit_slopes, measure
from mudit.parametrization.table import table_for
from mudit.stages import Job
from mudit.train.batches import BatchStream
from support import ROOT, changed


def _slopes(config: Experiment, store: LatentStore, subject: Subject) -> list[Slope]:
    check, split = config.coordcheck, store.split("train")
    measurements = []
    for seed in check.seeds:
        batch = BatchStream(split, config.model, config.diffusion, batch_size=check.batch_size, seed=seed).at(0)
        for width in check.widths:
            measurements += measure(check, config.optimizer, config.diffusion, batch, subject, width, seed)
    return fit_slopes(measurements, check.tolerance, check.confidence)


@pytest.fixture
def light(desk: Experiment) -> Experiment:
    """The configured check with two seeds: what the gate must see does not need the third."""
    return changed(desk, coordcheck__seeds=[0, 1])


@pytest.fixture
def narrow(light: Experiment) -> Experiment:
    """Narrower and shorter, for time: enough to tell muP from SP."""
    return changed(light, coordcheck__widths=[64, 128, 256], coordcheck__steps=2)


def test_mup_is_flat_and_the_gate_passes(light, digits, digits_folder, tmp_path):
    summary = gate.run(Job("dit-digits", light, "dit", {"data": digits_folder}, tmp_path, tmp_path / "state"))
    assert summary["passed"]
    assert (tmp_path / "coordcheck.json").exists()


@pytest.mark.parametrize("family", ["pixart", "uvit", "mmdit"])
def test_the_desk_gate_holds_the_other_families_too(narrow, digits_folder, tmp_path, family):
    """Labels are the store's, captions and image features random."""
    summary = gate.run(Job("dit-digits", narrow, family, {"data": digits_folder}, tmp_path, tmp_path / "state"))
    report = json.loads((tmp_path / "coordcheck.json").read_text())
    assert summary["passed"] and report["family"] == family and report["schemes"]["sp"]["failed"]
    modules = {slope["name"] for slope in report["schemes"]["mup"]["slopes"]}
    expected = {"pixart": "y_embedder.y_embedding", "uvit": "label_emb", "mmdit": "projector.4"}
    assert expected[family] in modules


def _planted(config: Experiment, mistake: Mistake) -> Subject:
    def architecture(width: int) -> nn.Module:
        model = build(config.model, width)
        for block in model.blocks if mistake.heads else ():
            block.attn.heads = mistake.heads  # logits are still scaled by 1/sqrt(head_dim) instead of 1/head_dim
        return model

    return Subject(architecture, lambda width: mistake.plant(table_for(config.model, width, mistake.scheme)))


@pytest.mark.parametrize("name", of_family("dit"))
def test_a_planted_mistake_is_seen_first_where_and_when_the_table_says(light, digits, name):
    mistake = MISTAKES[name]
    slopes = _slopes(light, digits, _planted(light, mistake))
    seen = [slope for slope in slopes if (slope.probe, slope.name) == (mistake.probe, mistake.place)]
    assert mistake.first_step(slopes) == mistake.step, seen


def test_the_page_on_the_gate_has_the_table_of_mistakes():
    assert page() in (ROOT / "docs/coordinate-check.md").read_text()


def test_a_failing_gate_stops_with_the_worst_module_named(narrow, digits_folder, tmp_path, monkeypatch):
    right = gate.subject
    monkeypatch.setattr(gate, "subject", lambda config, scheme: right(config, "sp"))
    with pytest.raises(GateError, match=r"slopes under muP are not flat, worst .* per doubling of width"):
        gate.run(Job("dit-digits", narrow, "dit", {"data": digits_folder}, tmp_path, tmp_path / "state"))
    assert not (tmp_path / "coordcheck.json").exists()
    header, *slopes = (tmp_path / "state" / "coordcheck.txt").read_text().splitlines()
    assert header.split() == ["scheme", "probe", "step", "slope", "interval", "module"]
    steepness = [abs(float(line.split()[3])) for line in slopes if line.startswith("mup")]
    assert steepness == sorted(steepness, reverse=True) and "NOT FLAT" in slopes[0]


def test_a_gate_whose_control_passes_is_no_gate(narrow, digits_folder, tmp_path, monkeypatch):
    right = gate.subject
    monkeypatch.setattr(gate, "subject", lambda config, scheme: right(config, "mup"))
    with pytest.raises(GateError, match="negative control"):
        gate.run(Job("dit-digits", narrow, "dit", {"data": digits_folder}, tmp_path, tmp_path / "state"))
