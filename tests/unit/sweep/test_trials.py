"""Running packs: horizons, divergence as a result, the journal."""

from __future__ import annotations

import errno
import math

import pytest

from mudit.jobs.interrupt import Interrupt
from mudit.parametrization.table import table_for
from mudit.sweep import packs as packs_module
from mudit.sweep.records import Journal, TrialRecord, losses
from mudit.sweep.running import PackRun
from mudit.sweep.trials import PackedRuns
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs
from mudit.train.validation import ValidationSet


def _silent(*args, **columns):
    pass


def _member(log2_lr, seed):
    return Member(Knobs(log2_lr, None, 0, 0.0), seed)


def _group(desk, digits, members, scheme="sp", width=32):
    return TrialGroup(desk, digits, table_for(desk.model, width, scheme), members, 16)


def _run(desk, digits, members, horizons=(10, 20), factor=2.0, advance=_silent):
    run = PackRun(lambda some: _group(desk, digits, some), members)
    assert sum(1 for _ in run.steps(ValidationSet(digits, desk), horizons, factor, advance)) < horizons[-1]
    return run.records()


class _Watch:
    """Counts what it is told."""

    def __init__(self):
        self.expected = self.done = 0

    def expect(self, trial_steps):
        self.expected += trial_steps

    def advance(self, trial_steps, **columns):
        self.done += trial_steps

    def waiting(self):
        raise AssertionError("one process never waits")


def test_a_diverged_trial_is_recorded_stops_and_changes_no_other(desk, digits, monkeypatch):
    steps = []
    step_once = TrialGroup.step

    def counted(group, step):
        losses = step_once(group, step)
        steps.append(len(losses))
        return losses

    monkeypatch.setattr(TrialGroup, "step", counted)
    good, bad = _member(-8, 0), _member(3, 0)
    first, second = _run(desk, digits, [good, bad])
    assert first.status == "finished" and set(first.losses) == {10, 20}
    assert second.status == "diverged" and second.diverged_at is not None and second.diverged_at < 20
    assert math.isinf(second.loss(20))
    assert sum(steps) == 20 + second.diverged_at + 1, "a diverged trial costs nothing more"
    assert sum(steps) == first.steps_run(20) + second.steps_run(20)
    (alone,) = _run(desk, digits, [good])
    assert alone == first


def test_a_group_in_which_all_diverge_ends(desk, digits):
    records = _run(desk, digits, [_member(3, 0), _member(4, 1)])
    assert [(record.seed, record.status) for record in records] == [(0, "diverged"), (1, "diverged")]


def test_progress_counts_the_steps_that_divergence_saves(desk, digits):
    watch = _Watch()
    _run(desk, digits, [_member(-8, 0), _member(3, 0)], horizons=(20,), advance=watch.advance)
    assert watch.done == 40


@pytest.mark.parametrize("size", [1, 2, 5])
def test_packs_of_any_size_give_the_same_records(desk, digits, monkeypatch, tmp_path, size):
    monkeypatch.setattr("mudit.sweep.trials.measure_group_size", lambda make, members, rehearse: (size, {size: 0.001}))
    members = [_member(log2_lr, seed) for seed in (0, 1) for log2_lr in (-8, 3)]
    watch, packs = _Watch(), []
    with Interrupt() as interrupt:
        runs = PackedRuns(
            "test",
            lambda some: _group(desk, digits, some),
            ValidationSet(digits, desk),
            (10,),
            2.0,
            state=tmp_path,
            interrupt=interrupt,
            watch=watch,
        )
        runs.run(members, packs.append)
        runs.run([], packs.append)
    assert [len(pack) for pack in packs] == {1: [1] * 4, 2: [2, 2], 5: [4]}[size]
    assert [member for pack in packs for member, _ in pack] == members
    assert [record for pack in packs for _, record in pack] == _run(desk, digits, members, horizons=(10,))
    assert watch.done == watch.expected == 40


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(desk, digits, monkeypatch, tmp_path, caplog, code):
    """Every second checkpoint fails; what the run records stays the same."""
    monkeypatch.setattr("mudit.sweep.trials.measure_group_size", lambda make, members, rehearse: (2, {}))
    monkeypatch.setattr("mudit.sweep.trials.SAVE_EVERY_S", 0.0)
    save, saved = packs_module.save_tensors, []

    def sometimes(tensors, path):
        saved.append(path)
        if len(saved) % 2 == 0:
            raise OSError(code, "no space", str(path))
        save(tensors, path)

    monkeypatch.setattr(packs_module, "save_tensors", sometimes)
    members, records = [_member(-8, 0), _member(-7, 0)], []
    with Interrupt() as interrupt:
        make, validation = (lambda some: _group(desk, digits, some)), ValidationSet(digits, desk)
        runs = PackedRuns("test", make, validation, (10,), 2.0, state=tmp_path, interrupt=interrupt, watch=_Watch())
        runs.run(members, records.extend)
    assert [record for _, record in records] == _run(desk, digits, members, horizons=(10,))
    assert len(saved) == 9 and caplog.text.count("the disk is full") == 4


def test_one_run_serves_every_horizon(desk, digits):
    """The learning rate is constant: stopping at 10 gives what the long run recorded at 10."""
    (long,) = _run(desk, digits, [_member(-7, 1)])
    (short,) = _run(desk, digits, [_member(-7, 1)], horizons=(10,))
    assert long.losses[10] == short.losses[10]


def test_first_loss_is_that_of_predicting_no_noise(desk, digits):
    (record,) = _run(desk, digits, [_member(-7, 0)], horizons=(1,))
    assert 0.9 < record.first_loss < 1.2


def _record(seed: int) -> TrialRecord:
    losses = {10: {"mse": 0.1 + seed, "vb": 0.2, "train": 0.3}}
    return TrialRecord(log2_lr=-7.5, seed=seed, status="finished", diverged_at=None, first_loss=1.0, losses=losses)


def test_the_journal_survives_a_kill_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "deep" / "trials.jsonl"
    Journal(path, TrialRecord).append([_record(0), _record(1)])
    with path.open("a") as file:
        file.write(_record(2).model_dump_json()[:20])
    journal = Journal(path, TrialRecord)
    assert journal.records == [_record(0), _record(1)]
    journal.append([_record(2)])
    assert Journal(path, TrialRecord).records == [_record(0), _record(1), _record(2)]
    assert losses(journal.records, (10, 20))[-7.5, 1] == {10: 1.1, 20: math.inf}


def test_steps_of_a_run_that_diverged_at_its_last_step():
    finished = _record(0)
    assert finished.steps_run(10) == 10
    assert finished.model_copy(update={"diverged_at": 3}).steps_run(10) == 4, "the step that showed it counts"
    assert finished.model_copy(update={"diverged_at": 10}).steps_run(10) == 10, "shown by the last validation loss"
