"""One run in one process: what a full disk costs it, parts of a batch, and what it tells of itself."""

from __future__ import annotations

import json
import logging
import os
import signal
import time

import pytest
import torch

from mudit.errors import ResultsError
from mudit.jobs.interrupt import DEADLINE, Interrupted
from mudit.train.watch import watching
from parallel_runs import Case, limited_files, trainer_of


def _asking_at(step: int, losses: list[float]):
    """Counts losses, and asks the process to stop after some of them."""

    def advance(loss: float) -> None:
        losses.append(loss)
        if len(losses) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return advance


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, caplog):
    expected: list[float] = []
    trainer_of(Case("whole"), tmp_path).run(expected.append)
    trainer, losses = trainer_of(Case("full", checkpoint_every=2), tmp_path), []
    with limited_files(1000), caplog.at_level(logging.WARNING):
        trainer.run(losses.append)
    assert losses == expected
    assert caplog.text.count("File too large; there is no older one; the run goes on") == 3
    assert list((tmp_path / "full" / "state" / "checkpoints").iterdir()) == []


def test_a_disk_that_is_free_again_takes_the_next_checkpoint(tmp_path):
    trainer, losses = trainer_of(Case("free-again", checkpoint_every=2), tmp_path), []

    def advance(loss: float) -> None:
        losses.append(loss)
        if len(losses) == 4:  # before the checkpoint of step 4; that of step 2 met the limit
            trainer._unless_refused(trainer.checkpoints.finish)
            limit.__exit__(None, None, None)

    limit = limited_files(1000)
    limit.__enter__()
    trainer.run(advance)
    kept = (tmp_path / "free-again" / "state" / "checkpoints").iterdir()
    assert sorted(folder.name for folder in kept) == ["step-00000004", "step-00000006"]


def test_a_finished_run_whose_weights_could_not_be_written_trains_no_step_again(tmp_path):
    trainer = trainer_of(Case("finished"), tmp_path)
    history = trainer.run(lambda loss: None)
    again = trainer_of(Case("finished"), tmp_path)
    again.resume()
    assert again.step == again.spec.steps
    assert again.run(pytest.fail).records == history.records
    for one, other in zip(trainer.ema.model.parameters(), again.ema.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_that_must_stop_and_cannot_save_says_so(tmp_path):
    trainer, losses = trainer_of(Case("stopped"), tmp_path), []
    with limited_files(1000), pytest.raises(ResultsError, match=r"cannot write the checkpoint of step 4 .*File too large"):
        trainer.run(_asking_at(3, losses))
    assert len(losses) == 4


def test_a_run_stops_ahead_of_its_deadline(tmp_path, monkeypatch):
    """By the time of a step: with steps of 10 s and a deadline at 35 s, there is no time for a fourth."""
    trainer, now = trainer_of(Case("limited"), tmp_path), [0.0]
    step = trainer._train_step

    def ten_seconds() -> float:
        now[0] += 10
        return step()

    monkeypatch.setattr(trainer, "_train_step", ten_seconds)
    monkeypatch.setenv(DEADLINE, "35")
    for clock in ("time", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: now[0])
    with pytest.raises(Interrupted):
        trainer.run(lambda loss: None)
    assert trainer.step == trainer.checkpoints.newest == 3


def test_gradients_of_parts_add_up_to_those_of_the_batch(tmp_path):
    """To the rounding of float32, with activations computed again as well."""
    whole, parts = (
        trainer_of(Case("whole", "mmdit"), tmp_path),
        trainer_of(Case("parts", "mmdit", micro_batch=2, checkpoint_activations=True), tmp_path),
    )
    for trainer in (whole, parts):
        trainer._train_step()
    for (name, a), (_, b) in zip(whole.model.named_parameters(), parts.model.named_parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_run_tells_where_it_is(tmp_path):
    trainer, losses = trainer_of(Case("told", steps=7, checkpoint_every=2), tmp_path), []
    state = tmp_path / "told" / "state"

    def told():
        return json.loads((state / "progress.json").read_text())

    with pytest.raises(Interrupted), watching(trainer, state, artefact="a/train/told", name="told") as watch:
        trainer.run(_asking_at(4, losses), watch.record)
    assert (told()["state"], told()["step"], told()["steps"], told()["checkpoint_step"]) == ("interrupted", 5, 7, 5)
    again = trainer_of(Case("told", steps=7, checkpoint_every=2), tmp_path)
    again.resume()
    with watching(again, state, artefact="a/train/told", name="told") as watch:
        again.run(watch.advance, watch.record)
    found = told()
    assert (found["artefact"], found["state"], found["step"], found["processes"]) == ("a/train/told", "finished", 7, 1)
    assert [step for step, _ in found["history"]] == [3, 6, 7] and found["loss"] > 0 and found["images_per_second"] > 0
