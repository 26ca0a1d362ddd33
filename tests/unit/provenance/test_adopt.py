"""Results made elsewhere are taken over only if they are what the present configuration and code would make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mudit.errors import ProvenanceError, ResultsError
from mudit.provenance import adopt as adoption
from mudit.provenance import records
from mudit.provenance.adopt import adopt
from mudit.stages import artefacts
from project import Project
from small_disk import small_disk


@pytest.fixture
def cluster(project: Project, tmp_path: Path) -> Path:
    """Another project folder with finished results; this one has none."""
    project.make_all()
    other = tmp_path / "cluster"
    other.mkdir()
    shutil.move("results", other / "results")
    return other


def run(project: Project, source: Path | None = None) -> list[str]:
    return list(adopt(project.config, None, source))


def test_results_here_are_recorded(project: Project) -> None:
    project.make_all()
    lines = run(project)
    assert len(lines) == len(artefacts("smoke", project.experiment))
    assert lines[0] == "smoke/data: recorded in records/smoke/data.json"
    assert run(project) == []
    shutil.rmtree("results")
    assert set(project.states().values()) == {"elsewhere"}


def test_a_clusters_results_are_copied_checked_and_recorded(project: Project, cluster: Path) -> None:
    lines = run(project, cluster)
    assert "smoke/train/mup_s0: copied" in lines
    assert set(project.states().values()) == {"fresh"}
    assert not list(Path("results/smoke").glob(".*"))
    project.ran.clear()
    project.edit_config("neighbours: 3", "neighbours: 4")
    project.make_all()
    assert [name for name in project.ran if not name.startswith("evaluate")] == ["report"]


def test_a_full_disk_is_one_line_and_leaves_no_half(project: Project, cluster: Path) -> None:
    with small_disk(Path("results")) as disk:
        Path("results/other").write_bytes(bytes(2**16))
        disk.fill()
        with pytest.raises(ResultsError, match=r"^smoke/data: cannot write results.*: No space left on device"):
            run(project, cluster)
        assert not list(Path("results").glob("smoke/*"))
        disk.grow()
        assert "smoke/data: copied" in run(project, cluster)


def test_part_of_a_clusters_results_is_enough(project: Project, cluster: Path) -> None:
    shutil.rmtree(cluster / "results/smoke/sample")
    run(project, cluster)
    states = project.states()
    assert states["train/mup_s0"] == "fresh"
    assert states["sample/mup_s0"] == states["report"] == "missing"


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_damaged_artefact_is_refused_and_everything_else_adopted(project: Project, cluster: Path, where: str) -> None:
    if where == "here":
        shutil.move(cluster / "results", "results")
    damaged = (cluster if where == "there" else Path()) / "results/smoke/train/mup_s0/summary.json"
    damaged.write_text("{ }")
    with pytest.raises(ProvenanceError, match=r"smoke/train/mup_s0 is damaged \(summary.json has 3 bytes instead of 2\), so it is"):
        run(project, cluster)
    assert records.read(project.artefact("train/sp-tuned_s0")) is not None
    assert records.read(project.artefact("train/mup_s0")) is None
    if where == "there":
        assert not project.artefact("train/mup_s0").path.exists()


def test_a_stale_artefact_is_refused(project: Project, cluster: Path) -> None:
    project.edit_config("-13.287712379549449", "-12")
    with pytest.raises(ProvenanceError) as raised:
        run(project, cluster)
    assert str(raised.value).startswith("smoke/transfer/sp-published is stale (parameter train.arms.sp-published.log2_lr: ")
    assert str(raised.value).endswith("-> -12.0), so it is not adopted; and 1 more: mudit verify --explain")
    assert project.states()["train/mup_s0"] == "fresh"
    assert not project.artefact("train/sp-published_s0").path.exists()


def test_an_artefact_that_is_here_is_not_replaced(project: Project, cluster: Path) -> None:
    project.make("data")
    before = project.artefact("data").path.stat().st_ino
    assert not any("data: copied" in line for line in run(project, cluster))
    assert project.artefact("data").path.stat().st_ino == before


def test_dvc_hears_of_whole_stages_only(project: Project, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {name: {"foreach": ["smoke"], "do": {"outs": [{f"results/${{item}}/{name}": {}}]}} for name in ("data", "train")}
    Path("dvc.yaml").write_text(json.dumps({"stages": stages}))
    shutil.rmtree(cluster / "results/smoke/train/mup_s0")
    calls: list[list[str]] = []

    def dvc(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(adoption.subprocess, "run", dvc)
    assert "results/smoke/data: in dvc.lock; dvc push sends it" in run(project, cluster)
    assert calls == [[sys.executable, "-m", "dvc", "commit", "--quiet", "--force", "dvc.yaml:data@smoke"]]


def test_a_kill_while_copying_leaves_nothing_behind(project: Project, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: str, target: str) -> None:
        Path(target).write_text("half a f")
        os._exit(9)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, killed, False, False))
            run(project, cluster)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not project.artefact("data").path.exists()
    run(project, cluster)
    assert set(project.states().values()) == {"fresh"}
    assert not list(Path("results/smoke").glob(".*"))
