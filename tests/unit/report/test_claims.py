"""`mudit claims`: one table out of the reports that there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mudit.config.load import load
from mudit.config.schema import Config
from mudit.errors import ConfigError, ProvenanceError
from mudit.report.claims import LEDGER_FILE, config_digest, print_json, print_table, read
from support import ROOT, changed


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def row(hypothesis: str, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "hypothesis": hypothesis,
        "claim": f"claim of {name}",
        "published": {"value": "2.9×", "source": "abstract"},
        "ours": "2.40× [2.30, 2.50]",
        "value": 2.4,
        "interval": [2.3, 2.5],
        "verdict": "reproduced",
    }


def report(config: Config, experiment: str, *rows: dict[str, Any]) -> None:
    folder = Path("results") / experiment / "report"
    folder.mkdir(parents=True)
    content = {"experiment": experiment, "config": config_digest(config.experiments[experiment]), "rows": list(rows)}
    (folder / LEDGER_FILE).write_text(json.dumps(content))


def test_claims_are_in_the_papers_order_whatever_the_order_of_experiments(config: Config) -> None:
    report(config, "dit-digits", row("H3", "speed"), row("H1", "rules"), row("", "beside"))
    report(config, "mmdit-emoji", row("H5", "search"), row("H1", "rules-mmdit"))
    found = read(config, None)
    assert [(claim.row["hypothesis"], claim.experiment) for claim in found.claims] == [
        ("H1", "dit-digits"),
        ("H1", "mmdit-emoji"),
        ("H3", "dit-digits"),
        ("H5", "mmdit-emoji"),
        ("", "dit-digits"),
    ]


def test_missing_reports_come_with_the_command_that_makes_them(config: Config) -> None:
    report(config, "dit-digits")
    found = read(config, None)
    assert "dit-digits" not in found.missing
    assert found.missing["mmdit-emoji"] == "snakemake --cores all report@mmdit-emoji --config study=desk-text"
    assert set(read(config, "desk-text").missing) == set(config.studies["desk-text"])
    assert read(config, "desk").missing == {}
    in_study = changed(config, study="desk-text")
    assert read(in_study, "mmdit-emoji").missing == {"mmdit-emoji": "snakemake --cores all report@mmdit-emoji"}


def test_a_report_of_another_configuration_is_said_to_be_outdated(config: Config) -> None:
    report(config, "dit-digits", row("H1", "rules"))
    other = changed(
        config, experiments={**config.experiments, "dit-digits": changed(config.experiments["dit-digits"], train__steps=1)}
    )
    assert read(config, "dit-digits").outdated == {}
    assert set(read(other, "dit-digits").outdated) == {"dit-digits"}


def test_unknown_names_are_one_line(config: Config) -> None:
    with pytest.raises(ConfigError, match="did you mean 'desk-text'"):
        read(config, "desk-txt")


@pytest.mark.parametrize(("content", "message"), [("{", "is damaged"), ('{"config": "", "rows": [{"name": "x"}]}', "older mudit")])
def test_a_ledger_that_cannot_be_read_says_what_mends_it(config: Config, content: str, message: str) -> None:
    folder = Path("results/dit-digits/report")
    folder.mkdir(parents=True)
    (folder / LEDGER_FILE).write_text(content)
    with pytest.raises(ProvenanceError, match=rf"{message}; make it again with: mudit report dit-digits --force"):
        read(config, "dit-digits")


def test_the_table_shows_claim_paper_ours_verdict_and_experiment(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    report(config, "dit-digits", row("H3", "speed"))
    print_table(read(config, None))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("H3  DiT: the transferred rate converges")
    (line,) = [line for line in lines if "claim of speed" in line]
    assert line.split("  ")[0] == "claim of speed"
    assert all(part in line for part in ("2.9×", "2.40× [2.30, 2.50]", "reproduced", "dit-digits"))
    assert "missing: the report of uvit-emoji; to make it: snakemake" in "\n".join(lines)
    assert not any(line.startswith(("H1", "H2", "H4", "H5")) for line in lines)


def test_json_has_everything(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    report(config, "dit-digits", row("H3", "speed"))
    print_json(read(config, "dit-digits"))
    content = json.loads(capsys.readouterr().out)
    assert content == {"claims": [{"experiment": "dit-digits", **row("H3", "speed")}], "missing": {}, "outdated": {}}


def test_the_command_needs_no_torch(config: Config) -> None:
    report(config, "dit-digits", row("H3", "speed"))
    script = (
        "import sys; from mudit.cli import app\n"
        f"app(['claims', 'dit-digits', '--config', {str(ROOT / 'config.yaml')!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules, 'slow imports'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "claim of speed" in done.stdout


def test_without_reports_it_says_so(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(read(config, "desk"))
    assert capsys.readouterr().out == (
        "no report is there yet\nmissing: the report of dit-digits; to make it: snakemake --cores all report@dit-digits\n"
    )
