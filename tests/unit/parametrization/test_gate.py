"""The gate: muP passes, SP fails, and every planted mistake fails. The list of mistakes is in docs/coordinate-check.md."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from torch import nn

from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.errors import GateError
from mudit.models.families import build
from mudit.parametrization import gate
from mudit.parametrization.coordcheck import Slope, Subject, fit_slopes, measure
from mudit.parametrization.table import ParameterTable, table_for
from mudit.stages import Job
from mudit.train.batches import BatchStream
from support import changed


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


def test_mup_is_flat_and_the_gate_passes(light, digits, digits_folder, tmp_path):
    summary = gate.run(Job("dit-digits", light, "dit", {"data": digits_folder}, tmp_path, tmp_path / "state"))
    assert summary["passed"]
    assert (tmp_path / "coordcheck.json").exists() and (tmp_path / "coordcheck.png").exists()


@pytest.mark.parametrize("family", ["pixart", "uvit", "mmdit"])
def test_the_desk_gate_holds_the_other_families_too(light, digits_folder, tmp_path, family):
    """Labels are the store's, captions and image features random; narrower and shorter than configured, for time."""
    narrow = changed(light, coordcheck__widths=[64, 128, 256], coordcheck__steps=2)
    summary = gate.run(Job("dit-digits", narrow, family, {"data": digits_folder}, tmp_path, tmp_path / "state"))
    report = json.loads((tmp_path / "coordcheck.json").read_text())
    assert summary["passed"] and report["family"] == family and report["schemes"]["sp"]["failed"]
    modules = {slope["name"] for slope in report["schemes"]["mup"]["slopes"]}
    expected = {"pixart": "y_embedder.y_embedding", "uvit": "label_emb", "mmdit": "projector.4"}
    assert expected[family] in modules


def _edit(changes: Callable[[ParameterTable], ParameterTable]) -> Callable[[Experiment], Subject]:
    return lambda config: Subject(
        lambda width: build(config.model, width), lambda width: changes(table_for(config.model, width, "mup"))
    )


def _m(table: ParameterTable) -> float:
    return table.width / table.base_width


def _growing_head(config: Experiment) -> Subject:
    """Four heads at every width, so head_dim grows, with logits still scaled by 1/sqrt(head_dim) instead of 1/head_dim."""

    def four_heads(width: int) -> nn.Module:
        model = build(config.model, width)
        for block in model.blocks:
            block.attn.heads = 2
        return model

    return Subject(four_heads, lambda width: table_for(config.model, width, "mup"))


MISTAKES: dict[str, tuple[Callable[[Experiment], Subject], str, str]] = {
    # name -> (how to make it, the probe that must see it, a name it must be seen at)
    "readout not divided by width": (
        _edit(lambda table: table.with_row("final_layer.linear.weight", forward_multiplier=1.0)),
        "size",
        "final_layer.linear",
    ),
    "one layer's lr not divided by width": (
        _edit(lambda table: table.with_row("blocks.0.mlp.fc1.weight", lr_multiplier=1.0)),
        "update",
        "blocks.0.mlp.fc1",
    ),
    "embedding lr divided by width": (
        _edit(lambda table: table.with_row("y_embedder.embedding_table.weight", lr_multiplier=1 / _m(table))),
        "update",
        "y_embedder.embedding_table",
    ),
    "1/sqrt(d) logits with growing head_dim": (_growing_head, "update", "blocks.0.attn.logits"),
    "weight decay not multiplied by width": (
        _edit(lambda table: table.with_row("blocks.1.attn.qkv.weight", weight_decay_multiplier=1.0)),
        "decay",
        "blocks.1.attn.qkv.weight",
    ),
    "hidden init not divided by sqrt(width)": (
        _edit(lambda table: table.with_row("blocks.0.attn.proj.weight", init_std=0.2)),
        "size",
        "blocks.0.attn.proj",
    ),
    "SP": (lambda config: gate.subject(config.model, "sp"), "update", "blocks.0.mlp.fc1"),
    "SP with muP's init": (lambda config: gate.subject(config.model, "sp-same-init"), "update", "blocks.0.mlp.fc1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_fails_where_it_was_planted(light, digits, mistake):
    make, probe, name = MISTAKES[mistake]
    slopes = _slopes(light, digits, make(light))
    assert any(slope.probe == probe and slope.name == name and not slope.flat for slope in slopes), [
        slope for slope in slopes if slope.probe == probe and slope.name == name
    ]


def test_a_failing_gate_stops_with_the_worst_module_named(light, digits_folder, tmp_path, monkeypatch):
    right = gate.subject
    monkeypatch.setattr(gate, "subject", lambda config, scheme: right(config, "sp"))
    with pytest.raises(GateError, match=r"slopes under muP are not flat, worst .* per doubling of width"):
        gate.run(Job("dit-digits", light, "dit", {"data": digits_folder}, tmp_path, tmp_path / "state"))
    assert not (tmp_path / "coordcheck.json").exists()
    assert (tmp_path / "state" / "coordcheck.png").exists()


def test_a_gate_whose_control_passes_is_no_gate(light, digits_folder, tmp_path, monkeypatch):
    right = gate.subject
    monkeypatch.setattr(gate, "subject", lambda config, scheme: right(config, "mup"))
    with pytest.raises(GateError, match="negative control"):
        gate.run(Job("dit-digits", light, "dit", {"data": digits_folder}, tmp_path, tmp_path / "state"))
