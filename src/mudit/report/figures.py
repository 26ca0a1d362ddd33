"""Figures of the page as files beside it, for other documents and for Snakemake's own report: one per part of the experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mudit.report import coordcheck_figure
from mudit.report.evidence import Evidence
from mudit.report.multiplier_figure import losses_panel, rates_panel
from mudit.report.rows import axes_together
from mudit.report.search_figure import effect_panel, trials_panel
from mudit.report.style import canvas, save
from mudit.report.transfer_figure import draw_panel
from mudit.search.records import SearchResult
from mudit.select.certificate import AxisName, AxisResult
from mudit.select.output_mult import OutputMultStudy

FOLDER = "figures"
_AXES: dict[AxisName, str] = {"width": "transfer-width.svg", "batch_size": "transfer-batch-size.svg", "steps": "transfer-steps.svg"}


def write_figures(evidence: Evidence, folder: Path) -> None:
    """The own family's gate, which every experiment has, then the transfer plots, the multiplier and the search."""
    folder.mkdir()
    coordcheck_figure.draw(evidence.coordchecks[evidence.family], folder / "coordcheck.svg")
    certificate = evidence.certificate
    if certificate is not None:
        for axis, name in _AXES.items():
            if together := axes_together(certificate, axis):
                _transfer(together, folder / name)
        if certificate.output_mult is not None:
            _multiplier(certificate.output_mult, folder / "output-multiplier.svg")
    if evidence.search is not None:
        _search(evidence.search, folder / "search.svg")


def _transfer(axes: Sequence[AxisResult], path: Path) -> None:
    """The schemes along one axis side by side."""
    with canvas(5.4 * len(axes), 4.3, 1, len(axes)) as (figure, panels):
        for panel, axis in zip(panels, axes, strict=True):
            draw_panel(panel, axis, axes)
        save(figure, path)


def _multiplier(study: OutputMultStudy, path: Path) -> None:
    with canvas(10.8, 4.3, 1, 2) as (figure, axes):
        losses_panel(axes[0], study)
        rates_panel(axes[1], study)
        save(figure, path)


def _search(result: SearchResult, path: Path) -> None:
    """A column per hyperparameter: its trials above its effect."""
    names = list(result.ranges)
    with canvas(4.4 * len(names), 5.2, 2, len(names), height_ratios=[2.2, 1], sharex="col") as (figure, axes):
        for column, name in enumerate(names):
            trials_panel(axes[column], result, name)
            effect_panel(axes[len(names) + column], result, name)
        save(figure, path)
