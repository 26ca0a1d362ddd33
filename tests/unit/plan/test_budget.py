"""Proposals for budgets: they validate, they fit, and they say what they cannot test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mudit.config.load import load
from mudit.config.schema import Config
from mudit.errors import ConfigError
from mudit.plan import claims
from mudit.plan.budget import parse_hours, propose
from mudit.plan.study import study_plan
from support import ROOT


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


def _pasted(fragment: str) -> str:
    """config.yaml as text with the fragment in it, as its first line says: entries below their sections, and the cap."""
    file = (ROOT / "config.yaml").read_text()
    for section in re.split(r"^(?=\w)", fragment, flags=re.MULTILINE)[1:]:
        head, entries = section.split("\n", 1)
        old, new = ("  cap_hours: null\n", entries) if head == "cluster:" else (f"\n{head}\n", f"\n{head}\n{entries}")
        assert file.count(old) == 1
        file = file.replace(old, new)
    return file


@pytest.mark.parametrize(("study", "hours"), [("paper", 2000.0), ("paper", 200.0), ("dit-imagenet", 200.0), ("paper-1pct", 60.5)])
def test_what_is_printed_makes_the_study_that_fits_and_holds_it_to_the_budget(config, study, hours, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    proposal = propose(config, study, hours)
    printed = proposal.text()
    assert printed.endswith(proposal.fragment)
    Path("config.yaml").write_text(_pasted(proposal.fragment))
    pasted = load(Path("config.yaml"))
    name = re.search(r"^# Then: mudit plan (\S+)$", printed, flags=re.MULTILINE)[1]
    assert study_plan(pasted, name).total.hours == pytest.approx(proposal.hours)
    assert proposal.hours <= hours == pasted.cluster.cap_hours
    assert len(pasted.studies[name]) + len(proposal.left_out) == len(config.studies.get(study, [study]))
    assert {each: pasted.experiments[each] for each in config.experiments} == config.experiments, "the others stay as they were"


def test_a_budget_that_is_large_enough_cuts_nothing(config):
    proposal = propose(config, "dit-imagenet", 1e6)
    assert proposal.cuts == [] and proposal.left_out == []
    assert "dit-imagenet: H2 over widths can be tested: 3 widths, 3 seeds, all 200,000 steps" in proposal.claims
    assert "config.yaml" not in proposal.text(), "there is nothing to paste"


def test_an_experiment_that_fits_as_it_is_keeps_its_name(config):
    """When the dearer one is left out, the other fits whole."""
    both = config.model_copy(update={"studies": {"two": ["dit-digits", "pixart-sa1b"]}})
    proposal = propose(both, "two", 0.01)
    assert proposal.left_out == ["pixart-sa1b"]
    assert proposal.text().startswith(
        "two within 36 processor-seconds: 9.86 processor-seconds expected, 21 processor-seconds at most\nnothing is cut\nleft out"
    )
    assert yaml.safe_load(proposal.fragment) == {"cluster": {"cap_hours": 0.01}, "studies": {"two-within-0-01h": ["dit-digits"]}}


def test_a_small_budget_says_what_is_lost_and_why(config):
    text = propose(config, "dit-imagenet", 80.0).text()
    assert "H2 over batch sizes cannot be tested: no sweep over them" in text
    assert "H3 can be looked at, not tested: one seed, 9,375 of 2,400,000 steps (1/256)" in text
    assert claims.RULE in text


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
