"""Running groups: horizons, divergence as a result, packs, the journal."""

from __future__ import annotations

import math

import pytest

from mudit.parametrization.table import table_for
from mudit.sweep.records import Journal, TrialRecord, losses
from mudit.sweep.trials import PackedRuns, run_group
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs
from mudit.train.validation import ValidationSet


def _silent(*args, **columns):
    pass


def _member(log2_lr, seed):
    return Member(Knobs(log2_lr, None, 0, 0.0), seed)


def _group(desk, digits, members, scheme="sp", width=32):
    return TrialGroup(desk, digits, table_for(desk.model, width, scheme), members, 16)


def _run(desk, digits, members, horizons=(10, 20), factor=2.0):
    return run_group(_group(desk, digits, members), ValidationSet(digits, desk), horizons, factor, _silent)


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
    counted = []
    run_group(
        _group(desk, digits, [_member(-8, 0), _member(3, 0)]),
        ValidationSet(digits, desk),
        (20,),
        2.0,
        lambda count, **columns: counted.append(count),
    )
    assert sum(counted) == 40


@pytest.mark.parametrize("size", [1, 2, 5])
def test_packs_of_any_size_give_the_same_records(desk, digits, monkeypatch, size):
    monkeypatch.setattr("mudit.sweep.trials.measure_group_size", lambda make, members: (size, {size: 0.001}))
    members = [_member(log2_lr, seed) for seed in (0, 1) for log2_lr in (-8, 3)]
    runs = PackedRuns("test", lambda some: _group(desk, digits, some), ValidationSet(digits, desk), (10,), 2.0)
    packs = list(runs.run(members, _silent))
    assert [len(pack) for pack in packs] == {1: [1] * 4, 2: [2, 2], 5: [4]}[size]
    assert [member for pack in packs for member, _ in pack] == members
    assert [record for pack in packs for _, record in pack] == _run(desk, digits, members, horizons=(10,))
    assert list(runs.run([], _silent)) == []


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
