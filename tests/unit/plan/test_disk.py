"""Room on the disks for what is still to be made: what killed runs left is counted once, and each disk by itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mudit.config.load import load
from mudit.config.schema import Config
from mudit.errors import DataError
from mudit.plan import disk
from mudit.plan.preflight import check
from mudit.plan.study import study_plan
from mudit.provenance.resume import claim
from mudit.provenance.verdict import Inspector, inspect
from mudit.stages import parse
from support import ROOT, changed

DIT = "dit-imagenet"
GB = 10**9


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    for place in ("data/imagenet/train", "models/sd-vae-ft-ema"):
        Path(place).mkdir(parents=True)
    Path("data/VIRTUAL_imagenet256_labeled.npz").touch()
    return load(ROOT / "config.yaml")


@pytest.fixture
def other_disk() -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("needs /dev/shm on a file system of its own")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def _free(monkeypatch: pytest.MonkeyPatch, **free: int) -> None:
    """Bytes free on the disk of the working directory, `here`, and on any other."""
    device = Path.cwd().stat().st_dev

    def usage(place: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free["here" if place.stat().st_dev == device else "there"])

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)


def _fits(config: Config) -> bool:
    try:
        check(config, DIT, inspect(config, DIT, quick=True))
    except DataError as error:
        text = str(error)
    else:
        return True
    assert "may yet fill" in text and "\n" not in text
    return False


def _left(config: Config, name: str, size: int) -> Path:
    """What a killed run left in its state: one file with a hole of `size` bytes."""
    artefact = parse(DIT, name)
    recipe = Inspector(config.experiments[DIT], quick=True).recipe(artefact)
    claim(artefact.state, recipe, afresh=False)
    (artefact.state / "shard").touch()
    os.truncate(artefact.state / "shard", size)
    return artefact.state


def test_what_a_killed_run_left_needs_no_room_again(config, monkeypatch):
    _free(monkeypatch, here=study_plan(config, DIT).total.bytes - 30 * GB)
    assert not _fits(config)
    _left(config, "data", 29 * GB)
    assert not _fits(config)
    _left(config, "train/mup_s0", 2 * GB)
    assert _fits(config)


def test_state_that_no_job_goes_on_with_is_in_the_way(config, monkeypatch):
    _free(monkeypatch, here=study_plan(config, DIT).total.bytes - 30 * GB)
    state = _left(config, "data", 31 * GB)
    edited = config.model_copy(update={"experiments": {DIT: changed(config.experiments[DIT], data__split_seed=7)}})
    assert _fits(config) and not _fits(edited)
    claim(state, Inspector(edited.experiments[DIT], quick=True).recipe(parse(DIT, "data")), afresh=False)
    assert _fits(config), "it comes back when the edit is taken back"
    assert not _fits(edited)


def test_a_job_makes_no_more_room_than_it_was_to_take(config, monkeypatch):
    whole = study_plan(config, DIT)
    _free(monkeypatch, here=whole.total.bytes - whole.jobs[f"{DIT}/data"].result_bytes - GB)
    _left(config, "data", 500 * GB)
    assert not _fits(config)


def test_results_and_state_on_two_disks_are_asked_each(config, monkeypatch, other_disk):
    """`state` is a link to a disk where its folder is yet to be made. What would be a link on one disk is a copy there."""
    Path("state").symlink_to(other_disk / "state")
    jobs = study_plan(config, DIT).jobs.values()
    here = sum(job.result_bytes for job in jobs)
    there = sum(job.state_bytes + job.linked_bytes for job in jobs)
    for less_here, less_there, fits in ((0, 0, True), (1, 0, False), (0, 1, False)):
        _free(monkeypatch, here=here - less_here, there=there - less_there)
        assert _fits(config) == fits
