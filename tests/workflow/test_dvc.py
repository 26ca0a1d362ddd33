"""DVC walks the same stages, by name too, and brings results to another clone."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Workspace

pytestmark = pytest.mark.slow


def commit(workspace: Workspace, message: str) -> None:
    workspace.run("git", "add", "--all")
    workspace.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message", message)


@pytest.fixture(scope="module")
def recorded_once(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project in Git whose results `dvc repro` has recorded."""
    path = tmp_path_factory.mktemp("recorded") / "project"
    shutil.copytree(finished_once, path, symlinks=True)
    workspace = Workspace(path)
    workspace.run("git", "init", "--quiet")
    workspace.run("dvc", "repro")
    commit(workspace, "results")
    return path


@pytest.fixture
def repository(recorded_once: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(recorded_once, tmp_path / "project", symlinks=True)
    return Workspace(tmp_path / "project")


def test_results_of_snakemake_are_recorded_without_running_anything_again(repository: Workspace) -> None:
    assert "up to date" in repository.run("dvc", "status").stdout
    output = repository.run("dvc", "repro").stdout
    assert output.count("didn't change, skipping") == 10
    assert not [line for line in repository.run("git", "ls-files").stdout.splitlines() if line.startswith(("results", "state"))]


def test_a_clone_pulls_results_and_has_nothing_to_do(repository: Workspace, tmp_path: Path) -> None:
    repository.run("dvc", "push")
    subprocess.run(["git", "clone", "--quiet", repository.path, tmp_path / "other"], check=True)
    other = Workspace(tmp_path / "other")
    other.run("dvc", "remote", "modify", "--local", "local", "url", str(repository.path / ".dvc/remote"))
    other.run("dvc", "pull")
    assert other.run("mudit", "verify").stdout.endswith("29 of 29 artefacts are fresh\n")
    assert other.planned() == Counter()
    assert "up to date" in other.run("dvc", "status").stdout


def test_a_stage_by_name_runs_what_it_needs_and_no_more(repository: Workspace) -> None:
    repository.edit("config.yaml", "-13.287712379549449", "-12.0")
    output = repository.run("dvc", "repro", "transfer").stdout
    assert "transfer@smoke" in output
    assert repository.planned() == Counter({"train": 1, "sample": 1, "evaluate": 1, "report": 1})
    status = repository.run("dvc", "status", "transfer").stdout
    assert "up to date" in status
