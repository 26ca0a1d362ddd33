"""Whose unfinished work is it?"""

from __future__ import annotations

import logging

from mudit.provenance.resume import claim, release

RECIPE = {"parameters": {"lr": -7}, "inputs": {"data": "abc"}, "code": {"mudit.train": "1"}}


def _worked(state):
    (state / "trials.jsonl").write_text("work")


def test_the_same_recipe_finds_its_work(tmp_path):
    state = tmp_path / "a" / "b"
    claim(state, RECIPE, afresh=False)
    _worked(state)
    claim(state, RECIPE, afresh=False)
    assert (state / "trials.jsonl").exists()


def test_another_recipe_starts_afresh_and_the_old_work_is_kept_aside(tmp_path, caplog):
    state = tmp_path / "b"
    claim(state, RECIPE, afresh=False)
    _worked(state)
    with caplog.at_level(logging.WARNING):
        claim(state, {**RECIPE, "parameters": {"lr": -8}}, afresh=False)
    assert not (state / "trials.jsonl").exists()
    (aside,) = tmp_path.glob("b.superseded-*")
    assert (aside / "trials.jsonl").read_text() == "work"
    assert "its parameters changed" in caplog.text


def test_work_comes_back_with_its_recipe_however_often_that_changes(tmp_path, caplog):
    state, other, third = tmp_path / "b", {**RECIPE, "parameters": {"lr": -8}}, {**RECIPE, "code": {"mudit.train": "2"}}
    claim(state, RECIPE, afresh=False)
    _worked(state)
    claim(state, other, afresh=False)
    claim(state, third, afresh=False)  # nothing to keep of the other
    (state / "trials.jsonl").write_text("of the third")
    with caplog.at_level(logging.INFO):
        claim(state, RECIPE, afresh=False)
    assert (state / "trials.jsonl").read_text() == "work"
    assert "goes on with the unfinished work" in caplog.text
    claim(state, third, afresh=False)
    assert (state / "trials.jsonl").read_text() == "of the third"
    claim(state, RECIPE, afresh=True)
    assert not (state / "trials.jsonl").exists()
    assert len(list(tmp_path.glob("b.superseded-*"))) == 2


def test_a_recipe_without_work_leaves_nothing_behind(tmp_path, caplog):
    state = tmp_path / "b"
    claim(state, RECIPE, afresh=False)
    claim(state, {**RECIPE, "parameters": {"lr": -8}}, afresh=False)
    assert [path.name for path in tmp_path.iterdir()] == ["b"] and not caplog.text


def test_a_forced_run_does_not_use_what_is_there(tmp_path):
    state = tmp_path / "b"
    claim(state, RECIPE, afresh=False)
    _worked(state)
    claim(state, RECIPE, afresh=True)
    assert not (state / "trials.jsonl").exists()


def test_a_forced_run_that_was_stopped_goes_on_with_its_own_work(tmp_path):
    """As its next slice in a queue, which is the same command."""
    state = tmp_path / "b"
    claim(state, RECIPE, afresh=True)
    _worked(state)
    claim(state, RECIPE, afresh=True)
    assert (state / "trials.jsonl").read_text() == "work"


def test_what_a_forced_run_would_not_use_does_not_come_back(tmp_path):
    state = tmp_path / "b"
    claim(state, RECIPE, afresh=False)
    (state / "trials.jsonl").write_text("rejected")
    claim(state, RECIPE, afresh=True)
    (state / "trials.jsonl").write_text("good")
    release(state, RECIPE)
    claim(state, RECIPE, afresh=False)
    assert not (state / "trials.jsonl").exists()
    (kept,) = tmp_path.glob("b.superseded-*")
    assert (kept / "trials.jsonl").read_text() == "rejected"


def test_no_work_is_lost_by_force_and_edits_in_any_order(tmp_path):
    state, other = tmp_path / "b", {**RECIPE, "parameters": {"lr": -8}}
    steps = [(RECIPE, False), (RECIPE, True), (other, False), (RECIPE, True), (other, True), (RECIPE, False), (other, False)]
    for number, (recipe, afresh) in enumerate(steps):
        claim(state, recipe, afresh=afresh)
        (state / f"work-{number}").touch()
    left = {path.name for path in tmp_path.rglob("work-*")}
    assert left == {f"work-{number}" for number in range(len(steps))}


def test_state_without_a_readable_recipe_is_nobodys(tmp_path):
    state = tmp_path / "b"
    state.mkdir()
    _worked(state)
    (state / "recipe.json").write_text("{")
    claim(state, RECIPE, afresh=False)
    assert not (state / "trials.jsonl").exists()


def test_state_is_released_by_its_own_recipe_only(tmp_path):
    state = tmp_path / "b"
    claim(state, RECIPE, afresh=False)
    _worked(state)
    release(state, {**RECIPE, "code": {"mudit.train": "2"}})
    assert (state / "trials.jsonl").exists()
    release(state, {**RECIPE, "summary": {}})
    assert not state.exists()
    state.mkdir()
    _worked(state)  # a release was killed halfway
    release(state, RECIPE)
    assert not state.exists()
