"""Averages that a run keeps on its way: what they are, what a resume makes of them, and what a full disk costs."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from mudit.config.consistency import check_fits
from mudit.config.published import PublishedSection
from mudit.config.schema import TrainSection
from mudit.errors import CheckpointError, ResultsError
from mudit.jobs.interrupt import Interrupted
from mudit.train.snapshots import snapshots
from parallel_runs import Case, limited_files, trainer_of
from support import changed


def stop_after(trainer, step: int) -> None:
    """Run, and ask to stop after so many steps."""
    with pytest.raises(Interrupted):
        trainer.run(lambda loss: os.kill(os.getpid(), signal.SIGTERM) if trainer.step == step else None)


@pytest.fixture
def stopped(tmp_path):
    """A run of six steps that left after the third, with a snapshot of the second."""
    case = Case("run", snapshots=(2, 5))
    stop_after(trainer_of(case, tmp_path), 3)
    return case


def test_a_snapshot_is_the_average_of_its_step(stopped, tmp_path):
    kept = {}
    whole = trainer_of(Case("whole", snapshots=(2, 5)), tmp_path)
    whole.run(lambda loss: kept.update({whole.step: [part.clone() for part in whole.ema.model.parameters()]}))
    again = trainer_of(stopped, tmp_path)
    again.resume()
    again.run(lambda loss: None)
    again.snapshots.put(tmp_path / "artefact", {"family": "dit"})
    found = snapshots(tmp_path / "artefact")
    assert list(found) == [2, 5]
    for step, folder in found.items():
        names = [name for name, _ in whole.ema.model.named_parameters()]
        tensors = load_file(folder / "ema.safetensors")
        assert (folder / "model.json").is_file()
        assert all(torch.equal(tensors[name], part) for name, part in zip(names, kept[step], strict=True))
        assert (folder / "ema.safetensors").stat().st_nlink == 2, "the state's own file: no second copy on disk"


def test_a_snapshot_that_the_checkpoint_does_not_know_is_taken_again(stopped, tmp_path):
    folder = tmp_path / "run" / "state" / "snapshots"
    (folder / "step-0000000005").mkdir()
    (folder / ".step-0000000005.partial").mkdir()
    trainer_of(stopped, tmp_path).resume()
    assert [path.name for path in folder.iterdir()] == ["step-0000000002"]


def test_a_damaged_snapshot_from_before_the_checkpoint_is_a_clear_line(stopped, tmp_path):
    (tmp_path / "run" / "state" / "snapshots" / "step-0000000002" / "ema.safetensors").write_bytes(b"else")
    with pytest.raises(CheckpointError, match=r"step-0000000002.*differs from its checksum; remove .*state to start"):
        trainer_of(stopped, tmp_path).resume()


def test_a_disk_that_refuses_a_snapshot_ends_the_run(tmp_path):
    with limited_files(1000), pytest.raises(ResultsError, match=r"cannot write the snapshot of step 2 .*File too large; make room"):
        trainer_of(Case("full", snapshots=(2,)), tmp_path).run(lambda loss: None)


def test_a_diverged_run_has_the_snapshots_from_before(tmp_path):
    trainer = trainer_of(Case("diverging", log2_lr=40.0, snapshots=(1, 5)), tmp_path)
    trainer.run(lambda loss: None)
    assert trainer.history.diverged_at is not None and trainer.history.diverged_at < 5
    assert "step-0000000005" not in trainer.snapshots.taken


@pytest.mark.parametrize("steps", [[20, 10], [10, 10], [640], [10, 641]])
def test_steps_rise_and_lie_below_the_last(desk, steps):
    with pytest.raises(ValueError, match=r"steps must rise, and lie below steps 640"):
        TrainSection.model_validate(desk.train.model_dump() | {"snapshots": steps})


def test_raw_weights_have_no_snapshots(desk):
    published = PublishedSection(switches=["raw-weights"], images_per_process=None)
    with pytest.raises(ValueError, match=r"train\.snapshots: are averages, and the switch raw-weights samples raw weights"):
        check_fits(changed(desk, train__snapshots=[10], published=published))
