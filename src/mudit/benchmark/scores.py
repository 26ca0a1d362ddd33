"""From verdicts to scores: the share of right images of each task, and the mean of the tasks, with intervals over prompts.

Images of one prompt are not independent of each other, so prompts are resampled, not images: within each task, as the sets are
stratified by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mudit import random
from mudit.evaluate.intervals import CONFIDENCE, RESAMPLES

Rights = Sequence[dict[str, bool]]  # of each image: task -> right
METHOD = f"percentile bootstrap over prompts within each task, {RESAMPLES} resamples"


def task_scores(rights: Rights, prompts: Sequence[int], seed: int) -> dict[str, dict[str, Any]]:
    """Task -> value, interval, images, prompts; in the order in which tasks appear. `prompts`: of each image.

    An interval of a task with one prompt is None.
    """
    return {task: _record(shares, seed, task) for task, shares in _by_task(rights, prompts).items()}


def mean_score(rights: Rights, prompts: Sequence[int], seed: int) -> dict[str, Any]:
    """The mean of the tasks, whatever their numbers of prompts (GenEval's overall score)."""
    by_task = _by_task(rights, prompts)
    means = np.mean([_resampled(_means(shares), seed, task) for task, shares in by_task.items()], axis=0)
    return {
        "value": float(np.mean([_share(shares) for shares in by_task.values()])),
        "interval": _percentiles(means) if all(len(shares) > 1 for shares in by_task.values()) else None,
        "n": len(rights),
        "prompts": len(set(prompts)),
    }


Shares = dict[int, list[bool]]  # prompt -> its images


def _by_task(rights: Rights, prompts: Sequence[int]) -> dict[str, Shares]:
    by_task: dict[str, Shares] = {}
    for right, prompt in zip(rights, prompts, strict=True):
        for task, is_right in right.items():
            by_task.setdefault(task, {}).setdefault(prompt, []).append(is_right)
    return by_task


def _record(shares: Shares, seed: int, task: str) -> dict[str, Any]:
    means_P = _means(shares)
    return {
        "value": _share(shares),
        "interval": _percentiles(_resampled(means_P, seed, task)) if len(means_P) > 1 else None,
        "n": sum(map(len, shares.values())),
        "prompts": len(shares),
    }


def _share(shares: Shares) -> float:
    every = [right for images in shares.values() for right in images]
    return sum(every) / len(every)


def _means(shares: Shares) -> NDArray[np.float64]:
    """Of each prompt. All prompts have equally many images, so their mean is the share of images."""
    return np.array([np.mean(images) for images in shares.values()])


def _resampled(means_P: NDArray[np.float64], seed: int, task: str) -> NDArray[np.float64]:
    """Means of resamples of the prompts."""
    rng = np.random.default_rng(random.torch_seed(seed, f"benchmark-{task}"))
    drawn: NDArray[np.float64] = means_P[rng.integers(len(means_P), size=(RESAMPLES, len(means_P)))].mean(axis=1)
    return drawn


def _percentiles(values: NDArray[np.float64]) -> list[float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return [float(low), float(high)]
