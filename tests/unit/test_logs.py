"""Log lines and progress without a terminal."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from mudit import logs


def test_progress_off_a_terminal_is_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, logger="mudit"), logs.progress(10, "train", unit="img", done=4) as bar:
        bar.advance(3, loss=0.125, state="ok")
        bar.advance(3)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("train: 7/10, ")
    assert "img/s, loss 0.125, state ok" in lines[0]
    assert lines[-1].startswith("train: 10/10, ")
    assert "loss 0.125" in lines[-1]
    assert len(lines) == 2


def test_lines_are_rare_but_the_last_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mudit"), logs.progress(100, "sample") as bar:
        for _ in range(100):
            bar.advance()
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["sample: 100/100"]


def test_a_failure_does_not_hide_behind_a_final_line(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with logs.progress(2, "sweep") as bar:
            bar.advance()
            raise ValueError("x")

    with caplog.at_level(logging.INFO, logger="mudit"), pytest.raises(ValueError, match="x"):
        fail()
    assert caplog.records == []


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with logs.progress(2, "train") as bar:
        bar.advance(2, loss=0.5)
    assert "train" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()


def test_set_up_shows_our_information_and_others_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.setup()
        logging.getLogger("mudit.train").info("ours")
        logging.getLogger("other").info("theirs")
        logging.getLogger("other").warning("their warning")
    finally:
        root.handlers[:], root.level = handlers, level
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["INFO ours", "WARNING their warning"]
