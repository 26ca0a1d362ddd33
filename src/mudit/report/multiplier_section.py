"""The study of the readout's multiplier as a section of the page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mudit.report import text
from mudit.report.ledger.multiplier import drift_text, lr_text, optimum_text, span_text
from mudit.report.multiplier_figure import losses_panel, rates_panel
from mudit.report.style import power
from mudit.select.output_mult import OutputMultStudy


def multiplier_section(study: OutputMultStudy, panel: Callable[..., str]) -> dict[str, Any]:
    """Two panels, a line per width, and the verdict on its drift."""
    return {
        "panels": [
            panel("multiplier-loss", "Loss at the best rate against the readout's multiplier", partial(losses_panel, study=study)),
            panel("multiplier-lr", "Best learning rate against the readout's multiplier", partial(rates_panel, study=study)),
        ],
        "method": (
            f"Under μP at batch {study.batch_size} and {study.steps} steps, each multiplier with a learning-rate sweep of its own; "
            f"multipliers {text.listed([power(each.log2_output_mult) for each in study.widths[0].multipliers])}"
        ),
        "widths": [
            {
                "width": str(width.width),
                "best": "–" if width.best is None else power(width.best),
                "optimum": optimum_text(width),
                "span": span_text(width),
                "rate": lr_text(width),
            }
            for width in study.widths
        ],
        "drift": drift_text(study),
        "verdict": study.verdict,
        "reason": study.reason,
    }
