"""`mudit claims`: the ledgers of all reports that there are, as one table in the order of the paper's headline claims.

Reads `ledger.json` files only; imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mudit.config.schema import Config, Experiment
from mudit.errors import ProvenanceError
from mudit.provenance.source import digest
from mudit.report.paper import HYPOTHESES
from mudit.stages import artefacts, experiments

LEDGER_FILE = "ledger.json"
_NARROWEST, _UNKNOWN_WIDTH = 100, 200  # columns


@dataclass(frozen=True)
class Claim:
    """A row of one experiment's ledger, as `ledger.json` keeps it."""

    experiment: str
    row: dict[str, Any]


@dataclass(frozen=True)
class Claims:
    """What the reports say, by hypothesis; which reports are missing, and which are of another configuration than now."""

    claims: list[Claim]
    missing: dict[str, str]  # experiment -> the command that makes its report
    outdated: dict[str, str]  # the same for reports of another configuration


def read(config: Config, selection: str | None) -> Claims:
    """Of a study, an experiment or, without selection, of every experiment.

    Raises ConfigError if nothing is called so, ProvenanceError if a ledger cannot be read.
    """
    names = list(config.experiments) if selection is None else experiments(config, selection)
    claims, missing, outdated = [], {}, {}
    for name in names:
        ledger = _ledger(config, name)
        if ledger is None:
            missing[name] = _command(config, name)
            continue
        if ledger["config"] != config_digest(config.experiments[name]):
            outdated[name] = _command(config, name)
        claims += [Claim(name, row) for row in ledger["rows"]]
    order = list(HYPOTHESES)
    return Claims(sorted(claims, key=lambda claim: order.index(claim.row["hypothesis"])), missing, outdated)


def config_digest(experiment: Experiment) -> str:
    """SHA-256 of an experiment's science, also of one that a stage sees: `execution` changes no result."""
    younger = ("published", "imported", "benchmarks")  # than the first reports
    absent = {name for name in younger if not experiment.has(name)}
    names = Experiment.model_fields.keys() - {"execution"} - absent
    sections = {name: getattr(experiment, name) for name in names}
    return digest({name: _plain(section) for name, section in sections.items()})


def _plain(section: Any) -> Any:
    """A section as JSON values; `imported` and `benchmarks` are mappings of sections, absent ones are None."""
    if isinstance(section, dict):
        return {name: _plain(each) for name, each in section.items()}
    return None if section is None else section.model_dump(mode="json")


def print_json(found: Claims) -> None:
    """To stdout: {"claims": [...], "missing": {...}, "outdated": {...}}."""
    rows = [{"experiment": claim.experiment, **claim.row} for claim in found.claims]
    print(json.dumps({"claims": rows, "missing": found.missing, "outdated": found.outdated}, indent=1, ensure_ascii=False))


def print_table(found: Claims) -> None:
    """To stdout, a part per hypothesis; then what is missing, with the command that makes it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.width = max(console.width, _NARROWEST) if console.is_terminal else _UNKNOWN_WIDTH
    for hypothesis, title in HYPOTHESES.items():
        rows = [claim for claim in found.claims if claim.row["hypothesis"] == hypothesis]
        if not rows:
            continue
        table = Table(title=f"{hypothesis}  {title}".strip(), title_justify="left", box=None, padding=(0, 2, 1, 0), expand=True)
        for heading, share in (("claim", 30), ("paper", 22), ("here", 30)):
            table.add_column(heading, ratio=share, overflow="fold")
        for heading in ("verdict", "experiment"):
            table.add_column(heading, no_wrap=True)
        for claim in rows:
            cells = (claim.row["claim"], claim.row["published"]["value"], claim.row["ours"], claim.row["verdict"], claim.experiment)
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    for line in _remarks(found):
        console.print(Text(line), soft_wrap=True)


def _remarks(found: Claims) -> Iterator[str]:
    if not found.claims:
        yield "no report is there yet"
    for experiment, command in found.missing.items():
        yield f"missing: the report of {experiment}; to make it: {command}"
    for experiment, command in found.outdated.items():
        yield f"outdated: the report of {experiment} is of another configuration; to make it again: {command}"


def _ledger(config: Config, name: str) -> dict[str, Any] | None:
    """None if the experiment has no report."""
    artefact = next(each for each in artefacts(name, config.experiments[name]) if each.stage.name == "report")
    path = artefact.path / LEDGER_FILE
    try:
        ledger: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ProvenanceError(f"{path} is damaged; make it again with: {artefact.command} --force") from None
    if any("hypothesis" not in row for row in ledger.get("rows", [{}])):
        raise ProvenanceError(f"{path} was written by an older mudit; make it again with: {artefact.command} --force")
    return ledger


def _command(config: Config, experiment: str) -> str:
    """Of the workflow: it makes what the report needs first. An experiment of no study is named as it stands."""
    studies = [study for study, names in config.studies.items() if experiment in names]
    if not studies:
        return f"mudit report {experiment}"
    choice = "" if config.study in studies else f" --config study={studies[0]}"
    return f"snakemake --cores all report@{experiment}{choice}"
