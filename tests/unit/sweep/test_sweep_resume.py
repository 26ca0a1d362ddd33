"""A sweep that is stopped inside a pack goes on there and writes the same file, byte for byte."""

from __future__ import annotations

import json
import random
import signal

import pytest

pytestmark = pytest.mark.slow


def test_the_scenario_has_what_it_should(whole):
    trials = json.loads(whole.result)["trials"]
    assert {trial["status"] for trial in trials} == {"finished", "diverged"} and {trial["seed"] for trial in trials} == {0, 1}
    assert not (whole.out / "state/packs").exists(), "a finished sweep keeps no checkpoints"


def test_sigkill_at_random_steps_changes_no_byte_and_repeats_few_steps(sweep, whole):
    """A checkpoint after every step: a kill costs at most the step that ran, and a process that starts repeats no other."""
    kills = sorted(random.Random(0).sample(range(2, whole.steps - 4), 4))
    for steps in (later - earlier for earlier, later in zip([0, *kills], kills, strict=False)):
        assert sweep.stop(signal.SIGKILL, steps) == [-signal.SIGKILL]
    assert sweep.finish() == whole.result
    assert whole.steps <= sweep.steps <= whole.steps + 2 * len(kills)


def test_sigterm_writes_a_checkpoint_and_asks_to_be_started_again(sweep, whole):
    assert sweep.stop(signal.SIGTERM, 17) == [75]
    assert json.loads((sweep.out / "state/progress.json").read_text())["state"] == "interrupted"
    assert sweep.stop(signal.SIGUSR1, 20) == [75]
    assert sweep.finish() == whole.result
    assert sweep.steps == whole.steps, "no step was lost"


def test_a_damaged_newest_checkpoint_costs_steps_but_no_byte(sweep, whole):
    assert sweep.stop(signal.SIGKILL, 15) == [-signal.SIGKILL]
    newest = max((sweep.out / "state/packs").glob("*/step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert sweep.finish() == whole.result
    assert sweep.steps > whole.steps


def test_a_pack_without_any_sound_checkpoint_starts_again(sweep, whole):
    assert sweep.stop(signal.SIGKILL, 15) == [-signal.SIGKILL]
    for path in (sweep.out / "state/packs").glob("*/step-*.json"):
        path.write_text("{")
    assert sweep.finish() == whole.result
