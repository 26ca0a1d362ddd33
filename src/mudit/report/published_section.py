"""What the published code does that changes numbers, and what this experiment does: a section of the page."""

from __future__ import annotations

from typing import Any

from mudit.config.published import ALWAYS_REPAIRED, BEHAVIOURS, repeats
from mudit.config.published_page import CODE
from mudit.report import paper, text
from mudit.report.evidence import Evidence


def published_section(evidence: Evidence) -> dict[str, Any] | None:
    """A line per behaviour, with this experiment's setting. None for a family that is not the paper's."""
    if evidence.family not in paper.RULES:
        return None
    on = [name for name in BEHAVIOURS if repeats(evidence.config, name)]
    return {
        "summary": f"As published here: {text.listed(on)}" if on else "Everything is repaired in this experiment",
        "lines": [
            {
                "name": name,
                "code": CODE[behaviour.family],
                "published": behaviour.published,
                "source": behaviour.source,
                "repaired": behaviour.repaired,
                "setting": "as published" if name in on else "repaired",
            }
            for name, behaviour in BEHAVIOURS.items()
        ],
        "always": ALWAYS_REPAIRED,
    }
