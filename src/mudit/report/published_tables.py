"""The paper's result tables and figures, cell by cell. Figures were digitised from the pictures in the published repository.

Everything here is a fact of the paper; what we measured stands beside it in tables_section.py. None: not known here, because the
appendix tables were not at hand; nan: diverged.
"""

from __future__ import annotations

from dataclasses import dataclass

from mudit.plan.published import RUNS, PublishedRun, common_utilisation

# Figure 3: FID-50K of DiT-μP without guidance after a sweep of the base learning rate, ±0.3; lower is better.
LOG2_LRS = (-13, -12, -11, -10, -9)
_X = float("nan")


@dataclass(frozen=True)
class SweepRow:
    """One curve of Figure 3: FID-50K at each of LOG2_LRS."""

    panel: str
    width: int
    batch_size: int
    steps: int
    fid: tuple[float, ...]

    @property
    def label(self) -> str:
        """What is varied in its panel."""
        return {"a": f"width {self.width}", "b": f"batch {self.batch_size}", "c": f"{self.steps // 1000}K steps"}[self.panel]

    @property
    def hours(self) -> float:
        """A100-80GB hours of one of its points.

        The paper's 104 h for width 288, batch 256 and 200K steps, times the images seen and the operations per image, those of
        the autoencoder included.
        """
        known, share = RUNS[0], common_utilisation()
        here = PublishedRun("", self.width, self.steps, known.hours)
        return known.hours * here.predicted(share) / known.predicted(share) * self.batch_size / 256


# The row of width 288, batch 256 and 200K steps stands in all three panels; its three digitisations agree to 0.1.
FIGURE_3 = (
    SweepRow("a", 144, 256, 200_000, (103.2, 93.9, 91.6, 88.8, _X)),
    SweepRow("a", 288, 256, 200_000, (79.2, 66.0, 63.8, 61.6, _X)),
    SweepRow("a", 576, 256, 200_000, (66.2, 50.2, 45.0, 43.8, _X)),
    SweepRow("b", 288, 128, 200_000, (88.8, 76.8, 73.5, 74.5, _X)),
    SweepRow("b", 288, 512, 200_000, (72.0, 57.6, 54.4, 53.9, 54.0)),
    SweepRow("c", 288, 256, 100_000, (102.8, 84.9, 78.6, 75.4, 74.3)),
    SweepRow("c", 288, 256, 150_000, (88.0, 72.6, 69.6, 67.5, 70.5)),
)
FIGURE_3_SOURCE = "Figure 3, FID-50K, read off the picture (±0.3)"

# The pre-training figure: step -> FID-50K of DiT-XL-2 and of DiT-XL-2-μP, ±0.06.
CONVERGENCE: dict[int, tuple[float, float | None]] = {
    400_000: (20.36, 18.59),
    800_000: (14.69, 12.92),
    1_200_000: (12.76, 11.25),
    1_600_000: (11.77, 10.16),
    2_000_000: (10.94, 9.69),
    2_400_000: (10.73, 9.43),
    7_000_000: (9.58, None),
}
CONVERGENCE_SOURCE = "Pre-training figure, FID-50K without guidance, read off the picture (±0.06)"
CONVERGENCE_SAMPLING = {"sampler": "ddpm", "steps": 250, "guidance": 1}  # README of the published code
HOURS_PER_STEP = RUNS[1].hours / RUNS[1].steps  # A100-80GB, width 1152, batch 256


@dataclass(frozen=True)
class ResultTable:
    """A table of models and scores. `hours` are A100-80GB hours of training one of its models; None: cannot be stated."""

    source: str
    columns: tuple[str, ...]
    measured: tuple[tuple[str, str] | None, ...]
    """Of each column: kind of benchmark and metric that measure the same here; None: nobody outside can."""
    baseline: tuple[str, tuple[float | None, ...]]
    subject: tuple[str, tuple[float | None, ...]]
    hours: float | None
    why: str
    """Where the hours come from, or why there are none."""


RESULTS = {
    "pixart": ResultTable(
        source="table of PixArt-α results at epoch 30; COCO from a note on the paper, not from the paper itself",
        columns=("GenEval ↑", "MJHQ FID-30K ↓", "COCO FID-30K ↓", "MJHQ CLIP ↑", "COCO CLIP ↑"),
        measured=(
            ("geneval", "geneval"),
            ("mjhq", "frechet_distance"),
            ("coco", "frechet_distance"),
            ("mjhq", "clip_score"),
            ("coco", "clip_score"),
        ),
        baseline=("PixArt-α", (0.15, 42.71, 37.61, None, None)),
        subject=("PixArt-α-μP", (0.26, 29.96, 25.84, None, None)),
        hours=2900.0,
        why="derived from DiT's throughput",
    ),
    "mmdit": ResultTable(
        source="abstract and table of MMDiT results",
        columns=("GenEval ↑", "text-image alignment ↑"),
        measured=(("geneval", "geneval"), None),
        baseline=("MMDiT-18B, tuned by experts", (0.8154, 0.703)),
        subject=("MMDiT-μP-18B", (0.8218, 0.715)),
        hours=None,
        why="internal data, batch size unpublished",
    ),
}

# Table 2: the five rates of PixArt-α's proxy search; only the best is known here.
PROXY_SEARCH_BEST = -10
PROXY_SEARCH_SOURCE = "Table 2; its scores were not at hand"
PROXY_SEARCH_HOURS = 112.0  # of each of its five points: a fifth of what paper.NOT_RUN derives for the search
