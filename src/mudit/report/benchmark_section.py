"""Public text-to-image benchmarks as a section of the page: a table per benchmark, a line per run and step of its weights."""

from __future__ import annotations

import json
from typing import Any

from mudit.config.benchmarks import FidClipSection
from mudit.report import text
from mudit.report.evidence import Evidence, Record
from mudit.report.images_section import metric_cell
from mudit.runs import Benchmarked

_LABELS = {
    "frechet_distance": ("Fréchet distance", "↓"),
    "clip_score": ("CLIP score", "↑"),
    "geneval": ("GenEval, mean of tasks", "↑"),
    "geneval/single_object": ("single object", "↑"),
    "geneval/two_object": ("two objects", "↑"),
    "geneval/counting": ("counting", "↑"),
    "geneval/colors": ("colours", "↑"),
    "geneval/position": ("position", "↑"),
    "geneval/color_attr": ("colour attribution", "↑"),
}
_SETS = {"coco": "MS-COCO", "mjhq": "MJHQ-30K"}
_PROTOCOLS = {"fid-30k": "FID-30K", "geneval": "GenEval as published", "any": "no published protocol"}


def benchmark_record(evidence: Evidence, run: str, benchmark: str, metric: str) -> Record | None:
    """One record of one run; None if it was not put to that benchmark."""
    return evidence.benchmarks.get(benchmark, {}).get(run, {}).get(metric)


def benchmark_section(evidence: Evidence) -> list[dict[str, Any]]:
    """A table per benchmark that was run; empty without any."""
    return [_table(evidence, name, runs) for name, runs in evidence.benchmarks.items() if runs]


def _table(evidence: Evidence, name: str, runs: dict[str, dict[str, Record]]) -> dict[str, Any]:
    first = next(iter(runs.values()))
    metrics = [metric for metric in _LABELS if metric in first]
    return {
        "title": name,
        "note": _note(evidence, name, first),
        "head": [_heading(metric, evidence.config.benchmarks[name].protocol) for metric in metrics],
        "lines": [
            {"name": title, "cells": [metric_cell(records[metric]) for metric in metrics]}
            for run, last in runs.items()
            for title, records in [*_snapshots(evidence, run, name), (run, last)]
        ],
        "ceiling": [_ceiling(_usable(runs, metric)) for metric in metrics],
    }


def _snapshots(evidence: Evidence, run: str, name: str) -> list[tuple[str, dict[str, Record]]]:
    """Title and records of the sets before the last one of a run, by step."""
    path = evidence.folders[f"benchmark/{Benchmarked(run, name).name}"] / "metrics.json"
    records: list[Record] = json.loads(path.read_text(encoding="utf-8")).get("snapshots", [])
    steps = sorted({record["step"] for record in records})
    return [(f"{run}, step {step:,}", {record["metric"]: record for record in records if record["step"] == step}) for step in steps]


def _heading(metric: str, protocol: str) -> str:
    """A distance is called FID where it is one: of Inception's features and the protocol's number of images."""
    label, better = _LABELS[metric]
    return f"{'FID' if protocol == 'fid-30k' and metric == 'frechet_distance' else label} {better}"


def _note(evidence: Evidence, name: str, records: dict[str, Record]) -> str:
    section, one = evidence.config.benchmarks[name], next(iter(records.values()))
    sampling = one["sampling"]
    drawn = (
        f"{one['n']:,} images from {one['weights']['file']}, {sampling['sampler']} with {sampling['steps']} steps, "
        f"guidance {sampling['guidance']:g}, seed {sampling['seed']}"
    )
    if isinstance(section, FidClipSection):
        what = f"Prompts and reference images of {_SETS[section.prompts.kind]}"
    else:
        what = f"Objects by Mask2Former, colours by CLIP; {section.images_per_prompt} images of each prompt, intervals over prompts"
    return f"{what} ({_PROTOCOLS[section.protocol]}). {drawn}."


def _usable(runs: dict[str, dict[str, Record]], metric: str) -> Record:
    records = [by_metric[metric] for by_metric in runs.values()]
    return next((record for record in records if record["value"] is not None), records[0])


def _ceiling(record: Record) -> str:
    """What real images reach, where that is known."""
    ceiling = record.get("ceiling")
    return "" if ceiling is None else text.significant(ceiling["value"])
