"""The page: evidence and ledger rows in, one self-contained HTML text out. Layout is in templates/.

Each part of an experiment has a section of its own; what an experiment does not have leaves no heading.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.report import text
from mudit.report.benchmark_section import benchmark_section
from mudit.report.certificate_section import certificate_section, transfer_sections
from mudit.report.costs import searches, spent
from mudit.report.differences import differences
from mudit.report.evidence import Evidence
from mudit.report.gate_section import gate_section
from mudit.report.images_section import metrics_section, samples_section
from mudit.report.ledger.row import Row
from mudit.report.ledger.summary import contradictions, headline, summary
from mudit.report.multiplier_section import multiplier_section
from mudit.report.paper import FAMILIES, SPEEDUP_FACTOR
from mudit.report.provenance_section import provenance_section
from mudit.report.published_section import published_section
from mudit.report.search_section import search_section
from mudit.report.style import canvas, inline
from mudit.report.tables_section import tables_section
from mudit.report.target_section import target_section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_TILES = 4
_SHARES = ("better-loss", "better-composition-accuracy", "sensitivity-")  # rows whose value is a share


def render(evidence: Evidence, rows: list[Row]) -> str:
    """The page as HTML."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=text.tight,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({"svg": Markup, "anchor": anchor, "sentence": sentence})
    style = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(style=style, **_context(evidence, rows)) + "\n"


def anchor(artefact: str) -> str:
    """Id of an artefact's line in the table of provenance."""
    return "artefact-" + artefact.replace("/", "-")


def sentence(words: str) -> str:
    """With a capital at the start and one full stop at the end."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def panel(name: str, label: str, draw: Callable[[Axes], object], *, width: float = 5.2, height: float = 4.1) -> str:
    """One set of axes as SVG."""
    with canvas(width, height) as (figure, (ax,)):
        draw(ax)
        return inline(figure, name, label)


def _context(evidence: Evidence, rows: list[Row]) -> dict[str, Any]:
    total = spent(evidence.manifests, evidence.manifests)
    certificate, search = evidence.certificate, evidence.search
    study = None if certificate is None else certificate.output_mult
    return {
        "title": evidence.config.report.title,
        "experiment": evidence.experiment,
        "summary": summary(rows),
        "headline": headline(rows),
        "contradictions": contradictions(rows),
        "total": {"flops": text.flops(total.flops), "time": text.seconds(total.core_seconds), "artefacts": len(evidence.manifests)},
        "tiles": _tiles(rows, evidence.baseline),
        "groups": _groups(evidence, rows),
        "confidence": text.percent(evidence.confidence, 0),
        "coordcheck": gate_section(evidence, rows, panel),
        "transfer": None if certificate is None else transfer_sections(evidence, certificate, panel),
        "certificate": None if certificate is None else certificate_section(evidence, certificate, rows),
        "multiplier": None if study is None else multiplier_section(study, panel),
        "search": None if search is None else search_section(search, rows, panel),
        "target": target_section(evidence, rows, panel) if evidence.runs else None,
        "samples": samples_section(evidence) if evidence.config.has("sample") else None,
        "metrics": metrics_section(evidence) if evidence.metrics else None,
        "benchmarks": benchmark_section(evidence),
        "tables": tables_section(evidence),
        "costs": _costs(evidence),
        "differences": differences(evidence),
        "published": published_section(evidence),
        "provenance": provenance_section(evidence),
    }


def _tiles(rows: list[Row], baseline: str | None) -> list[dict[str, str]]:
    """The figures that carry the page, large: the first few of these that the ledger has."""
    wanted = {
        "drift-mup-width": "drift of the best rate per doubling of width, μP",
        "drift-sp-width": "the same under SP, the control",
        "speedup-sp-published": f"speed-up against SP as published (paper {SPEEDUP_FACTOR:g}×)",
        "speedup-sp-tuned": "speed-up against SP tuned at the target's own width",
        f"better-loss-{baseline}": f"less validation loss than {baseline}, at equal steps",
        f"better-composition-accuracy-{baseline}": f"more images with style and subject right than {baseline}, in points",
        "sensitivity-lr": "of the trials' ranks is explained by the learning rate",
        "output-mult-drift": "drift of the best readout multiplier per doubling of width",
    }
    if any(row.name.startswith("better-") for row in rows):  # speed-ups are no claim of these families
        wanted = {name: label for name, label in wanted.items() if not name.startswith("speedup-")}
    by_name = {row.name: row for row in rows}
    shown = [name for name in wanted if name in by_name] or [name for name in by_name if name.startswith("rules-")]
    return [
        {
            "value": _large(by_name[name]),
            "interval": _large_interval(by_name[name]),
            "label": wanted.get(name) or f"steepest slope under μP, {FAMILIES[name.removeprefix('rules-')]}",
            "verdict": by_name[name].verdict,
        }
        for name in shown[:_MOST_TILES]
    ]


def _large(row: Row) -> str:
    if row.value is None:
        return "–"
    if row.name.startswith("speedup"):
        return f"{text.number(row.value)}×"
    if row.name.startswith(_SHARES):
        return text.percent(row.value, signed=row.name.startswith("better"))
    return text.number(row.value, signed=True)


def _large_interval(row: Row) -> str:
    factor = 100 if row.name.startswith(_SHARES) else 1
    bounds = None if row.interval is None else (factor * row.interval[0], factor * row.interval[1])
    signed = not row.name.startswith(("speedup", "sensitivity"))
    return text.interval(bounds, 1 if factor == 100 else 2, signed=signed)


def _groups(evidence: Evidence, rows: list[Row]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cost = spent(evidence.manifests, row.artefacts)
        groups[row.group].append(
            {
                "row": row,
                "flops": text.flops(cost.flops) if row.artefacts else "",
                "time": text.seconds(cost.core_seconds) if row.artefacts else "",
            }
        )
    return [{"name": name, "entries": entries} for name, entries in groups.items()]


def _costs(evidence: Evidence) -> list[dict[str, str]]:
    return [
        {
            "what": search.what,
            "artefact": search.artefact,
            "trials": f"{search.trials} ({search.points})",
            "proxy": f"{search.parameters:,} × {search.batch_size} × {search.steps}",
            "target": f"{search.target_parameters:,} × {search.target_batch_size} × {search.target_steps}",
            "share": _percent(search.share),
            "points": _percent(search.share_of_points),
            "measured": _percent(search.measured),
            "time": text.seconds(spent(evidence.manifests, [search.artefact]).core_seconds),
        }
        for search in searches(evidence)
    ]


def _percent(share: float) -> str:
    return text.percent(share, 1 if share < 1 else 0)
