"""Figures of a `geneval` benchmark: the share of right images of each task, and their mean.

Shapes: n images of a piece.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mudit.benchmark.clip import ClipScorer
from mudit.benchmark.colours import ColourNamer
from mudit.benchmark.detector import Mask2Former
from mudit.benchmark.judge import GenEvalJudge
from mudit.benchmark.prompt_store import PromptStore
from mudit.benchmark.questions import TASKS
from mudit.benchmark.scores import METHOD, mean_score, task_scores
from mudit.config.benchmarks import GenEvalSection
from mudit.evaluate.records import Record
from mudit.evaluate.samples import FINAL, SampleSet

OVERALL = "geneval"
_BATCH = 4  # images that the detector sees at a time


def task_metric(task: str) -> str:
    """Name of a task's metric."""
    return f"{OVERALL}/{task}"


def verdicts_file(samples: str) -> str:
    """Name of the file of a set's verdicts."""
    return "verdicts.json" if samples == FINAL else f"verdicts-{samples}.json"


class GenEval:
    """All figures of sets of images."""

    metrics: tuple[str, ...] = (OVERALL, *map(task_metric, TASKS))

    def __init__(self, section: GenEvalSection, name: str, prompts: PromptStore) -> None:
        """Raises DataError on a detector or CLIP that is missing or does not know what the prompts ask for."""
        where = f"benchmarks.{name}"
        clip = ClipScorer(Path(section.clip), f"{where}.clip")
        questions = [item.question for item in prompts.items]
        self._judge = GenEvalJudge(
            [question for question in questions if question is not None],
            section.rules,
            Mask2Former(section.detector, f"{where}.detector"),
            ColourNamer(clip),
            {"name": "clip", "sha256": clip.identity["sha256"]},
        )
        self._prompts, self.identity = prompts, self._judge.identity

    def measure(self, samples: SampleSet, numbers: range) -> dict[str, Tensor]:
        """Verdicts on some images, as JSON in a tensor of bytes."""
        images_nCHW = samples.picked(torch.arange(numbers.start, numbers.stop))
        verdicts = []
        for first in range(0, len(numbers), _BATCH):
            some = torch.tensor(list(numbers[first : first + _BATCH]))
            verdicts += self._judge.judge(images_nCHW[first : first + _BATCH], self._prompts.prompt_of(some))
        rows = [{task: verdict._asdict() for task, verdict in each.items()} for each in verdicts]
        return {"verdicts": torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8)}

    def write_verdicts(self, path: Path, parts: list[dict[str, Tensor]]) -> None:
        """Prompt, task, right or wrong, and why, of each image."""
        rows, prompts = self._rows(parts)
        described = [
            {"image": number, "prompt": self._prompts.items[prompt].id, "task": task, **verdict}
            for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
            for task, verdict in row.items()
        ]
        path.write_text(json.dumps(described, indent=0) + "\n", encoding="utf-8")

    def records(self, parts: list[dict[str, Tensor]], seed: int) -> list[Record]:
        """From the pieces of all images of a set, in order."""
        rows, prompts = self._rows(parts)
        rights = [{task: verdict["right"] for task, verdict in row.items()} for row in rows]
        by_task = task_scores(rights, prompts, seed)
        scores = {OVERALL: mean_score(rights, prompts, seed)} | {
            task_metric(task): by_task[task] for task in TASKS if task in by_task
        }
        return [{"metric": metric, **score, "interval_method": METHOD, "judge": self.identity} for metric, score in scores.items()]

    def _rows(self, parts: list[dict[str, Tensor]]) -> tuple[list[dict[str, Any]], list[int]]:
        """Of each image: its verdicts by task, and the place of its prompt."""
        rows = [row for part in parts for row in json.loads(part["verdicts"].numpy().tobytes())]
        return rows, self._prompts.prompt_of(torch.arange(len(rows))).tolist()
