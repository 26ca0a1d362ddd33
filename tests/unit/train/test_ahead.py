"""Batches that a thread prepares while the step before them is computed: the same ones, and no thread left behind.

There is no GPU in a test: the threaded way is forced on the CPU, where nothing is pinned.
"""

from __future__ import annotations

import threading

import pytest
import torch

from mudit.models.condition import TextCondition
from mudit.parametrization.table import table_for
from mudit.train import ahead
from mudit.train.ahead import Ahead, steps_to_prepare
from mudit.train.batches import BatchStream
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs
from parallel_runs import BATCH, Case, FakeSplit, experiment_of, trainer_of

CPU = torch.device("cpu")


@pytest.fixture
def threaded(monkeypatch):
    monkeypatch.setattr(ahead, "pays", lambda device: True)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def _tensors(batch):
    condition = list(batch.condition) if isinstance(batch.condition, TextCondition) else [batch.condition]
    return [batch.x0, batch.t, batch.noise, *condition, *([] if batch.features is None else [batch.features])]


def _stream(family):
    config = experiment_of(family)
    return BatchStream(FakeSplit(config), config.model, config.diffusion, batch_size=BATCH, seed=3)


class _Counted:
    """Steps instead of batches, and what was asked of it by which threads."""

    def __init__(self, broken: int | None = None) -> None:
        self.asked: list[tuple[int, bool]] = []
        self._broken = broken

    def at(self, step):
        self.asked.append((step, threading.current_thread() is threading.main_thread()))
        if step == self._broken:
            raise OSError("the disk is gone")
        return step


@pytest.mark.parametrize("family", ["dit", "mmdit"])
def test_batches_are_those_of_the_plain_stream_also_after_jumps(family, threaded):
    plain = _stream(family)
    with Ahead(_stream(family).at, CPU, 60) as batches:
        for step in [*range(20), 7, 8, 40, 41, 41, 59]:
            for one, other in zip(_tensors(batches.at(step)), _tensors(plain.at(step)), strict=True):
                assert torch.equal(one, other)
    assert not _threads()


def test_the_thread_prepares_every_step_but_the_first_and_none_beyond_the_last(threaded):
    counted = _Counted()
    batches = Ahead(counted.at, CPU, 4)
    assert [batches.at(step) for step in range(4)] == [0, 1, 2, 3]
    assert counted.asked == [(0, True), (1, False), (2, False), (3, False)]
    assert not _threads(), "it ends with the last step"


def test_a_jump_waits_for_the_thread_and_never_runs_beside_it(threaded):
    inside, most, started, go = [], [], threading.Event(), threading.Event()

    def at(step):
        inside.append(step)
        most.append(len(inside))
        if step == 1:
            started.set()
            go.wait(10)
        inside.remove(step)
        return step

    with Ahead(at, CPU, 9) as batches:
        batches.at(0)
        assert started.wait(10)
        threading.Timer(0.05, go.set).start()
        assert batches.at(5) == 5
    assert max(most) == 1


def test_an_error_of_the_thread_is_raised_by_the_call_for_its_step(threaded):
    counted = _Counted(broken=2)
    with Ahead(counted.at, CPU, 9) as batches:
        assert [batches.at(0), batches.at(1)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            batches.at(2)
    assert counted.asked[-1] == (2, False) and not _threads()


def test_an_error_of_a_batch_that_nobody_asks_for_is_none(threaded):
    with Ahead(_Counted(broken=1).at, CPU, 9) as batches:
        assert [batches.at(0), batches.at(6)] == [0, 6]


def test_the_thread_ends_with_its_object(threaded):
    """As where a group of trials is dropped before its last step."""
    batches = Ahead(_Counted().at, CPU, 9)
    batches.at(0)
    (thread,) = _threads()
    del batches
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(("forced", "steps"), [(False, 9), (True, None)])
def test_it_is_a_plain_call_on_the_cpu_and_where_the_end_is_not_known(forced, steps, monkeypatch):
    monkeypatch.setattr(ahead, "pays", lambda device: forced) if forced else None
    counted = _Counted()
    batches = Ahead(counted.at, CPU, steps)
    assert [batches.at(0), batches.at(1)] == [0, 1]
    assert counted.asked == [(0, True), (1, True)] and not _threads()


@pytest.mark.parametrize(("encodes", "prepared"), [(False, 9), (True, None)])
def test_captions_that_are_encoded_on_the_fly_are_not_prepared_ahead(encodes, prepared):
    split = FakeSplit(experiment_of("mmdit"))
    split.encodes_captions = encodes
    assert steps_to_prepare(split, 9) == prepared


@pytest.mark.parametrize("family", ["dit", "mmdit"])
def test_a_run_is_the_same_bit_for_bit(family, tmp_path, monkeypatch):
    plain, losses = trainer_of(Case("plain", family=family), tmp_path), []
    plain.run(losses.append)
    monkeypatch.setattr(ahead, "pays", lambda device: True)
    trainer, prepared = trainer_of(Case("ahead", family=family), tmp_path), []
    seen = []
    history = trainer.run(lambda loss: (prepared.append(loss), seen.extend(_threads())))
    assert seen and not _threads()
    assert (prepared, history.records) == (losses, plain.history.records)
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_group_is_the_same_bit_for_bit_and_a_lost_seed_takes_its_thread(desk, digits, monkeypatch):
    table = table_for(desk.model, 32, "mup")
    members = [Member(Knobs.of(desk, -8.0, 16), seed) for seed in (0, 1)]

    def losses(group):
        found = [group.step(step).tolist() for step in range(3)]
        group.keep([1])
        return [*found, group.step(3).tolist()]

    expected = losses(TrialGroup(desk, digits, table, members, 16, steps=6))
    monkeypatch.setattr(ahead, "pays", lambda device: True)
    group = TrialGroup(desk, digits, table, members, 16, steps=6)
    assert losses(group) == expected
    assert len(_threads()) == 1
    group.keep([])
    assert not _threads()
