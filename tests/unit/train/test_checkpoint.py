"""Checkpoints: atomic, checked, and never another run's."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from mudit.errors import CheckpointError
from mudit.train.checkpoint import Checkpoint, CheckpointFolder


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
