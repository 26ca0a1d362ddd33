"""What can be tested of a cut study: as a proposal says it."""

from __future__ import annotations

import pytest

from mudit.config.load import load
from mudit.config.schema import Config
from mudit.plan.claims import claims
from support import ROOT, changed

DIT, MMDIT = "dit-imagenet", "mmdit-18b"


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


def _of(config: Config, name: str, start: str, **changes: object) -> str:
    whole = config.experiments[name]
    (line,) = (line for line in claims(whole, changed(whole, **changes)) if line.startswith(start))
    return line.removeprefix(start).strip()


@pytest.mark.parametrize(("steps", "can"), [(600_000, "can be tested"), (599_999, "can be looked at, not tested")])
def test_a_quarter_of_the_steps_is_enough_and_less_is_not(config, steps, can):
    line = _of(config, DIT, "H3", train__steps=steps, train__seeds=[0, 1])
    assert line.startswith(f"{can}: 2 seeds, {steps:,} of 2,400,000 steps (1/4)")


def test_one_seed_tests_nothing_however_long_it_runs(config):
    assert _of(config, DIT, "H3") == "can be looked at, not tested: one seed, all 2,400,000 steps"
    for axis in ("widths", "batch sizes", "steps"):
        assert _of(config, DIT, f"H2 over {axis}").startswith("can be tested:")
        assert _of(config, DIT, f"H2 over {axis}", sweep__seeds=[0]).startswith("can be looked at, not tested:")


def test_a_tenth_of_the_data_tests_nothing(config):
    line = _of(config, DIT, "H2 over widths", data__share=0.1)
    assert line == "can be looked at, not tested: 3 widths, 3 seeds, all 200,000 steps, 1/10 of the data"


def test_each_axis_is_judged_by_its_own_steps(config):
    axes = {"sweep__batch_sizes__steps": 100, "sweep__steps__steps": [100, 200]}
    for axis in ("batch sizes", "steps"):
        assert "not tested" in _of(config, DIT, f"H2 over {axis}", **axes)
    assert _of(config, DIT, "H2 over widths", **axes).startswith("can be tested")
    assert _of(config, DIT, "H2 over widths", sweep__widths__width=[288]) == "cannot be tested: one width has no drift"
    assert _of(config, DIT, "H2 over widths", sweep__widths__width=[144, 288]).startswith("can be looked at, not tested: 2 widths")


def test_what_became_of_the_search_is_stated_and_its_seeds_do_not_decide(config):
    assert _of(config, MMDIT, "the search") == "on the proxy can be tested: 80 trials, one seed, all 30,000 steps"
    short = _of(config, MMDIT, "the search", search__steps=468)
    assert short == "on the proxy can be looked at, not tested: 80 trials, one seed, 468 of 30,000 steps (1/64)"


def test_what_the_whole_study_has_no_part_for_has_no_line(config):
    pixart = config.experiments["pixart-sa1b"]
    text = "\n".join(claims(pixart, pixart))
    assert "batch sizes" not in text and "drift" not in text
    assert "the rate found on the proxy can be tested: one width, 3 seeds, all 39,185 steps" in text
