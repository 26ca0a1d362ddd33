"""The stage `report`: the page, the ledger for machines, and the figures for other documents."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mudit.report.claims import LEDGER_FILE
from mudit.report.costs import spent
from mudit.report.evidence import Evidence
from mudit.report.figures import FOLDER, write_figures
from mudit.report.ledger.row import Row
from mudit.report.ledger.summary import contradictions, summary
from mudit.report.metrics import CURVES_FILE, METRICS_FILE, curves, metrics
from mudit.report.page import render
from mudit.report.rows import ledger_rows

if TYPE_CHECKING:
    from mudit.stages import Job

PAGE_FILE = "report.html"

log = logging.getLogger(__name__)


def run(job: Job) -> dict[str, Any]:
    """Write `report.html` (self-contained), `ledger.json`, `metrics.json`, `curves.csv` and `figures/`: same inputs, same bytes.

    The ledger and the figures hold no times, so that two runs of everything give the same bytes; the page says what runs took.
    """
    evidence = Evidence.read(job)
    rows = ledger_rows(evidence)
    write_figures(evidence, job.out / FOLDER)
    (job.out / PAGE_FILE).write_text(render(evidence, rows), encoding="utf-8")
    content = {
        "experiment": job.experiment,
        "config": evidence.config_digest,
        "summary": summary(rows),
        "contradictions": contradictions(rows),
        "rows": [_entry(evidence, row) for row in rows],
    }
    (job.out / LEDGER_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    (job.out / METRICS_FILE).write_text(metrics(rows), encoding="utf-8")
    (job.out / CURVES_FILE).write_text(curves(evidence.runs), encoding="utf-8")
    for row in rows:
        log.info("%-12s %s: %s", row.verdict, row.claim, row.ours)
    log.info("%s", summary(rows))
    return {"verdicts": {row.name: row.verdict for row in rows}, "flops": 0, "device": "cpu"}


def _entry(evidence: Evidence, row: Row) -> dict[str, Any]:
    """A row for machines: as the page has it, with its cost in model FLOPs."""
    return {**asdict(row), "flops": spent(evidence.manifests, row.artefacts).flops if row.artefacts else None}
