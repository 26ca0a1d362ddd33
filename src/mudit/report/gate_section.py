"""The coordinate checks as a section of the page: a figure and a verdict per family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mudit.report import paper, text
from mudit.report.coordcheck_figure import TITLES, curves_panel, slopes_height, slopes_panel
from mudit.report.evidence import Evidence
from mudit.report.ledger.row import Row
from mudit.report.style import power


def gate_section(evidence: Evidence, rows: list[Row], panel: Callable[..., str]) -> dict[str, Any]:
    """One entry per family, the experiment's own first."""
    section = evidence.config.coordcheck
    return {
        "families": [
            {
                "name": paper.FAMILIES[family],
                "row": next(row for row in rows if row.name == f"rules-{family}"),
                "panels": _panels(family, check, panel),
            }
            for family, check in evidence.coordchecks.items()
        ],
        "method": (
            f"Widths {text.listed(section.widths)}, {len(section.seeds)} seeds, {section.steps} steps of AdamW at "
            f"{power(section.log2_lr)} on one fixed batch of {section.batch_size}"
        ),
        "tolerance": f"{section.tolerance:g}",
    }


def _panels(family: str, check: dict[str, Any], panel: Callable[..., str]) -> list[str]:
    return [
        panel(
            f"coordcheck-{family}-{what}-{scheme}",
            f"{label} of {paper.FAMILIES[family]}, {title}",
            partial(draw, report=check, scheme=scheme),
            height=height,
        )
        for what, label, draw, height in (
            ("curves", "Activations against width", curves_panel, 4.1),
            ("slopes", "Slopes of every module", slopes_panel, slopes_height(check)),
        )
        for scheme, title in TITLES.items()
    ]
