"""Pieces are kept under one plan, and a deadline is kept by the length of a piece."""

from __future__ import annotations

import time

import pytest
import torch

from mudit.evaluate.pieces import Piece, Pieces
from mudit.jobs.crew import Crew
from mudit.jobs.interrupt import DEADLINE, Interrupt, Interrupted


def work(made: list[str]) -> list[Piece]:
    """Three pieces that say when they are made."""
    return [Piece(name, 5, lambda name=name: (made.append(name), {"x": torch.ones(1)})[1]) for name in ("a", "b", "c")]


def test_a_deadline_is_kept_by_the_length_of_a_piece(tmp_path, monkeypatch):
    """The first piece takes longer than what is left after it, so there is no second; the next job goes on with it."""
    monkeypatch.setenv(DEADLINE, str(time.time() + 3600))
    takes = Crew.takes
    pieces, made = Pieces(tmp_path / "pieces"), []
    with Interrupt() as interrupt, monkeypatch.context() as patch:
        patch.setattr(Crew, "takes", lambda self, seconds: takes(self, 7200.0))
        crew = Crew(interrupt)
        pieces.begin({"plan": 1}, crew)
        with pytest.raises(Interrupted):
            pieces.make(work(made), crew, "test")
    assert made == ["a"]
    with Interrupt() as interrupt:
        crew = Crew(interrupt)
        pieces.begin({"plan": 1}, crew)
        pieces.make(work(made), crew, "test")
        assert made == ["a", "b", "c"] and pieces.load("b")["x"].item() == 1
        pieces.begin({"plan": 2}, crew)
    assert not pieces.path("a").exists()
