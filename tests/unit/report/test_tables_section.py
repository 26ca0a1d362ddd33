"""The paper's tables: its own numbers in their places, ours beside them only where the sizes are the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mudit.config.load import load
from mudit.config.schema import Experiment, ImportedSection
from mudit.report import published_tables as published
from mudit.report.evidence import Evidence
from mudit.report.table_cells import Cell, Table
from mudit.report.tables_section import tables_section
from mudit.runs import Setting
from mudit.select.certificate import AxisResult, CurvePoint, SettingResult
from mudit.stages import Job
from support import ROOT, changed

from .captioned import write_store
from .synthetic import AS_PUBLISHED, distance, make_inputs


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
    config = changed(
        evidence.config,
        model__depth=28,
        model__base_width=288,
        sweep__widths__batch_size=256,
        sweep__widths__steps=200_000,
        train__width=1152,
        train__batch_size=256,
        train__steps=2_400_000,
    )
    record = distance("frechet_distance", 18.0) | AS_PUBLISHED
    snapshots = {run.target.name: {400_000: {"frechet_distance": record}} for run in evidence.runs}
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

    @pytest.mark.parametrize("change", [{"data__share": 0.1}, {"sweep__widths__steps": 20_000}, {"sweep__widths__batch_size": 64}])
    def test_a_part_of_the_data_or_of_the_steps_is_not_the_papers(self, desk_evidence: Evidence, change: dict[str, Any]) -> None:
        evidence = paper_sized(desk_evidence)
        figure = tables_section(replace(evidence, config=changed(evidence.config, **change)))[0]
        assert all("not run" in row[-1].value for _, row in figure.rows)

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

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"n": 5_000, "protocol": "any"}, "5,000 images, protocol any, ddpm with 250 steps, guidance 1"),
            (
                {"sampling": {"sampler": "ddpm", "steps": 250, "guidance": 1.5}},
                "50,000 images, protocol fid-50k, ddpm with 250 steps, guidance 1.5",
            ),
            (
                {"sampling": {"sampler": "dpm-solver++", "steps": 250, "guidance": 1.0}},
                "50,000 images, protocol fid-50k, dpm-solver++ with 250 steps, guidance 1",
            ),
            (
                {"reference": {"kind": "data"}},
                "50,000 images, protocol fid-50k, ddpm with 250 steps, guidance 1, against the store's own images",
            ),
            ({"value": None, "reason": "3 of 50000 generated images are not finite"}, "3 of 50000 generated images are not finite"),
        ],
    )
    def test_a_figure_made_in_another_way_is_not_the_papers(
        self, desk_evidence: Evidence, change: dict[str, Any], why: str
    ) -> None:
        evidence = paper_sized(desk_evidence)
        record = distance("frechet_distance", 18.0) | AS_PUBLISHED | change
        snapshots = {run.target.name: {400_000: {"frechet_distance": record}} for run in evidence.runs}
        tables = tables_section(replace(evidence, snapshots=snapshots))
        table = next(table for table in tables if table.title.startswith("Pre-training"))
        row = dict(table.rows)["0.4M"]
        assert [cell.value for cell in row] == ["20.36", "not FID-50K", "18.59", "not FID-50K"] and row[1].beside == why

    def test_every_scored_step_stands_in_a_table_of_ours(self, desk_evidence: Evidence) -> None:
        by_arm = {"mup": 20.0, "sp-published": 30.0}
        snapshots = {
            run.target.name: {160: {"frechet_distance": distance("frechet_distance", by_arm[run.target.arm] + run.target.seed)}}
            for run in desk_evidence.runs
            if run.target.arm in by_arm
        }
        tables = {table.title: table for table in tables_section(replace(desk_evidence, snapshots=snapshots))}
        table = tables["Images at every scored step"]
        assert table.head == ["steps", *desk_evidence.arms]
        assert [label for label, _ in table.rows] == ["160", f"{desk_evidence.config.train.steps:,}"]
        first = dict(zip(table.head[1:], table.rows[0][1], strict=True))
        assert first["mup"].value == "21.00" and first["mup"].best and first["mup"].beside.startswith("[")
        assert first["sp-published"].value == "31.00" and first["sp-tuned"].value == "–"
        assert all(said in table.note for said in ("100 images", "ddpm with 50 steps", "digits-cnn", "no published protocol"))

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
    large = changed(experiment, model__depth=28, train__width=1152, train__batch_size=5632)
    large = large.model_copy(update={"benchmarks": config.experiments["pixart-sa1b"].benchmarks})
    record = distance("frechet_distance", 26.0) | {"protocol": "fid-30k"}
    found = {"mup_s0": {"frechet_distance": record}, "mup_s1": {"frechet_distance": record | {"protocol": "any", "value": 99.0}}}
    table = tables_section(replace(evidence, config=large, benchmarks={"coco": found}))[-2]
    geneval, mjhq, coco, *_ = cells(table, "mup, here")
    assert coco == "26.00" and "not run" in geneval and "not run" in mjhq
    assert "not run" in cells(table, "sp-published, here")[2]
    for other in (changed(large, data__share=0.1), changed(large, train__batch_size=32)):
        table = tables_section(replace(evidence, config=other, benchmarks={"coco": found}))[-2]
        assert "not run" in cells(table, "mup, here")[2]


CHECKPOINTS = {"authors": ImportedSection(folder="imported/authors", content="0" * 64, weights="ema")}


@pytest.fixture(scope="module")
def imported_alone(desk: Experiment, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """An experiment without runs of its own: it scores what came from elsewhere."""
    root = tmp_path_factory.mktemp("imported")
    experiment = changed(desk, sweep=None, select=None, transfer=None, train=None, imported=CHECKPOINTS, sample__train_seeds=[])
    inputs = make_inputs(experiment, digits_folder, root)
    return Evidence.read(Job("dit-digits", experiment, "", inputs, root / "out", root / "state"))


class TestCheckpointsFromElsewhere:
    def test_stand_below_the_last_points_of_the_papers_figure(self, imported_alone: Evidence) -> None:
        (table,) = tables_section(imported_alone)
        assert table.title == "Checkpoints from elsewhere"
        assert [(label, row[0].value) for label, row in table.rows[:-1]] == [
            ("DiT-XL-2 after 2.4M steps, paper", "10.73"),
            ("DiT-XL-2-μP after 2.4M steps, paper", "9.43"),
            ("DiT-XL-2 after 7M steps, paper", "9.58"),
        ]
        assert cells(table, "authors, here") == ["12.00", "6.000", "50.00", "0.6000", "0.5000", "100"]
        assert table.rows[-1][1][-1].beside == "no published protocol"
        assert all(len(row) == len(table.head) - 1 for _, row in table.rows)

    def test_of_the_papers_size_and_protocol_compare_with_it(self, imported_alone: Evidence) -> None:
        scored = {name: record | AS_PUBLISHED for name, record in imported_alone.metrics["authors"].items()}
        config = changed(imported_alone.config, model__depth=28)
        large = replace(imported_alone, config=config, metrics={"authors": scored}, imported={"authors": 1152})
        (table,) = tables_section(large)
        assert table.rows[-1][1][-1] == table.rows[0][1][-1] == Cell("50,000", "FID-50K")
        (table,) = tables_section(replace(large, imported={"authors": 768}))
        assert table.rows[-1][1][-1].beside == "FID-50K, not comparable"

    def test_that_were_not_evaluated_say_so(self, imported_alone: Evidence) -> None:
        (table,) = tables_section(replace(imported_alone, metrics={}))
        assert cells(table, "authors, here")[0] == "not evaluated"

    def test_of_a_text_model_have_a_row_among_its_results(self, imported_alone: Evidence) -> None:
        config = load(ROOT / "config.yaml").experiments["pixart-sa1b"]
        record = distance("frechet_distance", 37.0) | AS_PUBLISHED | {"protocol": "fid-30k"}
        evidence = replace(
            imported_alone,
            config=config,
            imported={"authors": 1152},
            benchmarks={"coco": {"authors": {"frechet_distance": record}}},
        )
        results = tables_section(evidence)[0]
        assert [label for label, _ in results.rows] == ["PixArt-α, paper", "PixArt-α-μP, paper", "authors, imported"]
        assert cells(results, "authors, imported") == ["–", "–", "37.00", "–", "–"]
        smaller = tables_section(replace(evidence, imported={"authors": 288}))[0]
        assert cells(smaller, "authors, imported (width 288: not the paper's size)") == ["–", "–", "37.00", "–", "–"]

    def test_of_the_largest_model_have_its_row(self, imported_alone: Evidence) -> None:
        config = load(ROOT / "config.yaml").experiments["mmdit-18b"]
        evidence = replace(imported_alone, config=config, imported={"theirs": 5120}, benchmarks={})
        assert tables_section(evidence)[0].rows[-1][0] == "theirs, imported"
