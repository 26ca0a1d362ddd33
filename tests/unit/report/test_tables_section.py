"""The paper's tables: its own numbers in their places, ours beside them only where the sizes are the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.report import published_tables as published
from mudit.report.evidence import Evidence
from mudit.report.tables_section import Table, tables_section
from mudit.runs import Setting
from mudit.select.certificate import AxisResult, CurvePoint, SettingResult
from mudit.stages import Job
from support import ROOT, changed

from .captioned import write_store
from .synthetic import distance, make_inputs


@pytest.fixture(scope="module")
def desk_evidence(desk: Experiment, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    root = tmp_path_factory.mktemp("tables")
    inputs = make_inputs(desk, digits_folder, root, diverged=("sp-published",))
    return Evidence.read(Job("dit-digits", desk, "", inputs, root / "out", root / "state"))


def by_title(evidence: Evidence) -> dict[str, Table]:
    return {f"{number} {table.title}": table for number, table in enumerate(tables_section(evidence))}


def cells(table: Table, label: str) -> list[str]:
    return next([cell.value for cell in row] for name, row in table.rows if name == label)


def paper_sized(evidence: Evidence) -> Evidence:
    """As if the experiment were the paper's: one of its proxies was swept, and its target trained to 2.4M steps."""
    losses: dict[int, float | None] = {0: 0.2, 1: 0.3}
    curve = [
        CurvePoint(log2_lr=-10, mean=0.25, losses=losses),
        CurvePoint(log2_lr=-9, mean=None, losses={0: 0.2, 1: None}),
    ]
    setting = SettingResult(
        value=144,
        setting=Setting("mup", 144, 256).name,
        steps=200_000,
        curve=curve,
        best_log2_lr=-10,
        best_loss=0.25,
        optimum=-10,
        interval=None,
        vertices={},
        at_stability_edge=True,
    )
    axis = AxisResult(
        axis="width",
        scheme="mup",
        algorithm="Algorithm 1",
        settings=[setting],
        drift=None,
        drift_interval=None,
        verdict="undecided",
        regret=None,
    )
    assert evidence.certificate is not None
    config = changed(evidence.config, model__depth=28, model__base_width=288, train__width=1152, train__steps=2_400_000)
    snapshots = {run.target.name: {400_000: {"frechet_distance": distance("frechet_distance", 18.0)}} for run in evidence.runs}
    return replace(
        evidence, config=config, certificate=evidence.certificate.model_copy(update={"axes": [axis]}), snapshots=snapshots
    )


class TestFigure3:
    def test_has_all_seven_rows_and_what_each_would_take(self, desk_evidence: Evidence) -> None:
        figure = by_title(desk_evidence)["0 Figure 3: the base learning rate of DiT-μP"]
        assert [label for label, _ in figure.rows] == [row.label for row in published.FIGURE_3]
        assert cells(figure, "width 576") == ["66.2", "50.2", "45.0", "43.8", "×", "not run: needs 148 A100-hours per rate"]
        assert all(len(row) == len(figure.head) - 1 for _, row in figure.rows)

    def test_marks_the_best_of_each_row(self, desk_evidence: Evidence) -> None:
        figure = tables_section(desk_evidence)[0]
        best = {label: [cell.value for cell in row if cell.best] for label, row in figure.rows}
        assert best["batch 128"] == ["73.5"] and best["100K steps"] == ["74.3"] and best["width 288"] == ["61.6"]

    def test_puts_ours_below_where_the_very_setting_was_swept(self, desk_evidence: Evidence) -> None:
        figure = tables_section(paper_sized(desk_evidence))[0]
        row = dict(figure.rows)["width 144"]
        assert row[3].beside.startswith("0.2500 [") and row[4].beside == "× 1 of 2" and row[0].beside == "–"
        assert row[-1].value == "below each"
        assert "not run" in cells(figure, "width 288")[-1]

    def test_hours_are_the_papers_where_it_states_them_and_grow_with_work(self) -> None:
        hours = {row.label: row.hours for row in published.FIGURE_3}
        assert hours["width 288"] == pytest.approx(104)
        assert hours["batch 512"] == pytest.approx(208) and hours["100K steps"] == pytest.approx(52)
        assert hours["width 144"] < 104 < hours["width 576"]


def test_the_same_table_at_our_size_has_every_setting_and_rate(desk_evidence: Evidence) -> None:
    table = tables_section(desk_evidence)[1]
    assert desk_evidence.certificate is not None
    settings = [setting for axis in desk_evidence.certificate.axes for setting in axis.settings]
    assert len({id(setting) for setting in settings}) >= len(table.rows) >= 6
    assert sum(cell.best for _, row in table.rows for cell in row) == len(table.rows)
    point = desk_evidence.certificate.axis("width", "mup").settings[0]
    mean = next(each.mean for each in point.curve if each.log2_lr == point.best_log2_lr)
    assert mean is not None
    shown = next(cell.value for cell in table.rows[0][1] if cell.best)
    assert float(shown) == pytest.approx(mean, rel=1e-3)


class TestConvergence:
    def test_of_another_size_is_not_run(self, desk_evidence: Evidence) -> None:
        table = by_title(desk_evidence)["2 Pre-training of DiT-XL-2"]
        assert cells(table, "2.4M") == ["10.73", "not run: needs 5,376 A100-hours", "9.43", "not run: needs 5,376 A100-hours"]
        assert cells(table, "7M") == ["9.58", "not run: needs 15,680 A100-hours", "–", "–"]

    def test_shows_snapshots_of_the_papers_size(self, desk_evidence: Evidence) -> None:
        table = next(table for table in tables_section(paper_sized(desk_evidence)) if table.title.startswith("Pre-training"))
        assert cells(table, "0.4M") == ["20.36", "18.00", "18.59", "18.00"]
        assert "not run" in cells(table, "0.8M")[1]

    def test_at_our_size_leaves_out_diverged_runs(self, desk_evidence: Evidence) -> None:
        table = tables_section(desk_evidence)[3]
        column = table.head.index("sp-published") - 1
        assert {row[column].value for _, row in table.rows} == {"–"}
        assert math.isfinite(float(table.rows[-1][1][0].value))


@pytest.mark.parametrize(("name", "title"), [("pixart-emoji", "PixArt-α-μP"), ("mmdit-emoji", "MMDiT-μP-18B")])
def test_results_of_text_models_stand_beside_ours(name: str, title: str, tmp_path: Path) -> None:
    experiment = load(ROOT / "config.yaml").experiments[name]
    inputs = make_inputs(experiment, write_store(experiment, tmp_path), tmp_path)
    evidence = Evidence.read(Job(name, experiment, "", inputs, tmp_path / "out", tmp_path / "state"))
    *_, results, arms = tables_section(evidence)
    assert results.title == f"Results of {title}"
    assert any("not run" in cell.value for _, row in results.rows for cell in row)
    assert [label for label, _ in arms.rows] == evidence.arms
    assert "CLIP-like score ↑" in arms.head and all(cell.beside.startswith("[") for _, row in arms.rows for cell in row)


def test_benchmarks_of_the_papers_size_stand_below_the_papers(tmp_path: Path) -> None:
    config = load(ROOT / "config.yaml")
    experiment = config.experiments["pixart-emoji"]
    inputs = make_inputs(experiment, write_store(experiment, tmp_path), tmp_path)
    evidence = Evidence.read(Job("pixart-emoji", experiment, "", inputs, tmp_path / "out", tmp_path / "state"))
    large = changed(experiment, model__depth=28, train__width=1152)
    large = large.model_copy(update={"benchmarks": config.experiments["pixart-sa1b"].benchmarks})
    record = distance("frechet_distance", 26.0) | {"protocol": "fid-30k"}
    found = {"mup_s0": {"frechet_distance": record}, "mup_s1": {"frechet_distance": record | {"protocol": "any", "value": 99.0}}}
    table = tables_section(replace(evidence, config=large, benchmarks={"coco": found}))[-2]
    geneval, mjhq, coco, *_ = cells(table, "mup, here")
    assert coco == "26.00" and "not run" in geneval and "not run" in mjhq
    assert "not run" in cells(table, "sp-published, here")[2]
