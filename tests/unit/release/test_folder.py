"""A release is whole, says what it holds, and cannot be made from results that are not up to date."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mudit.errors import ConfigError, ProvenanceError
from mudit.provenance.adopt import adopt
from mudit.release.folder import release
from mudit.stages import artefacts
from project import Project


def write(project: Project, name: str = "first") -> Path:
    return release(project.config, None, name, Path("releases"))


def test_it_holds_findings_and_every_manifest_with_checksums_that_hold(finished: Project) -> None:
    folder = write(finished)
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    listed = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(listed) == sum(path.is_file() for path in folder.rglob("*")) - 1
    for artefact in artefacts("smoke", finished.experiment):
        assert json.loads((folder / artefact.path / "manifest.json").read_text())["artefact"] == artefact.id
    assert (folder / "results/smoke/report/report.html").read_text() == "<p>found</p>"
    assert not (folder / "results/smoke/train/mup_s0/result.json").exists()
    assert "| a \\| b | 2.9x | 2.3x | reproduced |" in (folder / "README.md").read_text()
    assert [path.name for path in Path("releases").iterdir()] == ["first"]


def test_the_metadata_names_every_file_and_the_run(finished: Project) -> None:
    folder = write(finished)
    graph = {entity["@id"]: entity for entity in json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]}
    listed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed - {"SHA256SUMS"} <= graph.keys()
    action = graph["#run-smoke"]
    assert action["instrument"] == {"@id": "Snakefile"}
    assert action["startTime"] < action["endTime"]
    assert {"@id": "results/smoke/report/report.html"} in action["result"]
    assert {"@id": "https://w3id.org/ro/wfrun/workflow/0.5"} in graph["./"]["conformsTo"]


def test_weights_may_be_elsewhere_but_findings_must_be_here(finished: Project) -> None:
    list(adopt(finished.config, None, None))
    shutil.rmtree("results/smoke/train")
    write(finished)
    shutil.rmtree("results/smoke/select")
    with pytest.raises(ProvenanceError, match="smoke/select is not here, and a release shows it; fetch it with: dvc pull"):
        write(finished, "second")


def test_nothing_stale_is_released_and_nothing_left_behind(finished: Project) -> None:
    finished.edit_config("-13.287712379549449", "-12")
    with pytest.raises(ProvenanceError, match=r"smoke/transfer/sp-published is stale .*, so nothing is released"):
        write(finished)
    assert not Path("releases").exists()


def test_a_full_disk_leaves_nothing_behind(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match="No space"):
        write(finished)
    assert list(Path("releases").iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b"])
def test_names_that_are_no_folders_are_refused(finished: Project, name: str) -> None:
    with pytest.raises(ConfigError, match="a name has letters"):
        write(finished, name)


def test_a_release_does_not_change(finished: Project) -> None:
    write(finished)
    with pytest.raises(ConfigError, match="is there already; take another name"):
        write(finished)


def test_a_place_that_cannot_be_written_is_one_line(finished: Project) -> None:
    Path("taken").write_text("a file")
    with pytest.raises(ConfigError, match=r"release first: taken/below cannot be made or written \(Not a directory\); change --to"):
        release(finished.config, None, "first", Path("taken/below"))
