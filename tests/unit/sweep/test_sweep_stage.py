"""The stage `sweep`: what it writes, the readout's multiplier, and going on where it was stopped."""

from __future__ import annotations

import json

import pytest

from mudit.config.search import OutputMultAxis
from mudit.stages import Job
from mudit.sweep import stage
from support import changed


@pytest.fixture
def config(desk):
    return changed(
        desk,
        sweep__schemes=["mup"],
        sweep__log2_lr=[-7.0, -5.0],
        sweep__log2_lr_min=-7.0,
        sweep__log2_lr_max=-5.0,
        sweep__seeds=[0],
        sweep__widths__width=[16],
        sweep__widths__batch_size=8,
        sweep__widths__steps=6,
        sweep__batch_sizes=None,
        sweep__steps=None,
        sweep__tuned=None,
        sweep__output_mults=OutputMultAxis(width=[16], batch_size=8, steps=6, log2_output_mult=[-2, 0, 2]),
        validation__images=16,
        validation__draws=1,
    )


def _sweep(config, data, root, key):
    out = root / "out" / key
    out.mkdir(parents=True)
    summary = stage.run(Job("dit-digits", config, key, {"data": data}, out, root / "state" / key))
    return json.loads((out / "trials.json").read_text()), summary


def test_the_readouts_multiplier_replaces_the_configured_one(config, digits_folder, tmp_path):
    plain, _ = _sweep(config, digits_folder, tmp_path, "mup_w16_b8")
    one, _ = _sweep(config, digits_folder, tmp_path, "mup_w16_b8_o0")
    four, _ = _sweep(config, digits_folder, tmp_path, "mup_w16_b8_o2")
    assert plain["setting"]["log2_output_mult"] is None and four["setting"]["log2_output_mult"] == 2
    assert one["trials"] == plain["trials"], "model.output_mult is 1"
    assert one["parametrization"] == plain["parametrization"] != four["parametrization"]
    assert [trial["log2_lr"] for trial in four["trials"]] == [-7.0, -5.0]
    assert all(a["losses"] != b["losses"] for a, b in zip(one["trials"], four["trials"], strict=True))


def test_finished_trials_are_kept_and_their_cost_still_counts(config, digits_folder, tmp_path):
    whole, first = _sweep(config, digits_folder, tmp_path / "a", "mup_w16_b8")
    state = tmp_path / "b" / "state" / "mup_w16_b8"
    state.mkdir(parents=True)
    lines = (tmp_path / "a" / "state" / "mup_w16_b8" / "trials.jsonl").read_text().splitlines(keepends=True)
    (state / "trials.jsonl").write_text(lines[0])
    resumed, second = _sweep(config, digits_folder, tmp_path / "b", "mup_w16_b8")
    assert resumed == whole
    assert second["flops"] == first["flops"], "a manifest says what the artefact cost, not what its last process cost"
    assert len((state / "trials.jsonl").read_text().splitlines()) == len(lines)
