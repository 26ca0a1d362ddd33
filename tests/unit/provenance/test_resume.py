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
    assert (tmp_path / "b.superseded" / "trials.jsonl").read_text() == "work"
    assert "its parameters changed" in caplog.text


def test_a_forced_run_does_not_use_what_is_there(tmp_path):
    state = tmp_path / "b"
    claim(state, RECIPE, afresh=False)
    _worked(state)
    claim(state, RECIPE, afresh=True)
    assert not (state / "trials.jsonl").exists()


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
