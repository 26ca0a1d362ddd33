"""Judges of composition: one interface for GenEval's rules and for the emoji's style and subject.

A judge has tasks and gives an image one verdict per task that its prompt belongs to. GenEval's prompts belong to one task each; a
caption of the emoji asks for a style, for a subject and for both.

Shapes: B images of a batch, C channels, H W height and width, V captions, S common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from mudit.benchmark.clip import picture
from mudit.benchmark.detector import Detector
from mudit.benchmark.geneval import Detection, Verdict, judge
from mudit.benchmark.questions import TASKS, Question
from mudit.config.benchmarks import GenEvalRules
from mudit.errors import DataError
from mudit.evaluate.composition import COMPOSITION_METRICS, Composition
from mudit.evaluate.scorer import Scorer

Verdicts = dict[str, Verdict]  # task -> verdict, of one image


class Judge(Protocol):
    """Says whether images do what their prompts ask."""

    identity: dict[str, Any]
    """Names and digests of everything behind the verdicts."""
    tasks: tuple[str, ...]

    def judge(self, images_BCHW: Tensor, prompts_B: Tensor) -> list[Verdicts]:
        """Verdicts on uint8 images. prompts_B: int64, places of the prompts that the judge knows."""
        ...


class ColourJudge(Protocol):
    """Names the colours of objects."""

    def of(self, image: Image.Image, objects: Sequence[Detection], name: str) -> list[str]:
        """One of `COLOURS` for each object of a class."""
        ...


class GenEvalJudge:
    """GenEval's rules on what a detector finds."""

    tasks: tuple[str, ...] = TASKS

    def __init__(
        self, questions: Sequence[Question], rules: GenEvalRules, detector: Detector, colours: ColourJudge, identity: dict[str, Any]
    ) -> None:
        """identity: of what names the colours. Raises DataError if a question is about a class that the detector does not know."""
        unknown = sorted(set().union(*(question.classes for question in questions)) - detector.classes)
        if unknown:
            raise DataError(
                f"benchmarks: the detector does not know {', '.join(map(repr, unknown[:3]))}, which prompts ask for; take one "
                "that was trained on COCO's instances"
            )
        self._questions, self._rules, self._detector, self._colours = questions, rules, detector, colours
        self.identity = {"rules": rules.model_dump(mode="json"), "detector": detector.identity, "colours": identity}

    def judge(self, images_BCHW: Tensor, prompts_B: Tensor) -> list[Verdicts]:
        """One verdict per image, on its prompt's task."""
        return [
            self._one(picture(image_CHW), found, self._questions[prompt])
            for image_CHW, found, prompt in zip(images_BCHW, self._detector.detect(images_BCHW), prompts_B.tolist(), strict=True)
        ]

    def _one(self, image: Image.Image, found: list[Detection], question: Question) -> Verdicts:
        return {question.task: judge(found, question, self._rules, lambda objects, name: self._colours.of(image, objects, name))}


class CompositionJudge:
    """The compositional check with ground truth (`mudit.evaluate.composition`) as a judge: of held-out captions, by a scorer."""

    def __init__(self, scorer: Scorer, composition: Composition, captions_VS: Tensor) -> None:
        """captions_VS: all held-out captions in the scorer's space."""
        self._scorer, self._composition, self._captions_VS = scorer, composition, captions_VS
        self.identity = scorer.identity
        self.tasks: tuple[str, ...] = COMPOSITION_METRICS

    def judge(self, images_BCHW: Tensor, prompts_B: Tensor) -> list[Verdicts]:
        """Verdicts on class, subject and both; on the subject alone where there is one class."""
        right = self._composition.right(self._scorer.see([images_BCHW]), prompts_B, self._captions_VS)
        return [
            {
                task: Verdict(bool(right_B[place]), "" if right_B[place] else f"{task} fails")
                for task, right_B in right.items()
                if right_B is not None
            }
            for place in range(len(prompts_B))
        ]
