"""Images and metrics of the target runs as sections of the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mudit.config.published import sampled_weights
from mudit.report import text
from mudit.report.evidence import Evidence, Record
from mudit.report.ledger.quality import limit
from mudit.report.ledger.row import percent_interval
from mudit.report.measures import MEASURES
from mudit.report.pictures import generated_sheet, prompt_sheet, real_sheet

_WEIGHTS = {"ema": "EMA weights", "raw": "raw weights"}
_OF_CLASS = "kernel_distance/"
_SHARES = ("style_accuracy", "subject_accuracy", "composition_accuracy")


def samples_section(evidence: Evidence) -> dict[str, Any]:
    """Images of the first sampled seed and of imported checkpoints beside real ones: sheets for classes, rows for captions."""
    section, folders = evidence.config.sample, evidence.folders
    shown = [name.partition("/")[2] for name in folders if name.startswith("sample/")]
    imported = evidence.config.imported if evidence.config.has("imported") else {}
    endings = tuple(f"_s{seed}" for seed in section.train_seeds[:1])
    shown = [target for target in shown if target in imported or target.endswith(endings)]
    prompts, sheets = None, []
    if evidence.config.model.conditioning == "text":
        prompts = prompt_sheet(folders["data"], {target: folders[f"sample/{target}"] for target in shown})
    else:
        classes = getattr(evidence.config.model, "num_classes", None)
        assert classes is not None, "conditioned on labels"
        sheets = [{"name": "real, held out", "uri": real_sheet(folders["data"], classes)}]
        sheets += [{"name": target, "uri": generated_sheet(folders[f"sample/{target}"], classes)} for target in shown]
    return {
        "sheets": sheets,
        "prompts": prompts,
        "method": (
            f"{section.images} images per run from {_WEIGHTS[sampled_weights(evidence.config)]}, {section.sampler} with "
            f"{section.steps} steps, guidance {section.guidance:g}, seed {section.seed}; "
            f"{_whose(section.train_seeds)}"
        ),
    }


def _whose(seeds: list[int]) -> str:
    return f"training seed{'s' if len(seeds) > 1 else ''} {text.listed(seeds)}" if seeds else "checkpoints from elsewhere"


def metrics_section(evidence: Evidence) -> dict[str, Any]:
    """A line per run, floors and ceilings below, and what the judges themselves can do."""
    targets = list(evidence.metrics)
    first = next(iter(evidence.metrics.values()))
    names = [*(name for name in MEASURES if name in first), *(name for name in first if name.startswith(_OF_CLASS))]
    limits = {
        which: [_limit_cell(_usable(evidence, targets, name), which) for name in names] for which in ("chance", "floor", "ceiling")
    }
    assert evidence.extractor is not None, "evaluation reads the extractor"
    return {
        "names": [_heading(name) for name in names],
        "lines": [{"name": target, "cells": [metric_cell(evidence.metrics[target][name]) for name in names]} for target in targets],
        "limits": {which: cells for which, cells in limits.items() if any(cell != "–" for cell in cells)},
        "extractor": evidence.extractor["name"],
        "classifier": evidence.extractor["accuracy"],
        "scorer": None if evidence.scorer is None else _scorer(evidence.scorer),
        "cautions": _cautions(evidence),
    }


def _cautions(evidence: Evidence) -> list[str]:
    """What a reader must know of the judges, each once."""
    records = [record for by_name in evidence.metrics.values() for record in by_name.values()]
    return sorted({record["caution"] for record in records if record.get("caution")})


def _heading(name: str) -> str:
    if name.startswith(_OF_CLASS):
        return f"kernel distance, {name.removeprefix(_OF_CLASS)} ↓"
    return MEASURES[name].heading


def _scorer(scorer: dict[str, Any]) -> dict[str, Any]:
    """What the scorer reaches on real held-out images, where generated ones cannot be expected to do better."""
    held_out = scorer["held_out"]
    found = [(MEASURES[name].label, held_out[name]) for name in _SHARES if held_out.get(name) is not None]
    found += [(f"a caption finds its image, {k}", share) for k, share in held_out["retrieval"]["all"]["text_to_image"].items()]
    return {
        "held_out_by": scorer["held_out_by"],
        "images": scorer["images"],
        "lines": [
            {
                "what": what,
                "value": f"{text.percent(share['value'])} {percent_interval(share['interval'], 1)}",
                "chance": text.percent(share["chance"]),
                "n": str(share["n"]),
            }
            for what, share in found
        ],
    }


def _usable(evidence: Evidence, targets: Iterable[str], name: str) -> Record:
    records = [evidence.metrics[target][name] for target in targets]
    return next((record for record in records if record["value"] is not None), records[0])


def metric_cell(record: Record) -> dict[str, str]:
    """Value, and its interval or why there is none."""
    if record["value"] is None:
        return {"value": "–", "beside": record["reason"]}
    bounds = record.get("interval")
    beside = f"[{text.significant(bounds[0])}, {text.significant(bounds[1])}]" if bounds else ""
    if "std" in record:
        beside = f"± {text.significant(record['std'])} over subsets"
    return {"value": text.significant(record["value"], 4 if record["metric"].startswith("validation") else 3), "beside": beside}


def _limit_cell(record: Record, which: str) -> str:
    value = limit(record, which)
    return "–" if value is None else text.significant(value)
