"""The section "As published, or repaired": every behaviour with the experiment's own setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mudit.config.load import load
from mudit.config.published import BEHAVIOURS, PublishedSection
from mudit.report.claims import config_digest
from support import ROOT, changed

from .captioned import write_store
from .synthetic import make_inputs
from .test_sections import run

ON = ["scaled-warmup", "raw-weights"]


@pytest.mark.parametrize("on", [[], ON], ids=["repaired", "published"])
def test_each_behaviour_has_this_experiments_setting(tmp_path: Path, on: list[str]) -> None:
    experiment = load(ROOT / "config.yaml").experiments["pixart-emoji"]
    if on:
        experiment = changed(experiment, published=PublishedSection.model_validate({"switches": on, "images_per_process": 8}))
    inputs = make_inputs(experiment, write_store(experiment, tmp_path), tmp_path)
    page = (run("pixart-emoji", experiment, inputs, tmp_path / "out") / "report.html").read_text()
    section = page[page.index('<section id="published">') : page.index('<section id="provenance">')]
    lines = re.findall(r'<tr><td class="mono">(.*?)</td>.*<td>(.*?)</td></tr>', section)
    assert dict(lines) == {name: "as published" if name in on else "repaired" for name in BEHAVIOURS}
    assert ("As published here: scaled-warmup and raw-weights." in section) == bool(on)
    assert ("Everything is repaired in this experiment." in section) == (not on)
    assert ("images per run from raw weights" in page) == bool(on)


def test_a_switch_makes_the_ledger_outdated() -> None:
    experiment = load(ROOT / "config.yaml").experiments["pixart-emoji"]
    section = PublishedSection(switches=["raw-weights"], images_per_process=None)
    assert config_digest(changed(experiment, published=section)) != config_digest(experiment)
