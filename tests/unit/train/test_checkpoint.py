"""Checkpoints: atomic, checked, and never another run's."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from mudit.errors import CheckpointError, ResultsError
from mudit.train.checkpoint import Checkpoint, CheckpointFolder
from parallel_runs import limited_files


def _folder(tmp_path, identity="run", keep=2):
    return CheckpointFolder(tmp_path / "checkpoints", identity=identity, keep=keep)


def _checkpoint(step):
    return Checkpoint(step, {"a": torch.full((4,), float(step))}, {"records": [step]})


def _names(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_round_trip_and_retention(tmp_path):
    folder = _folder(tmp_path)
    assert folder.latest() is None
    for step in (10, 20, 30):
        folder.save(_checkpoint(step))
    assert _names(tmp_path) == ["step-00000020", "step-00000030"]
    latest = folder.latest()
    assert (latest.step, latest.state) == (30, {"records": [30]}) and torch.equal(latest.tensors["a"], torch.full((4,), 30.0))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "no-tensors", "no-state", "bad-json"])
def test_a_damaged_newest_checkpoint_falls_back_loudly(tmp_path, damage, caplog):
    folder = _folder(tmp_path)
    folder.save(_checkpoint(10))
    folder.save(_checkpoint(20))
    newest = tmp_path / "checkpoints" / "step-00000020"
    tensors, state = newest / "tensors.safetensors", newest / "state.json"
    content = tensors.read_bytes()
    {
        "flip": lambda: tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
        "truncate": lambda: tensors.write_bytes(content[:-5]),
        "empty": lambda: tensors.write_bytes(b""),
        "no-tensors": tensors.unlink,
        "no-state": state.unlink,
        "bad-json": lambda: state.write_text("{"),
    }[damage]()
    with caplog.at_level(logging.WARNING):
        assert folder.latest().step == 10
    assert "step-00000020 is damaged" in caplog.text


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_damaged_checkpoints_do_not_push_out_the_sound_ones_of_a_run_that_catches_up(tmp_path, keep):
    folder = _folder(tmp_path, keep=keep)
    for step in (40, 50):
        folder.save(_checkpoint(step))
    for path in (tmp_path / "checkpoints").glob("step-*/state.json"):
        path.write_text("{")
    assert folder.latest() is None
    for step in (10, 20, 30):
        folder.save(_checkpoint(step))
        assert folder.latest().step == step
    sound = [10, 20, 30][-keep:]
    assert [int(name[-2:]) for name in _names(tmp_path)] == sound + [40, 50][-keep:]
    for step in (40, 50):
        folder.save(_checkpoint(step))
    assert [int(name[-2:]) for name in _names(tmp_path)] == [10, 20, 30, 40, 50][-keep:]


def test_another_runs_checkpoint_is_refused(tmp_path):
    _folder(tmp_path).save(_checkpoint(10))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        _folder(tmp_path, identity="other").latest()


def test_a_kill_before_the_rename_leaves_no_checkpoint(tmp_path):
    folder = _folder(tmp_path)
    folder.save(_checkpoint(10))
    partial = tmp_path / "checkpoints" / ".step-00000020.partial"
    partial.mkdir()
    (partial / "state.json").write_text(json.dumps({}))
    assert folder.latest().step == 10
    folder.save(_checkpoint(20))
    assert folder.latest().step == 20 and not partial.exists()


def test_some_checkpoints_are_kept_for_ever(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", identity="run", keep=1, keep_every=20)
    for step in (10, 20, 30, 40, 50):
        folder.save(_checkpoint(step))
    assert _names(tmp_path) == ["step-00000020", "step-00000040", "step-00000050"]


def test_what_is_begun_is_the_state_at_that_moment(tmp_path):
    """A thread writes a copy: training may go on in the same memory."""
    folder, values = _folder(tmp_path), torch.zeros(1000)
    folder.begin(Checkpoint(10, {"a": values}, {}))
    values += 1
    folder.begin(Checkpoint(20, {"a": values}, {}))  # waits for the first
    values += 1
    assert folder.newest == 10
    folder.finish()
    assert folder.newest == 20 and not folder.written
    assert folder.latest().tensors["a"].unique().tolist() == [1.0]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path):
    folder = _folder(tmp_path, keep=1)
    folder.save(_checkpoint(10))
    with limited_files(50):
        folder.begin(_checkpoint(20))
        with pytest.raises(ResultsError, match=r"step 20 .*File too large; the newest is that of step 10"):
            folder.finish()
    assert _names(tmp_path) == ["step-00000010"] and folder.latest().step == 10
    folder.save(_checkpoint(30))
    assert _names(tmp_path) == ["step-00000030"]


def test_an_index_that_cannot_be_written_is_a_full_disk_too(tmp_path):
    folder = _folder(tmp_path)
    folder.save(_checkpoint(10))
    with limited_files(400), pytest.raises(ResultsError, match="File too large"):
        folder.save(Checkpoint(20, {"a": torch.zeros(1)}, {"records": list(range(500))}))
    assert _names(tmp_path) == ["step-00000010"]


def test_tensors_of_all_kinds_come_back(tmp_path):
    tensors = {
        "scalar": torch.tensor(3.0),
        "row": torch.rand(1, 5),
        "integers": torch.arange(7),
        "half": torch.rand(3, 2).bfloat16(),
    }
    _folder(tmp_path).save(Checkpoint(1, tensors, {}))
    stored = _folder(tmp_path).latest().tensors
    assert set(stored) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(stored[name], tensor) and stored[name].dtype == tensor.dtype
        target = torch.zeros_like(tensor)
        stored.fill(target, name)
        assert torch.equal(target, tensor)
