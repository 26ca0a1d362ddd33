"""Pages of experiments that have some of the parts only: what they show and leave out; ledger and figures hold no times."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mudit.config.load import load
from mudit.config.schema import Config, Experiment
from mudit.report import stage
from mudit.report.evidence import Evidence
from mudit.report.rows import ledger_rows
from mudit.scoped import scoped
from mudit.stages import Job, parse
from support import ROOT, changed

from .captioned import write_store
from .synthetic import Inputs, make_inputs

SECTIONS = (
    "claims",
    "coordcheck",
    "transfer",
    "certificate",
    "multiplier",
    "search",
    "target",
    "samples",
    "metrics",
    "tables",
    "cost",
    "differences",
    "published",
    "provenance",
)
_ALWAYS = {"claims", "coordcheck", "differences", "published", "provenance"}
_TARGET = {"target", "samples", "metrics", "cost"}
SHOWN = {
    "dit-output-mult": {"transfer", "certificate", "multiplier", "tables"},
    "uvit-emoji": {"transfer", "certificate"},
    "pixart-emoji": {"transfer", "certificate", "tables", *_TARGET},
    "mmdit-emoji": {"search", "tables", *_TARGET},
}


@dataclass(frozen=True)
class Made:
    """A report and what it was made from."""

    experiment: Experiment
    inputs: Inputs
    page: str
    ledger: dict[str, Any]
    files: list[str]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.ledger["rows"]}


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


@pytest.fixture(scope="module")
def reports(config: Config, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """One report per experiment of the study on captions."""
    return {name: make(name, config.experiments[name], digits_folder, tmp_path_factory.mktemp(name)) for name in SHOWN}


def make(name: str, experiment: Experiment, digits: Path, root: Path) -> Made:
    data = write_store(experiment, root) if experiment.model.conditioning == "text" else digits
    inputs = make_inputs(experiment, data, root)
    out = run(name, experiment, inputs, root / "out")
    ledger = json.loads((out / "ledger.json").read_text())
    return Made(experiment, inputs, (out / "report.html").read_text(), ledger, files_of(out))


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(name: str, experiment: Experiment, inputs: Inputs, out: Path) -> Path:
    out.mkdir()
    stage.run(Job(name, scoped(experiment, parse(name, "report")), "", inputs, out, out / "state"))
    return out


@pytest.mark.parametrize("name", SHOWN)
def test_a_page_has_the_sections_of_its_parts_in_order_and_no_others(reports: dict[str, Made], name: str) -> None:
    shown = re.findall(r'<section id="([a-z]+)">', reports[name].page)
    assert shown == [section for section in SECTIONS if section in _ALWAYS | SHOWN[name]]


@pytest.mark.parametrize("name", SHOWN)
def test_a_page_is_whole(reports: dict[str, Made], name: str) -> None:
    page = reports[name].page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in re.findall(r'href="(#[^"]*)"', page)} <= set(ids)
    assert re.findall(r"<h[23]>\s*</h", page) == []
    assert "None" not in re.sub(r"<[^>]*>", "", page)


@pytest.mark.parametrize("name", SHOWN)
def test_ledger_and_figures_do_not_depend_on_times_and_places(reports: dict[str, Made], name: str, tmp_path: Path) -> None:
    """The same artefacts, made elsewhere and slower."""
    made = reports[name]
    inputs = {}
    for artefact, folder in made.inputs.items():
        inputs[artefact] = tmp_path / "moved" / artefact
        inputs[artefact].mkdir(parents=True)
        for file in folder.iterdir():
            if file.name != "manifest.json":
                (inputs[artefact] / file.name).symlink_to(file.resolve())
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["run"] |= {"wall_s": 99.0, "threads": 7, "ended": "2001-01-01T00:00:00+00:00"}
        (inputs[artefact] / "manifest.json").write_text(json.dumps(manifest))
    out = run(name, made.experiment, inputs, tmp_path / "out")
    assert json.loads((out / "ledger.json").read_text()) == made.ledger
    first = made.inputs["data"].parent.parent / "out"
    assert files_of(out) == made.files
    for file in made.files:
        same = (out / file).read_bytes() == (first / file).read_bytes()
        assert same == (file != "report.html"), file


def test_the_multiplier_has_rows_and_a_figure(reports: dict[str, Made]) -> None:
    made = reports["dit-output-mult"]
    names = [name for name in made.rows if name.startswith("output-mult-")]
    assert names == ["output-mult-w16", "output-mult-w32", "output-mult-w64", "output-mult-drift"]
    assert made.rows["output-mult-w32"]["value"] == pytest.approx(0.5, abs=0.1)
    assert "figures/output-multiplier.svg" in made.files
    assert [name for name, row in made.rows.items() if row["verdict"] == "not run"] == [], "it stands in for no target"


def test_uvit_tests_the_theorem(reports: dict[str, Made]) -> None:
    rows = reports["uvit-emoji"].rows
    assert {name: rows[name]["verdict"] for name in ("rules-uvit", "drift-mup-width", "drift-sp-width")} == {
        "rules-uvit": "reproduced",
        "drift-mup-width": "reproduced",
        "drift-sp-width": "reproduced",
    }
    assert {row["hypothesis"] for row in rows.values()} == {"H1"}


def test_pixart_is_held_against_the_published_baseline_and_measured_against_the_tuned(reports: dict[str, Made]) -> None:
    rows = reports["pixart-emoji"].rows
    verdicts = {name: row["verdict"] for name, row in rows.items() if name.startswith("better-")}
    assert verdicts == {
        "better-loss-sp-published": "reproduced",
        "better-kernel-distance-sp-published": "reproduced",
        "better-clip-like-score-sp-published": "measured",
        "better-composition-accuracy-sp-published": "reproduced",
        "better-loss-sp-tuned": "measured",
        "better-kernel-distance-sp-tuned": "measured",
        "better-clip-like-score-sp-tuned": "measured",
        "better-composition-accuracy-sp-tuned": "measured",
    }
    assert rows["better-loss-sp-published"]["hypothesis"] == "H4"
    assert rows["better-loss-sp-tuned"]["value"] < 0, "its made convergence is faster"
    assert rows["search-mup_w24_b16"]["published"]["value"] == "5.5 %"
    assert "drift-mup-width" not in rows, "one width has no drift"
    assert rows["regret-mup"]["hypothesis"] == "H4"
    assert [name for name, row in rows.items() if row["verdict"] == "not run"] == ["pixart"]


def test_mmdit_is_held_against_the_default_under_sp(reports: dict[str, Made]) -> None:
    rows = reports["mmdit-emoji"].rows
    assert rows["better-loss-sp-default"]["verdict"] == rows["sensitivity-lr"]["verdict"] == "reproduced"
    assert rows["better-loss-mup-default"]["verdict"] == "measured"
    assert {row["verdict"] for name, row in rows.items() if name.startswith("speedup-")} == {"measured"}
    assert rows["search-search"]["hypothesis"] == "H5"
    assert "of the 5 runs that tuning by hand took in the paper" in rows["search-search"]["ours"]
    assert "ours is the default setting" in rows["better-loss-sp-default"]["finding"]
    assert reports["mmdit-emoji"].files == [
        "curves.csv",
        "figures/coordcheck.svg",
        "figures/search.svg",
        "ledger.json",
        "metrics.json",
        "report.html",
    ]
    assert [name for name, row in rows.items() if row["verdict"] == "not run"] == ["mmdit"]


def test_prompts_stand_under_what_every_arm_made_of_them(reports: dict[str, Made]) -> None:
    page = reports["mmdit-emoji"].page
    table = page[page.index('<table class="prompts">') : page.index("</table>", page.index('<table class="prompts">'))]
    assert re.findall(r"<th>([^<]+)</th>", table) == ["real, held out", "mup_s0", "mup-default_s0", "sp-default_s0"]
    captions = re.findall(r"<td>([^<]+)</td>", table)
    assert len(captions) == len(set(captions)) == 12
    assert all(caption.startswith(("a noto", "a fluent-3d")) for caption in captions)
    assert table.count("<img") == 4 * 12


def test_a_contradiction_is_said_at_the_top(config: Config, digits_folder: Path, tmp_path: Path) -> None:
    """The subject diverges in every seed."""
    experiment = config.experiments["mmdit-emoji"]
    inputs = make_inputs(experiment, write_store(experiment, tmp_path), tmp_path, diverged=("mup",))
    out = run("mmdit-emoji", experiment, inputs, tmp_path / "out")
    ledger = json.loads((out / "ledger.json").read_text())
    assert ledger["contradictions"][0].startswith("At equal steps mup has a lower validation loss than sp-default: no difference")
    assert "<b>Contradicts the paper.</b> At equal steps mup" in (out / "report.html").read_text()


def test_a_gate_alone_makes_a_page(config: Config, digits_folder: Path, tmp_path: Path) -> None:
    experiment = changed(config.experiments["dit-output-mult"], sweep=None, select=None)
    made = make("dit-output-mult", experiment, digits_folder, tmp_path)
    assert list(made.rows) == ["rules-dit"]
    assert made.files == ["curves.csv", "figures/coordcheck.svg", "ledger.json", "metrics.json", "report.html"]
    assert "keep their size with width" in made.page


def test_target_runs_without_images_make_a_page(config: Config, tmp_path: Path) -> None:
    experiment = changed(config.experiments["pixart-emoji"], sample=None, scorer=None, evaluate=None)
    inputs = make_inputs(experiment, write_store(experiment, tmp_path), tmp_path)
    out = run("pixart-emoji", experiment, inputs, tmp_path / "out")
    shown = re.findall(r'<section id="([a-z]+)">', (out / "report.html").read_text())
    assert "target" in shown
    assert not {"samples", "metrics"} & set(shown)


def test_rows_are_a_function_of_the_evidence(reports: dict[str, Made]) -> None:
    made = reports["mmdit-emoji"]
    job = Job("mmdit-emoji", made.experiment, "", made.inputs, Path(), Path())
    assert ledger_rows(Evidence.read(job)) == ledger_rows(Evidence.read(job))
