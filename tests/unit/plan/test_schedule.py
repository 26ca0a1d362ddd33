"""The list schedule: bounds that hold for every graph, and small cases by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudit.plan.schedule import Task, makespan


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for index in range(draw(st.integers(1, 12))):
        before = draw(st.lists(st.sampled_from(sorted(tasks)), max_size=3)) if tasks else []
        tasks[f"t{index}"] = Task(draw(st.integers(0, 4)), draw(st.integers(0, 9)), tuple(before))
    return tasks


def _chain(tasks: dict[str, Task], name: str) -> float:
    return tasks[name].hours + max((_chain(tasks, each) for each in tasks[name].after), default=0)


@given(graphs())
def test_no_schedule_beats_the_work_or_the_longest_chain_nor_exceeds_one_after_another(tasks):
    span = makespan(tasks, 4)
    assert span >= sum(task.processors * task.hours for task in tasks.values()) / 4
    assert span >= max(_chain(tasks, name) for name in tasks)
    assert span <= sum(task.hours for task in tasks.values())


def test_two_halves_run_side_by_side_and_a_follower_waits():
    tasks = {"a": Task(2, 3.0), "b": Task(2, 5.0), "c": Task(4, 1.0, ("a", "b"))}
    assert makespan(tasks, 4) == pytest.approx(6.0)
    assert makespan(tasks, 4) < makespan({**tasks, "b": Task(3, 5.0)}, 4)


def test_a_task_that_does_not_fit_is_refused():
    with pytest.raises(AssertionError, match="more processors"):
        makespan({"a": Task(5, 1.0)}, 4)
