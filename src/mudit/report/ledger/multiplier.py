"""The readout's multiplier as a base hyperparameter: its optimum at each width, whether that moves, and how much it matters."""

from __future__ import annotations

from mudit.report import paper, text
from mudit.report.ledger.row import Row, percent_interval
from mudit.report.style import power
from mudit.select.output_mult import MultiplierOptimum, OutputMultStudy

GROUP = "The readout's multiplier"
_WORDS = {"transfers": "stays", "drifts": "moves", "undecided": "undecided"}


def multiplier_rows(study: OutputMultStudy) -> list[Row]:
    """A row per width and one for the drift between them. The paper's own analysis is not known: all are `measured`."""
    return [*(_width_row(width) for width in study.widths), _drift_row(study)]


def optimum_text(width: MultiplierOptimum) -> str:
    """The fitted optimum with its interval, or why there is none."""
    if width.best is None:
        return "diverges at every multiplier"
    if width.optimum is None:
        return f"beyond the range: the last one, {power(width.best)}, is the best"
    return f"log₂ {text.number(width.optimum, signed=True)} {text.interval(width.interval, signed=True)}"


def span_text(width: MultiplierOptimum) -> str:
    """How much the choice matters."""
    if width.span is None:
        return "fewer than two multipliers trained"
    return f"the worst costs {text.percent(width.span)} {percent_interval(width.span_interval, 1)} more loss than the best"


def lr_text(width: MultiplierOptimum) -> str:
    """How the best learning rate follows the multiplier."""
    if width.lr_slope is None:
        return "how the best learning rate follows is not known"
    interval = text.interval(width.lr_slope_interval, signed=True)
    return f"the best log₂ lr changes by {text.number(width.lr_slope, signed=True)} {interval} per doubling of the multiplier"


def drift_text(study: OutputMultStudy) -> str:
    """Drift of the optimum per doubling of width."""
    if study.drift is None:
        return "no drift"
    return f"{text.number(study.drift, signed=True)} {text.interval(study.drift_interval, signed=True)} per doubling"


def _width_row(width: MultiplierOptimum) -> Row:
    return Row(
        name=f"output-mult-w{width.width}",
        hypothesis="",
        group=GROUP,
        claim=f"The best multiplier of the readout at width {width.width}",
        published=paper.OUTPUT_MULT,
        ours=optimum_text(width),
        value=width.optimum,
        interval=width.interval,
        verdict="measured",
        finding=f"{span_text(width)}; {lr_text(width)}",
        artefacts=("select", *(f"sweep/{each.setting}" for each in width.multipliers)),
    )


def _drift_row(study: OutputMultStudy) -> Row:
    return Row(
        name="output-mult-drift",
        hypothesis="",
        group=GROUP,
        claim="The best multiplier of the readout as width grows",
        published=paper.OUTPUT_MULT,
        ours=drift_text(study),
        value=study.drift,
        interval=study.drift_interval,
        verdict="measured",
        finding=f"{_WORDS[study.verdict]}: {study.reason}",
        artefacts=("select", *(f"sweep/{each.setting}" for width in study.widths for each in width.multipliers)),
    )
