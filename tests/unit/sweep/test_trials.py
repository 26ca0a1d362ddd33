"""Running groups: horizons, divergence as a result, the journal."""

from __future__ import annotations

import math

from mudit.parametrization.table import table_for
from mudit.sweep.records import Journal, TrialRecord
from mudit.sweep.trials import run_group
from mudit.train.group import Member, TrialGroup
from mudit.train.validation import ValidationSet


def _run(desk, digits, members, horizons=(10, 20), factor=2.0, scheme="sp", width=32):
    group = TrialGroup(desk, digits, table_for(desk.model, width, scheme), members, 16)
    return run_group(group, ValidationSet(digits, desk), horizons, factor, lambda *args, **columns: None)


def test_a_diverged_trial_is_recorded_stops_and_changes_no_other(desk, digits):
    good, bad = Member(-8, 0), Member(3, 0)
    (first, second), spent = _run(desk, digits, [good, bad])
    assert first.status == "finished" and set(first.losses) == {10, 20}
    assert second.status == "diverged" and second.diverged_at is not None and second.diverged_at < 20
    assert math.isinf(second.loss(20))
    assert spent == 20 + second.diverged_at + 1, "a diverged trial costs nothing more"
    (alone,), _ = _run(desk, digits, [good])
    assert alone == first


def test_one_run_serves_every_horizon(desk, digits):
    """The learning rate is constant: stopping at 10 gives what the long run recorded at 10."""
    (long,), _ = _run(desk, digits, [Member(-7, 1)])
    (short,), _ = _run(desk, digits, [Member(-7, 1)], horizons=(10,))
    assert long.losses[10] == short.losses[10]


def test_first_loss_is_that_of_predicting_no_noise(desk, digits):
    (record,), _ = _run(desk, digits, [Member(-7, 0)], horizons=(1,))
    assert 0.9 < record.first_loss < 1.2


def _record(seed: int) -> TrialRecord:
    losses = {10: {"mse": 0.1 + seed, "vb": 0.2, "train": 0.3}}
    return TrialRecord(log2_lr=-7.5, seed=seed, status="finished", diverged_at=None, first_loss=1.0, losses=losses)


def test_the_journal_survives_a_kill_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "deep" / "trials.jsonl"
    Journal(path).append([_record(0), _record(1)])
    with path.open("a") as file:
        file.write(_record(2).model_dump_json()[:20])
    journal = Journal(path)
    assert journal.records == [_record(0), _record(1)]
    journal.append([_record(2)])
    assert Journal(path).records == [_record(0), _record(1), _record(2)]
    assert Journal(path).losses((10,))[-7.5, 1] == {10: 1.1}
