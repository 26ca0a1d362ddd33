"""A stage's folder holds the old artefact or the new one, whatever happens."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mudit.config.load import load
from mudit.errors import BusyError, DataError, ProvenanceError, ResultsError
from mudit.provenance import place
from mudit.stages import STAGES, Artefact, Job, artefacts
from project import Project
from support import ROOT

MANIFEST = Path("results/smoke/data/manifest.json")


def files(folder: Path = Path("results")) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_says_what_was_made_and_how(project: Project) -> None:
    assert project.make("data") is True
    manifest = json.loads(MANIFEST.read_text())
    assert manifest["artefact"] == "smoke/data"
    assert manifest["parameters"]["data"]["source"] == {"kind": "sklearn-digits"}
    assert manifest["inputs"] == {}
    assert sorted(manifest["code"]) == ["mudit.data.stage", "mudit.shared"]
    assert sorted(manifest["outputs"]) == ["part/result.json", "summary.json"]
    assert manifest["run"]["command"] == "mudit data smoke"
    assert manifest["run"]["flops"] == 7
    assert manifest["run"]["device"] == "cpu"
    assert manifest["run"]["max_rss_bytes"] > 10**6
    assert manifest["run"]["wall_s"] >= 0
    project.make("extractor")
    reader = json.loads(Path("results/smoke/extractor/manifest.json").read_text())
    assert reader["inputs"] == {"data": manifest["content"]}


def test_a_fresh_artefact_is_not_made_again(project: Project) -> None:
    project.make("data")
    before = files()
    assert project.make("data") is False
    assert project.ran == ["data"]
    assert files() == before
    assert project.make("data", force=True) is True


def test_a_remade_input_with_the_same_files_leaves_its_readers_fresh(project: Project) -> None:
    project.make("data")
    project.make("extractor")
    project.edit_code("mudit.data.stage", "return FACTOR", "return FACTOR * 1")
    assert project.verdict("extractor").reasons == ("input data is stale",)
    project.make("data")
    assert project.verdict("extractor").fresh
    assert project.make("extractor") is False


def test_an_input_that_is_not_fresh_stops_the_stage(project: Project) -> None:
    with pytest.raises(ProvenanceError) as error:
        project.make("extractor")
    assert str(error.value) == "smoke/extractor needs data, which is missing; make it with: mudit data smoke"
    project.make("data")
    project.edit_config("split_seed: 0", "split_seed: 1")
    with pytest.raises(
        ProvenanceError, match=r"which is stale \(parameter data.split_seed: 0 -> 1\); make it with: mudit data smoke"
    ):
        project.make("extractor")
    assert project.ran == ["data"]


@pytest.mark.parametrize("first", [True, False])
def test_a_failed_run_changes_nothing(project: Project, first: bool) -> None:
    if not first:
        project.make("data")
    before = files()

    def fail(job: Job) -> dict[str, Any]:
        (job.out / "half.json").write_text("{")
        raise DataError("the folder is empty")

    project.run = fail
    with pytest.raises(DataError, match="the folder is empty"):
        project.make("data", force=True)
    assert files() == before
    assert list(Path("results/smoke").glob(".*")) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EACCES, "Permission denied", "results/smoke/data"),
        OSError(errno.EROFS, "Read-only file system"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_results_that_cannot_be_written_give_one_line(project: Project, error: Exception) -> None:
    def fail(job: Job) -> dict[str, Any]:
        raise error

    project.run = fail
    with pytest.raises(ResultsError, match=r"smoke/data: cannot write results/smoke/data: .*; the artefact is as it was"):
        project.make("data")


def test_an_unreadable_source_is_not_a_results_error(project: Project) -> None:
    def fail(job: Job) -> dict[str, Any]:
        raise PermissionError(errno.EACCES, "Permission denied", "elsewhere/image.png")

    project.run = fail
    with pytest.raises(PermissionError):
        project.make("data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_results(project: Project) -> None:
    Path("results").mkdir(mode=0o500)
    with pytest.raises(ResultsError, match="Permission denied"):
        project.make("data")


def test_two_processes_do_not_make_the_same_artefact(project: Project) -> None:
    project.make("data")
    with Path("state/locks/smoke.data").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert place.locked(project.artefact("data"))
        with pytest.raises(BusyError, match="another process is making it"):
            project.make("data", force=True)
    assert not place.locked(project.artefact("data"))
    assert project.make("data", force=True)


def test_who_only_looks_at_the_lock_keeps_nobody_from_work(project: Project) -> None:
    project.make("data")
    with Path("state/locks/smoke.data").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not place.locked(project.artefact("data"))
        timer = threading.Timer(0.2, file.close)
        timer.start()
        assert project.make("data", force=True)


def test_leftovers_of_killed_runs_are_cleared(project: Project) -> None:
    project.make("data")
    before = files()
    leftover = Path("results/smoke/.new-data~abc")
    leftover.mkdir()
    (leftover / "half.json").write_text("{")
    assert project.make("data") is False
    assert not leftover.exists()
    assert files() == before


@pytest.mark.parametrize("what", ["new", "old"])
def test_a_stop_between_the_renames_is_mended(project: Project, what: str) -> None:
    project.make("data")
    content = {path.name: path.read_text() for path in Path("results/smoke/data").glob("*.json")}
    Path("results/smoke/data").rename(f"results/smoke/.{what}-data~abc")
    assert project.make("data") is False
    assert {path.name: path.read_text() for path in Path("results/smoke/data").glob("*.json")} == content
    assert project.ran == ["data"]


def test_a_damaged_artefact_is_replaced_whole(project: Project) -> None:
    project.make("data")
    Path("results/smoke/data/summary.json").write_text("[]")
    Path("results/smoke/data/stray.txt").write_text("stray")
    assert project.make("data") is True
    assert project.verdict("data").fresh
    assert not Path("results/smoke/data/stray.txt").exists()


def test_an_empty_folder_in_the_way_is_replaced(project: Project) -> None:
    Path("results/smoke/data").mkdir(parents=True)
    assert project.make("data") is True


def test_undeclared_sections_cannot_be_read(project: Project) -> None:
    def peek(job: Job) -> dict[str, Any]:
        return {"seed": job.config.train.seeds}

    project.run = peek
    with pytest.raises(AssertionError, match="stage data reads section 'train'"):
        project.make("data")


def test_a_stage_must_write_something(project: Project) -> None:
    project.run = lambda job: {}
    with pytest.raises(AssertionError, match="wrote no files"):
        project.make("data")


def test_state_survives_a_failed_run_and_is_removed_after_the_last(project: Project) -> None:
    def resume(job: Job) -> dict[str, Any]:
        job.state.mkdir(parents=True, exist_ok=True)
        progress = job.state / "progress"
        if not progress.exists():
            progress.write_text("half")
            raise RuntimeError("killed")
        (job.out / "found.json").write_text(progress.read_text())
        return {}

    project.run = resume
    with pytest.raises(RuntimeError):
        project.make("data")
    project.make("data")
    assert Path("results/smoke/data/found.json").read_text() == "half"
    assert not Path("state/smoke/data").exists(), "spent"


def test_work_survives_a_stop_before_its_artefact_is_in_place(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    worked = []

    def work(job: Job) -> dict[str, Any]:
        if not (job.state / "work").exists():
            worked.append(job.key)
            (job.state / "work").write_text("dear")
        (job.out / "found.json").write_text((job.state / "work").read_text())
        return {}

    project.run = work
    with monkeypatch.context() as stopped:
        stopped.setattr(place, "put", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            project.make("data")
    project.make("data")
    assert len(worked) == 1
    assert not Path("state/smoke/data").exists()


def test_results_can_be_copied_elsewhere(project: Project, tmp_path: Path) -> None:
    """Nothing in a final file or manifest names a path of the machine."""
    project.make_all()
    for path, text in files().items():
        assert str(tmp_path) not in text, path
    shutil.copytree("results", "copy")


def test_prefixes_of_artefacts_do_not_overlap(project: Project) -> None:
    """Clearing one artefact's leftovers must not take another's: no prefix starts another."""
    names = [place._prefix(project.artefact(name), "new") for name in project.states()]
    for name, experiment in load(ROOT / "config.yaml").experiments.items():
        names += [f"{name} {place._prefix(each, 'new')}" for each in artefacts(name, experiment)]
    assert not [(a, b) for a in names for b in names if a != b and b.startswith(a)]


def test_clearing_one_artefacts_leftovers_leaves_those_of_one_whose_name_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may be at work at once."""
    monkeypatch.chdir(tmp_path)
    mup, default = (Artefact("mmdit-emoji", STAGES["transfer"], key) for key in ("mup", "mup-default"))
    Path("results/mmdit-emoji").mkdir(parents=True)
    at_work, leftover = place.new(default), place.new(mup)
    place.recover(mup)
    assert at_work.exists() and not leftover.exists()
