"""The account of a running job: whole, recent, and never in its way."""

from __future__ import annotations

import json
import logging

import pytest

from mudit.jobs import heartbeat
from mudit.jobs.heartbeat import Heartbeat


def _read(folder):
    return json.loads((folder / "progress.json").read_text())


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    return now


def test_it_writes_at_once_and_then_every_ten_seconds(tmp_path, clock):
    beat = Heartbeat(tmp_path / "state", artefact="a/train/b", steps=9)
    beat.update(state="running", step=1)
    first = _read(tmp_path / "state")
    assert (first["artefact"], first["steps"], first["step"], first["state"], first["processes"]) == (
        "a/train/b",
        9,
        1,
        "running",
        1,
    )
    assert first["time"] >= first["started"]
    clock[0] += 9.9
    beat.update(step=2)
    assert not beat.due and _read(tmp_path / "state")["step"] == 1
    clock[0] += 0.2
    assert beat.due
    beat.update(loss=0.5)
    assert (_read(tmp_path / "state")["step"], _read(tmp_path / "state")["loss"]) == (2, 0.5)


def test_a_new_state_does_not_wait(tmp_path, clock):
    beat = Heartbeat(tmp_path)
    beat.update(state="running", step=1)
    beat.update(state="interrupted", step=5)
    assert (_read(tmp_path)["state"], _read(tmp_path)["step"]) == ("interrupted", 5)


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    Heartbeat(tmp_path).update(state="diverged", loss=float("nan"), history=[[1, float("inf")], [2, 0.5]])
    assert (_read(tmp_path)["loss"], _read(tmp_path)["history"]) == (None, [[1, None], [2, 0.5]])


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    beat = Heartbeat(tmp_path)
    beat.update(state="running")
    assert not beat.due and list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "state").write_text("a file where a folder should be")
    with caplog.at_level(logging.WARNING):
        Heartbeat(tmp_path / "state").update(state="running")
    assert "cannot be written" in caplog.text
