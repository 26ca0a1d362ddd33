"""From verdicts to scores."""

from __future__ import annotations

import numpy as np
import pytest

from mudit.benchmark.scores import mean_score, task_scores


def test_a_task_is_the_share_of_its_images_and_the_overall_score_the_mean_of_tasks():
    # Two prompts of counting (1 of 4 right), six of colours (9 of 12): tasks weigh alike, whatever their number of prompts.
    rights = [{"counting": right} for right in (True, False, False, False)]
    rights += [{"colors": right} for right in [True] * 9 + [False] * 3]
    prompts = [place // 2 for place in range(16)]
    by_task = task_scores(rights, prompts, seed=0)
    assert {task: (record["value"], record["n"], record["prompts"]) for task, record in by_task.items()} == {
        "counting": (0.25, 4, 2),
        "colors": (0.75, 12, 6),
    }
    overall = mean_score(rights, prompts, seed=0)
    assert (overall["value"], overall["n"], overall["prompts"]) == (0.5, 16, 8)
    low, high = overall["interval"]
    assert 0 <= low < 0.5 < high <= 1


def test_an_image_may_have_several_tasks():
    rights = [{"style": True, "both": False}, {"style": True, "both": True}]
    by_task = task_scores(rights, [0, 1], seed=0)
    assert (by_task["style"]["value"], by_task["both"]["value"]) == (1.0, 0.5)
    assert by_task["style"]["interval"] == [1.0, 1.0]


def test_one_prompt_has_no_interval():
    record = task_scores([{"counting": True}, {"counting": False}], [0, 0], seed=0)["counting"]
    assert (record["value"], record["interval"]) == (0.5, None)
    assert mean_score([{"counting": True}], [0], seed=0)["interval"] is None


def test_intervals_are_of_prompts_not_of_images():
    """Four images of a prompt that always agree say no more than one: the interval must not shrink with them."""
    once = [{"counting": bool(place % 2)} for place in range(40)]
    four = [right for right in once for _ in range(4)]
    wide, narrow = (
        task_scores(rights, [place // per for place in range(len(rights))], seed=0)["counting"]["interval"]
        for rights, per in ((four, 4), (four, 1))
    )
    assert wide == task_scores(once, list(range(40)), seed=0)["counting"]["interval"]
    assert wide[1] - wide[0] > 1.6 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_intervals_cover(share):
    """Of true shares from 100 prompts of 4 images, whose own shares vary."""
    rng, hits = np.random.default_rng(0), 0
    for trial in range(60):
        own = rng.beta(4 * share, 4 * (1 - share), 100)
        rights = [{"colors": bool(right)} for right in (rng.random((100, 4)) < own[:, None]).flatten()]
        low, high = task_scores(rights, [place // 4 for place in range(400)], seed=trial)["colors"]["interval"]
        hits += low <= share <= high
    assert hits / 60 >= 0.88
