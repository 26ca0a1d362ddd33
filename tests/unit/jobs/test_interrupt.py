"""Asking a run to stop: by a signal, or by the time at which its job ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mudit.jobs.interrupt import DEADLINE, EXIT_CODE, Interrupt, Interrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_remembered_and_its_former_handler_comes_back(number):
    former = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), number)
        assert interrupt.asked
    assert signal.getsignal(number) is former


def test_a_run_stops_before_its_deadline_by_the_time_that_its_state_takes(monkeypatch):
    monkeypatch.setenv(DEADLINE, str(time.time() + 1000))
    interrupt = Interrupt()
    assert not interrupt.asked
    interrupt.margin_s = 999.0
    assert not interrupt.asked
    interrupt.margin_s = 1001.0
    assert interrupt.asked


def test_a_deadline_that_has_passed_asks(monkeypatch):
    monkeypatch.setenv(DEADLINE, str(time.time() - 1))
    assert Interrupt().asked


def test_an_interrupted_run_exits_with_its_own_code():
    with pytest.raises(SystemExit) as stopped:
        raise Interrupted
    assert stopped.value.code == EXIT_CODE == 75


def test_a_process_that_leaves_is_not_hurried():
    """Its exit code stays 75 when the launcher terminates what is left of its job."""
    script = (
        "import os, signal\n"
        "from mudit.jobs.interrupt import Interrupt, Interrupted\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGTERM):\n"
        "        kill(own, number)\n"
        "last = Last()  # goes when the interpreter has given its own handlers back\n"
        "with Interrupt():\n"
        "    raise Interrupted\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == EXIT_CODE
