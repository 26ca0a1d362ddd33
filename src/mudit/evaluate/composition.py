"""GenEval-like compositional check with ground truth: does an image show the class *and* the subject that its caption names?

GenEval (Ghosh et al. 2023) asks a detector whether objects, counts, colours and places are as the prompt says. Here the prompt's
two factors are known. Class (emoji: drawing style): a probe of the image's features must name it. Subject: the image must fit its
own caption better than each of `candidates` - 1 captions of other held-out subjects in the same class. Each by itself can be
guessed; the chance is stated.

Shapes: N images, V held-out captions, S common space, M candidates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mudit.config.schema import ScorerSection
from mudit.data.reader import LatentSplit
from mudit.evaluate.retrieval import caption_ids, draw_candidates, finds_own, share
from mudit.evaluate.scorer import Seen

STYLE, SUBJECT, BOTH = "style_accuracy", "subject_accuracy", "composition_accuracy"
COMPOSITION_METRICS = (STYLE, SUBJECT, BOTH)


class Composition(NamedTuple):
    """The held-out captions as questions, in store order."""

    ids_V: Tensor  # int64: captions with the same text have the same number
    labels_V: Tensor  # int64, the class that a caption names
    rivals_VM: Tensor  # int64, places of the candidates - 1 other captions
    num_classes: int

    @classmethod
    def of_split(cls, split: LatentSplit, class_names: list[str], section: ScorerSection) -> Composition:
        """The same questions for every run of an experiment. Raises ConfigError if a class has fewer captions than candidates."""
        every_V = torch.arange(len(split))
        ids_V, labels_V = caption_ids(split.captions(every_V)), split.labels(every_V)
        rivals_VM = draw_candidates(ids_V, labels_V, class_names, section.candidates, section.seed)
        return cls(ids_V, labels_V, rivals_VM, len(class_names))

    def shares(self, seen: Seen, own_N: Tensor, captions_VS: Tensor) -> dict[str, dict[str, Any] | None]:
        """Metric -> share of images that are right, with interval, count and chance; None where there is only one class.

        own_N: int64, the place of the caption that each image was made for; captions_VS: all captions in the scorer's space.
        """
        right = self.right(seen, own_N, captions_VS)
        return {
            metric: None if right_N is None else share(int(right_N.sum()), len(own_N), self.chance(metric))
            for metric, right_N in right.items()
        }

    def right(self, seen: Seen, own_N: Tensor, captions_VS: Tensor) -> dict[str, Tensor | None]:
        """Metric -> whether each image is right, bool [N]; arguments and None as in `shares`."""
        right: dict[str, Tensor | None] = dict.fromkeys(COMPOSITION_METRICS)
        subject_N = right[SUBJECT] = finds_own(seen.embeddings_NS, captions_VS[own_N], captions_VS, self.rivals_VM[own_N])
        if seen.classes_N is not None and self.num_classes > 1:
            style_N = right[STYLE] = seen.classes_N == self.labels_V[own_N]
            right[BOTH] = style_N & subject_N
        return right

    def chance(self, metric: str) -> float:
        """Share that guessing gets right."""
        subject, style = 1 / (self.rivals_VM.shape[1] + 1), 1 / self.num_classes
        return {SUBJECT: subject, STYLE: style, BOTH: subject * style}[metric]
