"""Exactly the right artefacts go stale, each with its reason."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mudit.errors import ProvenanceError
from mudit.provenance import source
from mudit.provenance.verdict import causes, inspect
from project import Project

SWEEP = [
    "sweep/mup_w32_b16",
    "sweep/sp-same-init_w32_b16",
    "sweep/sp_w32_b16",
    "sweep/mup_w16_b32",
    "sweep/sp_w16_b32",
    "sweep/mup_w16_b16",
    "sweep/sp_w16_b16",
]
ARMS = ["mup", "sp-published", "sp-tuned", "sp-same-init"]
AFTER_SELECT = [
    "select",
    *(f"transfer/{arm}" for arm in ARMS),
    *(f"{stage}/{arm}_s0" for stage in ("train", "sample", "evaluate") for arm in ARMS),
    "report",
]


@pytest.fixture
def made(project: Project) -> Project:
    project.make_all()
    assert set(project.states().values()) == {"fresh"}
    return project


def stale(project: Project) -> list[str]:
    return [name for name, state in project.states().items() if state == "stale"]


def test_nothing_is_there_at_first(project: Project) -> None:
    assert set(project.states().values()) == {"missing"}


def test_an_edited_grid_makes_sweeps_and_what_follows_stale(made: Project) -> None:
    made.edit_config("log2_lr: [-8, -6, -4, -2]", "log2_lr: [-8, -6, -4]")
    assert set(stale(made)) == {*SWEEP, *AFTER_SELECT}
    assert made.verdict("sweep/mup_w16_b16").reasons == ("parameter sweep.log2_lr: [-8.0, -6.0, -4.0, -2.0] -> [-8.0, -6.0, -4.0]",)
    assert made.verdict("transfer/mup").reasons == ("input select is stale",)


def test_one_arms_learning_rate_makes_that_arm_stale(made: Project) -> None:
    made.edit_config("-13.287712379549449", "-12")
    assert stale(made) == [
        f"{stage}/sp-published{suffix}"
        for stage, suffix in [("transfer", ""), ("train", "_s0"), ("sample", "_s0"), ("evaluate", "_s0")]
    ] + ["report"]
    assert made.verdict("transfer/sp-published").reasons == (
        "parameter train.arms.sp-published.log2_lr: -13.287712379549449 -> -12.0",
    )


def test_a_longer_horizon_concerns_the_settings_that_use_it(made: Project) -> None:
    made.edit_config("steps: [10, 20]", "steps: [10, 20, 40]")
    assert stale(made)[:2] == ["sweep/mup_w16_b16", "sweep/sp_w16_b16"]
    assert made.verdict("sweep/mup_w16_b16").reasons == ("parameter sweep.horizons: [10, 20] -> [10, 20, 40]",)


def test_another_seed_adds_runs_and_keeps_the_finished_ones(made: Project) -> None:
    made.edit_config("seeds: [0]\n      ema", "seeds: [0, 1]\n      ema")
    states = made.states()
    assert [name for name, state in states.items() if state == "missing"] == [f"train/{arm}_s1" for arm in ARMS]
    assert states["train/mup_s0"] == "fresh"
    assert "input train/mup_s1 is new" in made.verdict("report").reasons


def test_the_title_concerns_the_report_only(made: Project) -> None:
    made.edit_config("title: Smoke test", "title: Another")
    assert stale(made) == ["report"]


def test_cosmetic_edits_make_nothing_stale(made: Project) -> None:
    made.edit_code("mudit.shared", "FACTOR = 2", "# twice\nFACTOR = 2")
    made.edit_code("mudit.sweep.stage", '"""Make it."""', '"""Make one."""')
    made.edit_config("# A complete project", "# The smallest project")
    assert stale(made) == []


def test_changed_code_is_named(made: Project) -> None:
    made.edit_code("mudit.train.stage", "return FACTOR", "return FACTOR + 1")
    assert made.verdict("train/mup_s0").reasons == ("code mudit.train.stage changed",)
    assert stale(made)[0] == "train/mup_s0"
    made.edit_code("mudit.shared", "FACTOR = 2", "FACTOR = 3")
    assert made.verdict("data").reasons == ("code mudit.shared changed",)


def test_reasons_are_counted_when_there_are_many(made: Project) -> None:
    for old, new in [
        ("depth: 1", "depth: 2"),
        ("mlp_ratio: 2", "mlp_ratio: 4"),
        ("beta_start: 1.0e-3", "beta_start: 1.0e-4"),
        ("steps: 3", "steps: 2"),
    ]:
        made.edit_config(old, new)
    made.edit_config("beta_end: 0.2", "beta_end: 0.1")
    assert made.verdict("coordcheck/dit").reasons[-1] == "parameter: 1 more"


def test_damage_is_found_and_named(made: Project) -> None:
    path = Path("results/smoke/select/part/result.json")
    content = path.read_text()
    path.write_text(content.replace("sweep", "sweet"))
    assert str(made.verdict("select")) == "damaged (part/result.json has other content than its sha256 says)"
    path.write_text(content + " ")
    assert str(made.verdict("select")) == f"damaged (part/result.json has {len(content) + 1} bytes instead of {len(content)})"
    path.unlink()
    assert str(made.verdict("select")) == "damaged (part/result.json is gone)"
    assert made.verdict("transfer/mup").reasons == ("input select is damaged",)


def test_quick_reads_small_files_and_sizes_large_ones(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("results/smoke/data/summary.json")
    path.write_text("[]")
    assert made.verdict("data", quick=True).state == "damaged"
    monkeypatch.setattr("mudit.provenance.verdict._QUICK_BYTES", 1)
    assert made.verdict("data", quick=True).state == "fresh"
    assert made.verdict("data").state == "damaged"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "manifest.json cannot be read"), ("{}", "manifest.json is not of schema 1"), (None, "manifest.json has been edited")],
)
def test_broken_manifests_are_damage(made: Project, text: str | None, reason: str) -> None:
    path = Path("results/smoke/data/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["outputs"]["summary.json"]["bytes"] = 3
    path.write_text(text or json.dumps(manifest))
    verdict = made.verdict("data")
    assert verdict.state == "damaged"
    assert verdict.reasons[0].startswith(reason)


def test_an_artefact_in_anothers_place_is_foreign(made: Project) -> None:
    shutil.rmtree("results/smoke/train/sp-tuned_s0")
    shutil.copytree("results/smoke/train/mup_s0", "results/smoke/train/sp-tuned_s0")
    assert str(made.verdict("train/sp-tuned_s0")) == "foreign (its manifest is that of smoke/train/mup_s0)"


def test_file_times_and_copies_decide_nothing(made: Project) -> None:
    for path in Path("results").rglob("*"):
        os.utime(path, (0, 0))
    shutil.move("results", "moved")
    shutil.copytree("moved", "results", copy_function=shutil.copyfile)
    assert set(made.states().values()) == {"fresh"}


def test_another_environment_is_a_note(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    here = source.environment()
    there = {**here, "python": "3.99.0", "digest": "x"}
    monkeypatch.setattr(source, "environment", lambda: there)
    verdict = made.verdict("data")
    assert verdict.fresh
    assert verdict.notes == (f"made with python {here['python']}, here 3.99.0",)


def test_causes_group_what_changed_and_leave_consequences_out(made: Project) -> None:
    made.edit_config("log2_lr: [-8, -6, -4, -2]", "log2_lr: [-8, -6, -4]")
    lines = causes(inspect(made.config, None, quick=True))
    assert lines == ["stale: sweep x7, select, report: parameter sweep.log2_lr: [-8.0, -6.0, -4.0, -2.0] -> [-8.0, -6.0, -4.0]"]


def test_a_gate_holds_runs_back_but_does_not_make_their_results_stale(made: Project) -> None:
    made.edit_config("tolerance: 0.45", "tolerance: 0.4")
    assert stale(made) == ["coordcheck/dit", "coordcheck/uvit", "report"]
    with pytest.raises(ProvenanceError, match=r"smoke/train/mup_s0 needs coordcheck/dit, which is stale"):
        made.make("train/mup_s0", force=True)
