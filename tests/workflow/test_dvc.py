"""Snakemake and DVC never disagree: what one made the other does not make again, whatever the file times say. Revisions compare."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mudit.provenance.source import digest

from .conftest import Workspace

pytestmark = pytest.mark.slow

STAGES = 10
ARTEFACTS = 29


def made(workspace: Workspace) -> dict[str, str]:
    """When and how each artefact was made: its manifest, which a stage that runs again replaces."""
    files = workspace.path.glob("results/smoke/**/manifest.json")
    return {file.parent.relative_to(workspace.path / "results/smoke").as_posix(): digest(file.read_text()) for file in files}


def nothing_to_do(workspace: Workspace) -> bool:
    """For both engines. That DVC's walk runs no stage follows from its status, which compares the same things."""
    return workspace.planned() == Counter() and "up to date" in workspace.run("dvc", "status").stdout


@pytest.fixture(scope="module")
def two_revisions(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in Git with two revisions of results: Snakemake made the first and DVC, after an edit, the second."""
    path = tmp_path_factory.mktemp("recorded") / "project"
    shutil.copytree(finished_once, path, symlinks=True)
    workspace = Workspace(path)
    workspace.run("git", "init", "--quiet")
    before = made(workspace)
    workspace.run("dvc", "repro", "select")  # through the workflow, which finds nothing to do
    workspace.run("mudit", "adopt")  # the short way for the rest
    assert workspace.run("dvc", "repro").stdout.count("didn't change, skipping") == STAGES
    assert made(workspace) == before
    workspace.commit("made by Snakemake")

    workspace.edit("config.yaml", "-13.287712379549449", "-12.0")
    planned = workspace.planned()
    assert planned == Counter({"transfer": 1, "train": 1, "sample": 1, "evaluate": 1, "report": 1})
    assert "transfer@smoke" in workspace.run("dvc", "repro", "transfer").stdout
    assert workspace.planned() == planned - Counter({"transfer": 1})
    workspace.run("dvc", "repro")
    after = made(workspace)
    again = {name for name in after if after[name] != before[name]}
    assert again == {
        "transfer/sp-published",
        "train/sp-published_s0",
        "sample/sp-published_s0",
        "evaluate/sp-published_s0",
        "report",
    }
    workspace.run("mudit", "adopt")
    workspace.commit("made by DVC")
    return path


@pytest.fixture
def repository(two_revisions: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(two_revisions, tmp_path / "project", symlinks=True)
    return Workspace(tmp_path / "project")


def test_no_revision_is_made_again_whatever_the_file_times_say(repository: Workspace) -> None:
    tracked = repository.run("git", "ls-files").stdout.splitlines()
    assert not [name for name in tracked if name.startswith(("results", "state"))]
    times = random.Random(0)
    for revision in ("HEAD~1", "-"):
        repository.run("git", "checkout", "--quiet", revision)
        repository.run("dvc", "checkout")
        shutil.rmtree(repository.path / ".snakemake")
        for file in repository.path.rglob("*"):
            if file.is_file() and ".git" not in file.parts and ".dvc" not in file.parts:
                os.utime(file, (times.uniform(1e9, 2e9),) * 2)
        assert nothing_to_do(repository)
        verified = repository.run("mudit", "verify").stdout
        assert verified.endswith(f"{ARTEFACTS} of {ARTEFACTS} artefacts are fresh\n")


def test_both_engines_find_the_same_stages_stale(repository: Workspace) -> None:
    repository.edit("config.yaml", "kid_subsets: 5", "kid_subsets: 6")
    repository.edit("src/mudit/select/certificate.py", "\n\n\n", "\n\n\nADDED = 1\n\n\n")
    verdicts = json.loads(repository.run("mudit", "verify", "--json", check=False).stdout)["artefacts"]
    ours = {
        each["artefact"].split("/")[1] for each in verdicts if any(not reason.startswith("input ") for reason in each["reasons"])
    }
    theirs = json.loads(repository.run("dvc", "status", "--json").stdout)
    assert ours == {name.partition("@")[0] for name in theirs} == {"select", "transfer", "evaluate", "report"}


def test_numbers_and_curves_compare_across_revisions(repository: Workspace) -> None:
    numbers = json.loads(repository.run("dvc", "metrics", "diff", "--json", "HEAD~1", "HEAD").stdout)
    changed = numbers["results/smoke/report/metrics.json"]
    assert changed
    assert all(change["old"] != change["new"] for change in changed.values())
    repository.run("dvc", "plots", "diff", "--out", "compared", "HEAD~1", "HEAD")
    page = (repository.path / "compared/index.html").read_text()
    assert re.search(r'"rev": "HEAD~1"', page)
    assert re.search(r'"rev": "HEAD"', page)
