"""What images are judged by: the name of each figure in headings and sentences, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A metric of a record."""

    label: str
    higher_is_better: bool

    @property
    def heading(self) -> str:
        """With an arrow that says which way is better."""
        return f"{self.label} {'↑' if self.higher_is_better else '↓'}"


# In the order of the page.
MEASURES = {
    "frechet_distance": Measure("Fréchet distance", False),
    "spatial_frechet_distance": Measure("spatial Fréchet distance", False),
    "inception_score": Measure("inception score", True),
    "kernel_distance": Measure("kernel distance", False),
    "precision": Measure("precision", True),
    "recall": Measure("recall", True),
    "conditional_accuracy": Measure("conditional accuracy", True),
    "clip_like_score": Measure("CLIP-like score", True),
    "style_accuracy": Measure("style right", True),
    "subject_accuracy": Measure("subject right", True),
    "composition_accuracy": Measure("style and subject right", True),
    "validation_loss": Measure("validation loss", False),
}
