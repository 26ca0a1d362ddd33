"""The stage `report`: the page, the ledger as JSON and the transfer plots as files."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mudit.report.certificate_section import write_figures
from mudit.report.costs import spent
from mudit.report.evidence import Evidence
from mudit.report.ledger import Row, summary
from mudit.report.page import render
from mudit.report.rows import ledger_rows

if TYPE_CHECKING:
    from mudit.stages import Job

PAGE_FILE = "report.html"
LEDGER_FILE = "ledger.json"

log = logging.getLogger(__name__)


def run(job: Job) -> dict[str, Any]:
    """Write `report.html` (self-contained), `ledger.json` and `transfer-*.svg`: the same bytes from the same inputs."""
    evidence = Evidence.read(job)
    rows = ledger_rows(evidence)
    write_figures(evidence.certificate, job.out)
    (job.out / PAGE_FILE).write_text(render(evidence, rows), encoding="utf-8")
    lines = [_entry(evidence, row) for row in rows]
    content = {"experiment": job.experiment, "config": evidence.config_digest, "summary": summary(rows), "rows": lines}
    (job.out / LEDGER_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    for row in rows:
        log.info("%-12s %s: %s", row.verdict, row.claim, row.ours)
    log.info("%s", summary(rows))
    return {"verdicts": {row.name: row.verdict for row in rows}, "flops": 0, "device": "cpu"}


def _entry(evidence: Evidence, row: Row) -> dict[str, Any]:
    """A row for machines: as the page has it, with cost in FLOPs and core seconds."""
    return {**asdict(row), "cost": asdict(spent(evidence.manifests, row.artefacts)) if row.artefacts else None}
