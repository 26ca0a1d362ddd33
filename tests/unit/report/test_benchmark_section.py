"""The section of public benchmarks: a table each, a line per run, with intervals and what real images reach."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

import mudit.report
from mudit.config.load import load
from mudit.report.benchmark_section import benchmark_record, benchmark_section
from mudit.report.evidence import Evidence, _benchmarks
from support import ROOT


def record(metric: str, value: float | None, **more: Any) -> dict[str, Any]:
    sampling = {"sampler": "dpm-solver++", "steps": 20, "guidance": 4.5, "seed": 0}
    interval = None if value is None else [value - 1, value + 1]
    made = {
        "metric": metric,
        "value": value,
        "interval": interval,
        "n": 30000,
        "weights": {"file": "ema.safetensors"},
        "sampling": sampling,
    }
    return made | more


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    experiment = load(ROOT / "config.yaml").experiments["pixart-sa1b"]
    good = [record("frechet_distance", 25.5), record("clip_score", 27.0, ceiling={"value": 30.5})]
    bad = [record(name, None, reason="7 of 30000 generated images are not finite") for name in ("frechet_distance", "clip_score")]
    geneval = [record("geneval", 0.26), record("geneval/counting", 0.125), record("geneval/position", 0.0625)]
    by_metric = [{each["metric"]: each for each in some} for some in (good, bad, geneval)]
    found = {"coco": {"mup_s0": by_metric[0], "sp-published_s0": by_metric[1]}, "geneval": {"mup_s0": by_metric[2]}}
    folders = {f"benchmark/{run}_{name}": tmp_path / f"{run}_{name}" for name, runs in found.items() for run in runs}
    earlier = [record("frechet_distance", 40.5, step=200), record("clip_score", 20.0, step=200)]
    earlier += [record("frechet_distance", 90.5, step=40), record("clip_score", 15.0, step=40)]
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"snapshots": earlier if name == "benchmark/mup_s0_coco" else []}))
    return SimpleNamespace(config=experiment, benchmarks=found, folders=folders)  # type: ignore[return-value]


def test_a_table_per_benchmark_and_a_line_per_run_and_step(evidence):
    coco, geneval = benchmark_section(evidence)
    assert coco["head"] == ["FID ↓", "CLIP score ↑"] and coco["ceiling"] == ["", "30.5"]
    assert [line["name"] for line in coco["lines"]] == ["mup_s0, step 40", "mup_s0, step 200", "mup_s0", "sp-published_s0"]
    assert coco["lines"][1]["cells"][0]["value"] == "40.5"
    assert coco["lines"][2] == {
        "name": "mup_s0",
        "cells": [{"value": "25.5", "beside": "[24.5, 26.5]"}, {"value": "27.0", "beside": "[26.0, 28.0]"}],
    }
    assert coco["lines"][3]["cells"][0] == {"value": "–", "beside": "7 of 30000 generated images are not finite"}
    assert (
        "MS-COCO (FID-30K). 30,000 images from ema.safetensors, dpm-solver++ with 20 steps, guidance 4.5, seed 0." in coco["note"]
    )
    assert geneval["head"] == ["GenEval, mean of tasks ↑", "counting ↑", "position ↑"]
    assert geneval["note"].startswith("Objects by Mask2Former, colours by CLIP; 4 images of each prompt, intervals over prompts")


def test_the_template_shows_it(evidence):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(mudit.report.__file__).parent / "templates"), undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("benchmarks.html")
    page = template.render(benchmarks=benchmark_section(evidence))
    assert page.count("<table") == 2 and page.count("real images") == 1 and "25.5" in page
    assert template.render(benchmarks=[]).strip() == ""


def test_records_are_found_by_run_benchmark_and_metric(evidence, tmp_path):
    assert benchmark_record(evidence, "mup_s0", "coco", "frechet_distance")["value"] == 25.5
    assert benchmark_record(evidence, "mup_s0", "mjhq", "frechet_distance") is None
    (tmp_path / "metrics.json").write_text('{"records": [{"metric": "geneval", "value": 0.5}]}')
    assert _benchmarks([("mup_s0_geneval", tmp_path)]) == {"geneval": {"mup_s0": {"geneval": {"metric": "geneval", "value": 0.5}}}}
