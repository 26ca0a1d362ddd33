"""Proposals for budgets: they validate, they fit, and they say what they cannot test."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mudit.config.load import load, read
from mudit.config.schema import Config
from mudit.errors import ConfigError
from mudit.plan.budget import parse_hours, propose
from mudit.plan.study import study_plan
from support import ROOT


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


@pytest.mark.parametrize(("study", "hours"), [("paper", 2000.0), ("paper", 200.0), ("dit-imagenet", 200.0), ("paper-1pct", 60.0)])
def test_the_fragment_validates_and_its_plan_is_within_the_budget(config, study, hours, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    proposal = propose(config, study, hours)
    raw = read(ROOT / "config.yaml")
    changes = yaml.safe_load(proposal.fragment)["experiments"]
    for name, sections in changes.items():
        raw["experiments"][name] |= sections
    kept = [name for name in config.studies.get(study, [study]) if name not in proposal.left_out]
    raw["studies"]["proposal"] = kept
    Path("config.yaml").write_text(yaml.safe_dump(raw))
    found = study_plan(load(Path("config.yaml")), "proposal").total.hours
    assert found == pytest.approx(proposal.hours)
    assert found <= hours
    assert "experiments:" in proposal.text()


def test_a_budget_that_is_large_enough_cuts_nothing(config):
    proposal = propose(config, "dit-imagenet", 1e6)
    assert proposal.cuts == [] and proposal.left_out == []
    assert "dit-imagenet: H2 over widths can be tested: 3 widths, 3 seeds" in proposal.claims


def test_a_small_budget_says_what_is_lost_and_why(config):
    text = propose(config, "dit-imagenet", 80.0).text()
    assert "H2 over batch sizes cannot be tested: no sweep over them" in text
    assert "H3 can be tested" in text and "without an interval: one seed" in text


def test_smaller_budgets_cost_less_and_never_cut_less(config):
    proposals = [propose(config, "dit-imagenet", hours) for hours in (5000.0, 500.0, 50.0)]
    assert [proposal.hours for proposal in proposals] == sorted((proposal.hours for proposal in proposals), reverse=True)
    assert [len(proposal.cuts) for proposal in proposals] == sorted(len(proposal.cuts) for proposal in proposals)


def test_a_budget_for_nothing_names_the_least(config):
    with pytest.raises(ConfigError, match=r"nothing of dit-imagenet fits; the least is [\d.]+ processor-hours"):
        propose(config, "dit-imagenet", 0.01)


@pytest.mark.parametrize("text", ["", "h", "-1h", "0", "inf", "many"])
def test_hours_must_be_a_number_above_0(text):
    with pytest.raises(ConfigError, match="--budget"):
        parse_hours(text)


def test_hours_may_have_a_unit():
    assert parse_hours("200h") == parse_hours("200") == 200.0
