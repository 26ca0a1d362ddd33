"""Trials shared by processes: the same file, byte for byte, for any number of them, also when it changes at a restart."""

from __future__ import annotations

import json
import signal
import time

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_trials_and_change_no_byte(sweep, whole, processes):
    assert sweep.finish(processes) == whole.result
    journals = sorted(path.name for path in (sweep.out / "state").glob("trials*.jsonl"))
    assert journals == ["trials.jsonl", *(f"trials.rank{rank}.jsonl" for rank in range(1, processes))]
    lines = [line for name in journals for line in (sweep.out / "state" / name).read_text().splitlines()]
    assert len(lines) == len(json.loads(whole.result)["trials"]), "each trial was run once"


def test_all_are_killed_and_other_numbers_of_processes_go_on(sweep, whole):
    for processes, steps in ((2, 11), (1, 13), (3, 10)):
        assert sweep.stop(signal.SIGKILL, steps, processes=processes) == [-signal.SIGKILL] * processes
    assert sweep.finish(2) == whole.result
    assert sweep.steps < 2 * whole.steps, "what was begun went on"


def test_one_process_that_is_asked_to_stop_stops_all_in_good_order(sweep, whole):
    """Also the processes without work, which wait."""
    for only in (0, 1):
        assert sweep.stop(signal.SIGTERM, 7, processes=2, only=only) == [75, 75]
    assert sweep.stop(signal.SIGTERM, 7, processes=3) == [75, 75, 75]
    assert sweep.finish() == whole.result


def test_a_deadline_stops_all(sweep, whole):
    started = sweep.start(2, MUDIT_DEADLINE=str(time.time() + 1))
    assert [process.wait() for process in started] == [75, 75]
    assert sweep.finish(2) == whole.result
