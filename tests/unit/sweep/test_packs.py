"""Packs: dealt evenly, found again by whoever comes next, and never left without their older checkpoint."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mudit.sweep import packs as packs_module
from mudit.sweep.packs import Checkpoint, Pack, Packs
from mudit.train.group import Member
from mudit.train.knobs import Knobs


def _members(count, seed=0):
    return [Member(Knobs(-9 + 0.1 * index, None if index % 2 else 0.3, index, 0.5), seed) for index in range(count)]


def _checkpoint(step):
    return Checkpoint(step, {"0.weight.a": torch.full((3,), float(step))}, {"going": [0], "runs": [{"trailing": [0.1 + 0.2]}]})


@given(count=st.integers(1, 90), size=st.integers(1, 16), processes=st.integers(1, 12))
def test_every_trial_is_dealt_once_and_evenly(tmp_path_factory, count, size, processes):
    members = _members(count)
    dealt = Packs(tmp_path_factory.getbasetemp() / "nothing").deal(members, size, processes)
    assert len(dealt) == processes
    assert sorted((m for packs in dealt for pack in packs for m in pack.members), key=members.index) == members
    sizes = [len(pack.members) for packs in dealt for pack in packs]
    assert max(sizes) <= size and min(sizes) >= max(sizes) - 1
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert max(map(len, dealt)) == -(-count // (size * processes)), "no more rounds than it takes"


def test_begun_packs_come_first_as_they_are_for_any_number_of_processes(tmp_path):
    members = _members(9)
    first, second = Pack(tmp_path, members[2:5]), Pack(tmp_path, members[7:9])
    for pack in (first, second):
        pack.save(_checkpoint(4))
    for processes in (1, 2, 5):
        dealt = Packs(tmp_path).deal(members, 3, processes)
        found = [pack.members for packs in dealt for pack in packs]
        assert members[2:5] in found and members[7:9] in found
        assert sorted((member for pack in found for member in pack), key=members.index) == members
        starts = [packs[0].latest() for packs in dealt if packs]
        assert sum(start is not None for start in starts) == min(2, processes), "they are spread, and nobody has them behind others"


def test_a_begun_pack_is_left_until_its_trials_are_wanted(tmp_path):
    others = Pack(tmp_path, _members(3, seed=1))
    others.save(_checkpoint(4))
    packs = Packs(tmp_path)
    assert [pack.members for pack in packs.deal(_members(3), 3, 1)[0]] == [_members(3)]
    assert others.latest() is not None
    ((again,),) = packs.deal(_members(2, seed=1), 1, 1)
    assert again.members == others.members, "one of the three has its record already"


def test_a_checkpoint_comes_back_exactly_and_two_are_kept(tmp_path):
    pack = Pack(tmp_path, _members(2))
    assert pack.latest() is None
    for step in (3, 6, 9):
        pack.save(_checkpoint(step))
    found = Pack(tmp_path, _members(2)).latest()
    assert found.step == 9 and found.state == _checkpoint(9).state
    assert torch.equal(found.tensors["0.weight.a"], _checkpoint(9).tensors["0.weight.a"])
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "members.json",
        *(f"step-0000000{step}.{kind}" for step in (6, 9) for kind in ("json", "safetensors")),
    ]
    pack.forget()
    assert not folder.exists() and pack.latest() is None


@pytest.mark.parametrize("what", ["cut", "bit", "json", "gone"])
def test_a_damaged_checkpoint_is_passed_over_loudly(tmp_path, caplog, what):
    pack = Pack(tmp_path, _members(2))
    for step in (3, 6):
        pack.save(_checkpoint(step))
    tensors, state = (next(tmp_path.glob(f"*/step-00000006.{kind}")) for kind in ("safetensors", "json"))
    content = tensors.read_bytes()
    if what == "cut":
        tensors.write_bytes(content[:-2])
    elif what == "bit":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif what == "json":
        state.write_text(state.read_text()[:-5])
    else:
        tensors.unlink()
    assert pack.latest().step == 3
    assert "step-00000006.safetensors is damaged" in caplog.text


def test_damaged_checkpoints_do_not_push_out_those_of_a_pack_that_starts_again(tmp_path):
    pack = Pack(tmp_path, _members(2))
    for step in (6, 9):
        pack.save(_checkpoint(step))
    for path in tmp_path.glob("*/step-*.json"):
        path.write_text("{")
    assert pack.latest() is None
    for step in (3, 5):
        pack.save(_checkpoint(step))
        assert pack.latest().step == step


@pytest.mark.parametrize("fails", ["tensors", "state"])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_rubbish(tmp_path, monkeypatch, fails):
    pack = Pack(tmp_path, _members(2))
    pack.save(_checkpoint(3))
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails == "tensors":
        monkeypatch.setattr(packs_module, "save_tensors", full)
    else:
        monkeypatch.setattr(packs_module, "sha256_file", full)
    with pytest.raises(OSError, match="No space left"):
        pack.save(_checkpoint(6))
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert pack.latest().step == 3


def test_a_folder_that_does_not_say_whose_it_is_counts_for_nothing(tmp_path, caplog):
    Pack(tmp_path, _members(2)).save(_checkpoint(3))
    next(tmp_path.glob("*/members.json")).write_text('[{"seed": 0')
    assert [pack.members for pack in Packs(tmp_path).deal(_members(3), 3, 1)[0]] == [_members(3)]
    assert "its trials start again" in caplog.text


def test_the_measured_size_is_remembered(tmp_path):
    assert Packs(tmp_path).measured is None
    Packs(tmp_path).remember(4, {1: 0.25, 4: 0.125})
    assert Packs(tmp_path).measured == (4, {1: 0.25, 4: 0.125})
    (tmp_path / "size.json").write_text(json.dumps({"size": 4})[:-3])
    assert Packs(tmp_path).measured is None
