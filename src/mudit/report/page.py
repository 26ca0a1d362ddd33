"""The page: evidence and ledger rows in, one self-contained HTML text out. Layout is in templates/."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.report import ledger, text
from mudit.report.certificate_section import certificate_section, transfer_sections
from mudit.report.costs import searches, spent
from mudit.report.evidence import Evidence
from mudit.report.ledger import Row
from mudit.report.paper import SPEEDUP_FACTOR
from mudit.report.provenance_section import provenance_section
from mudit.report.rows import CONVERGENCE_LOSS, speedups
from mudit.report.style import canvas, inline, power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEMPLATES = Path(__file__).parent / "templates"
_METRICS = {
    "frechet_distance": ("Fréchet distance", "↓"),
    "kernel_distance": ("kernel distance", "↓"),
    "precision": ("precision", "↑"),
    "recall": ("recall", "↑"),
    "conditional_accuracy": ("conditional accuracy", "↑"),
    "validation_loss": ("validation loss, EMA", "↓"),
}


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
    environment.filters.update({"svg": Markup, "anchor": anchor})
    style = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(style=style, **_context(evidence, rows)) + "\n"


def anchor(artefact: str) -> str:
    """Id of an artefact's line in the table of provenance."""
    return "artefact-" + artefact.replace("/", "-")


def panel(name: str, label: str, draw: Callable[[Axes], object], *, width: float = 5.2, height: float = 4.1) -> str:
    """One set of axes as SVG."""
    with canvas(width, height) as (figure, (ax,)):
        draw(ax)
        return inline(figure, name, label)


def _context(evidence: Evidence, rows: list[Row]) -> dict[str, Any]:
    total = spent(evidence.manifests, evidence.manifests)
    return {
        "title": evidence.config.report.title,
        "experiment": evidence.experiment,
        "summary": ledger.summary(rows),
        "headline": ledger.headline(rows),
        "total": {"flops": text.flops(total.flops), "time": text.seconds(total.core_seconds), "artefacts": len(evidence.manifests)},
        "tiles": _tiles(rows),
        "groups": _groups(evidence, rows),
        "confidence": text.percent(evidence.certificate.confidence, 0),
        "transfer": transfer_sections(evidence, panel),
        "certificate": certificate_section(evidence, rows),
        "coordcheck": _coordcheck(evidence, rows),
        "convergence": _convergence(evidence, rows),
        "samples": _samples(evidence),
        "costs": _costs(evidence),
        "differences": _differences(evidence),
        "provenance": provenance_section(evidence),
    }


def _tiles(rows: list[Row]) -> list[dict[str, str]]:
    """The figures that carry the page, large."""
    wanted = {
        "drift-mup-width": "drift of the best rate per doubling of width, μP",
        "drift-sp-width": "the same under SP, the control",
        "speedup-sp-published": f"speed-up against SP as published (paper {SPEEDUP_FACTOR:g}×)",
        "speedup-sp-tuned": "speed-up against SP tuned at the target's own width",
    }
    tiles = []
    for row in rows:
        if row.name not in wanted:
            continue
        factor = row.name.startswith("speedup")
        value = "–" if row.value is None else f"{text.number(row.value)}×" if factor else text.number(row.value, signed=True)
        bounds = text.interval(row.interval, signed=not factor)
        tiles.append({"value": value, "interval": bounds, "label": wanted[row.name], "verdict": row.verdict})
    return tiles


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


def _coordcheck(evidence: Evidence, rows: list[Row]) -> dict[str, Any]:
    from mudit.report.coordcheck_figure import TITLES, curves_panel, slopes_panel

    check = evidence.coordcheck
    section = evidence.config.coordcheck
    panels = [
        panel(f"coordcheck-{what}-{scheme}", f"{label}, {title}", partial(draw, report=check, scheme=scheme), height=height)
        for what, label, draw, height in (
            ("curves", "Activations against width", curves_panel, 4.1),
            ("slopes", "Slopes of every module", slopes_panel, 5.6),
        )
        for scheme, title in TITLES.items()
    ]
    return {
        "row": _row(rows, "rules"),
        "panels": panels,
        "method": (
            f"Widths {text.listed(check['widths'])}, {len(section.seeds)} seeds, {section.steps} steps of AdamW at "
            f"{power(section.log2_lr)} on one fixed batch of {section.batch_size}"
        ),
        "tolerance": f"{check['tolerance']:g}",
    }


def _convergence(evidence: Evidence, rows: list[Row]) -> dict[str, Any]:
    from mudit.report.convergence_figure import LOSSES, draw_losses, draw_speedups

    figures = [
        panel(f"convergence-{loss}", f"Validation loss against steps, {what}", partial(draw_losses, runs=evidence.runs, loss=loss))
        for loss, what in LOSSES.items()
    ]
    factors = speedups(evidence)
    forest = None
    if evidence.subject is not None and factors:
        subject = evidence.subject
        draw = partial(draw_speedups, subject=subject, speedups=factors, arms=evidence.arms)
        forest = panel("speedups", "Speed-up against each arm", draw, width=6.0, height=1.3 + 0.55 * len(factors))
    return {
        "panels": figures,
        "forest": forest,
        "subject": evidence.subject,
        "rows": [row for row in rows if row.name.startswith("speedup-")],
        "arms": [_arm(evidence, arm) for arm in evidence.arms],
    }


def _arm(evidence: Evidence, arm: str) -> dict[str, str]:
    chosen, runs = evidence.hyperparameters[arm], list(evidence.of_arm(arm).values())
    finals = [run.curve(CONVERGENCE_LOSS)[1][-1] for run in runs if run.diverged_at is None]
    diverged = [f"seed {run.target.seed} at step {run.diverged_at}" for run in runs if run.diverged_at is not None]
    return {
        "name": arm,
        "scheme": ledger.SCHEMES[chosen.scheme],
        "log2_lr": text.number(chosen.log2_lr, 2).removesuffix(".00"),
        "source": chosen.source,
        "seeds": str(len(runs)),
        "final": text.significant(sum(finals) / len(finals), 4) if finals else "–",
        "range": f"{text.significant(min(finals), 4)} to {text.significant(max(finals), 4)}" if finals else "–",
        "diverged": "; ".join(diverged) or "none",
    }


def _samples(evidence: Evidence) -> dict[str, Any]:
    from mudit.report.pictures import generated_sheet, real_sheet

    classes = evidence.config.model.num_classes
    targets = list(evidence.metrics)
    shown = [target for target in targets if target.endswith(f"_s{evidence.config.sample.train_seeds[0]}")]
    sheets = [{"name": "real, held out", "uri": real_sheet(evidence.folders["data"], classes)}]
    sheets += [{"name": target, "uri": generated_sheet(evidence.folders[f"sample/{target}"], classes)} for target in shown]
    first = next(iter(evidence.metrics.values()), {})
    names = [name for name in _METRICS if name in first]
    section = evidence.config.sample
    return {
        "sheets": sheets,
        "metrics": [f"{_METRICS[name][0]} {_METRICS[name][1]}" for name in names],
        "lines": [
            {"name": target, "cells": [_metric_cell(evidence.metrics[target][name]) for name in names]} for target in targets
        ],
        "floor": [_floor_cell(_usable(evidence, targets, name)) for name in names],
        "method": (
            f"{section.images} images per run from EMA weights, {section.sampler} with {section.steps} steps, guidance "
            f"{section.guidance:g}, seed {section.seed}; training seed {text.listed(section.train_seeds)}; features of "
            f"{evidence.extractor['name']}"
        ),
        "classifier": evidence.extractor["accuracy"],
    }


def _usable(evidence: Evidence, targets: Iterable[str], name: str) -> dict[str, Any]:
    records = [evidence.metrics[target][name] for target in targets]
    return next((record for record in records if record["value"] is not None), records[0])


def _metric_cell(record: dict[str, Any]) -> dict[str, str]:
    if record["value"] is None:
        return {"value": "–", "beside": record["reason"]}
    bounds = record.get("interval")
    beside = f"[{text.significant(bounds[0])}, {text.significant(bounds[1])}]" if bounds else ""
    if "std" in record:
        beside = f"± {text.significant(record['std'])} over subsets"
    return {"value": text.significant(record["value"], 4 if record["metric"].startswith("validation") else 3), "beside": beside}


def _floor_cell(record: dict[str, Any]) -> str:
    return text.significant(record["matched"]["floor"]) if "matched" in record else "–"


def _costs(evidence: Evidence) -> list[dict[str, str]]:
    return [
        {
            "what": search.what,
            "artefact": search.artefact,
            "trials": str(search.trials),
            "proxy": f"{search.parameters:,} × {search.batch_size} × {search.steps}",
            "target": f"{search.target_parameters:,} × {search.target_batch_size} × {search.target_steps}",
            "share": text.percent(search.share, 1 if search.share < 1 else 0),
            "measured": text.percent(search.measured, 1 if search.measured < 1 else 0),
            "time": text.seconds(spent(evidence.manifests, [search.artefact]).core_seconds),
        }
        for search in searches(evidence)
    ]


def _differences(evidence: Evidence) -> list[tuple[str, str, str]]:
    """What, in the paper, here."""
    config = evidence.config
    model, sweep, train, data = config.model, config.sweep, config.train, config.data
    parameters = evidence.runs[0].outcome["parameters"]
    devices = sorted({manifest["run"]["device"] for manifest in evidence.manifests.values()})
    return [
        (
            "Data",
            "ImageNet, latents of 256-pixel images, 1.28M",
            f"{data.source}, {data.image_size} pixels, encoder {data.encoder}",
        ),
        (
            "Model",
            "DiT, depth 28, 72 channels per head, patch 2",
            f"DiT, depth {model.depth}, {model.head_dim} channels per head, patch {model.patch_size}",
        ),
        (
            "Proxies",
            "widths 144, 288, 576; base 288; batch 256; 200K steps",
            f"widths {text.listed(sweep.widths.width)}; base {model.base_width}; batch {sweep.widths.batch_size}; "
            f"{sweep.widths.steps} steps",
        ),
        (
            "Target",
            "width 1152, 675M parameters, batch 256, 2.4M steps",
            f"width {train.width}, {parameters / 1e6:.2f}M parameters, batch {train.batch_size}, {train.steps} steps",
        ),
        (
            "Learning rates",
            "2⁻¹³ to 2⁻⁹, one seed",
            f"first grid {power(sweep.log2_lr[0])} to {power(sweep.log2_lr[-1])}, grown until the minimum is inside; "
            f"{len(sweep.seeds)} seeds where it decides",
        ),
        ("Judged by", "lowest FID-50K, by eye", "fitted optimum of the validation mse, with intervals and a stated tolerance"),
        (
            "Baselines",
            "DiT's own initialisation, lr 1e-4, not tuned",
            text.listed([name for name in evidence.arms if name != evidence.subject]),
        ),
        (
            "Speed-up",
            "iterations to equal FID",
            f"steps to equal validation mse of EMA weights (decay {train.ema_decay:g})",
        ),
        (
            "Images",
            "50,000, 250 DDPM steps, Inception features",
            f"{config.sample.images}, {config.sample.steps} {config.sample.sampler} steps, {config.evaluate.extractor} features",
        ),
        ("Hardware", "32 A100-80GB", text.listed(devices)),
    ]


def _row(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)
