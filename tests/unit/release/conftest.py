"""A finished project of small stages whose report has a ledger."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mudit.report.ledger.row import Row
from mudit.report.paper import Published
from mudit.stages import Job
from project import Project, project

__all__ = ["project"]

ROW = Row("speedup", "H3", "Target", "a | b", Published("2.9x", "abstract"), "2.3x", 2.3, (2.2, 2.4), "reproduced", "faster", ())


@pytest.fixture
def finished(project: Project) -> Project:
    """Every artefact made; stages write one file each, the report a ledger too."""

    def run(job: Job) -> dict[str, Any]:
        (job.out / "result.json").write_text(json.dumps({"key": job.key}))
        if job.out.name.startswith(".new-report"):
            (job.out / "ledger.json").write_text(json.dumps({"rows": [asdict(ROW)]}))
            (job.out / "report.html").write_text("<p>found</p>")
        return {"flops": 1, "device": "cpu"}

    project.run = run
    project.make_all()
    Path("Snakefile").write_text("rule all:\n    input: []\n")
    return project
