"""Which image is used, and what the launcher's commands look like in it. tests/workflow/test_containers.py runs them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from mudit.config.cluster import Workers
from mudit.errors import ConfigError
from mudit.jobs import containers, launch
from mudit.provenance import source
from support import ROOT


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an image and a program called apptainer; what `use` sets is undone."""
    monkeypatch.chdir(tmp_path)
    for name in (containers.IMAGE, containers.ARGUMENTS):
        monkeypatch.setenv(name, "")
    program = tmp_path / "apptainer"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "other.sif").touch()
    return tmp_path


def test_the_image_is_named_after_recipe_and_hashes(tmp_path: Path) -> None:
    folder = tmp_path / "containers"
    folder.mkdir()
    names = set()
    for name in ("train.def", "requirements.hashes"):
        shutil.copy(ROOT / "containers" / name, folder)
    for path in [None, *sorted(folder.iterdir())]:
        if path is not None:
            path.write_text(path.read_text() + "\n")
        names.add(containers.image(tmp_path))
    assert len(names) == 3
    assert {name.parent for name in names} == {folder}


def test_without_an_image_a_command_is_as_it_was(somewhere: Path) -> None:
    assert not containers.used()
    assert containers.python() == sys.executable
    assert containers.inside(["a", "b c"]) == ["a", "b c"]


def test_in_an_image_a_command_has_this_folder_this_source_and_the_further_arguments(
    somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(containers.IMAGE, "other.sif")
    containers.use("--nv --bind '/data of us'")
    assert (containers.used(), containers.python()) == (True, "python3")
    command = containers.inside(["a", "b c"])
    here, code = str(somewhere), str(source.PACKAGE.parent)
    assert command[:9] == ["apptainer", "exec", "--bind", here, "--bind", code, "--pwd", here, "--env"]
    assert command[9:14] == [f"PYTHONPATH={code}", "--nv", "--bind", "/data of us", "other.sif"]
    assert command[-3:] == ["sh", "a", "b c"]


@pytest.mark.parametrize(
    ("gone", "message"),
    [("other.sif", "there is no such image; build it with: containers/build"), ("apptainer", "not on PATH|no apptainer")],
)
def test_what_is_missing_is_said(somewhere: Path, monkeypatch: pytest.MonkeyPatch, gone: str, message: str) -> None:
    monkeypatch.setenv(containers.IMAGE, "other.sif")
    (somewhere / gone).unlink()
    with pytest.raises(ConfigError, match=message):
        containers.use("")


def test_srun_starts_one_apptainer_on_every_machine(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher and srun are outside, torchrun and the ranks inside."""
    monkeypatch.setenv(containers.IMAGE, "other.sif")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    command = launch._command(Workers(nodes=2, per_node=4), 1, ["train", "smoke", "mup_s0"])
    order = [command.index(word) for word in ("srun", "apptainer", "other.sif", "torch.distributed.run", "mudit.jobs.rank")]
    assert order == sorted(order)
    assert sys.executable not in command


def test_one_process_needs_no_torchrun(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(containers.IMAGE, "other.sif")
    command = launch._command(Workers(nodes=1, per_node=1), 1, ["data", "smoke"])
    assert command[-5:] == ["python3", "-m", "mudit.jobs.rank", "data", "smoke"]
    assert "torch.distributed.run" not in command


def test_the_environment_holds_what_the_image_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And outside of an image its digest is that of manifests from before there were images."""
    outside = source.environment.__wrapped__()
    facts = {"recipe": "a", "base": "b", "packages": "c"}
    (tmp_path / "image.json").write_text(json.dumps(facts))
    monkeypatch.setattr(source, "IMAGE", tmp_path / "image.json")
    inside = source.environment.__wrapped__()
    assert "image" not in outside
    assert inside["image"] == facts
    assert inside["digest"] != outside["digest"]
    assert {**inside, "image": None, "digest": None} == {**outside, "image": None, "digest": None}
