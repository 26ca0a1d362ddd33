"""What the paper says, each value with its source. Figures marked "read off" were digitised from the published pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Published:
    """A value as text, and where it stands."""

    value: str
    source: str


Hypothesis = Literal["H1", "H2", "H3", "H4", "H5", ""]
HYPOTHESES: dict[Hypothesis, str] = {
    "H1": "μP of all four diffusion transformers is that of a plain Transformer",
    "H2": "DiT: the best base learning rate transfers over width, batch size and steps",
    "H3": "DiT: the transferred rate converges 2.9 times faster than the baseline",
    "H4": "PixArt-α: better than the baseline, for a small share of one run",
    "H5": "MMDiT: a random search on the proxy beats the default setting (the paper: human tuning), for a small share of a run",
    "": "Beyond the paper's headline claims",
}

FAMILIES = {"dit": "DiT", "pixart": "PixArt-α", "uvit": "U-ViT", "mmdit": "MMDiT", "external": "your own model"}
NONE = Published("not given", "")

# Parametrization, by family
RULES = {
    "dit": Published(
        "μP of DiT is that of a plain Transformer; coordinates flat", "Theorem 3.1; coordinate check in the code's figures"
    ),
    "pixart": Published(
        "μP of PixArt-α is that of a plain Transformer; coordinates flat", "Theorem 3.1; coordinate check in the code's figures"
    ),
    "uvit": Published("μP of U-ViT is that of a plain Transformer: theory, no experiment", "Theorem 3.1 and appendix C"),
    "mmdit": Published("μP of MMDiT is that of a plain Transformer; no coordinate check", "Theorem 3.1 and appendix C"),
}

# Transfer of the learning rate
WIDTH = Published("2⁻¹⁰ at widths 144, 288 and 576", "Figure 3a (read off)")
BATCH_SIZE = Published("2⁻¹¹ at batch 128, 2⁻¹⁰ at 256 and 512: within one grid step", "Figure 3b (read off)")
STEPS = Published("2⁻⁹ at 100K steps, 2⁻¹⁰ at 150K and 200K: within one grid step", "Figure 3c (read off)")
THEORY = Published("theory only: transfers by Theorem 3.1, no sweep over widths", "Theorem 3.1")
SP_WIDTH = Published("no curve; in theory it falls by 1 per doubling", "Yang et al. 2022 (Tensor Programs V)")
BASE_LR = {
    "dit": Published("2⁻¹⁰", "section 4; README of the published code"),
    "pixart": Published("2⁻¹⁰, of five points on the proxy", "Table 2; README of the published code"),
}
BASE_LR_LOG2 = -10.0
DEPTH, BASE_WIDTH = 28, 288  # of the proxies of DiT-XL-2-μP and PixArt-α-μP
TARGET_SIZE = {"dit": (28, 1152), "pixart": (28, 1152), "mmdit": (19, 5120)}  # depth and width; MMDiT's depth is assumed
PROXY_RUN = {"dit": (256, 200_000), "pixart": (1408, 39_185)}  # batch size and steps; 5 epochs for PixArt-α
TARGET_BATCH = {"dit": 256, "pixart": 5632}
NO_TUNING = Published("no further tuning at the target", "Algorithm 4")
OUTPUT_MULT = Published("an analysis exists, its numbers are not known here", "the published code has a flag for it, logstd")

# The target
SPEEDUP = Published("2.9×", "abstract; 2.4M against 7M iterations")
SPEEDUP_FACTOR = 2.9
DISTANCE = Published("9.43 against 10.73 at 2.4M iterations", "FID-50K, pre-training figure (read off)")
NO_KERNEL_DISTANCE = Published("not given", "the paper reports FID, sFID and IS")

# Better than the baseline: family -> what is compared -> value. What is left out, the paper does not claim.
BETTER = {
    "pixart": {
        "loss": Published("μP better than the baseline at every epoch; no losses", "table of PixArt-α results"),
        "kernel_distance": Published(
            "FID-30K 25.84 against 37.61 (COCO), 29.96 against 42.71 (MJHQ), at epoch 30", "table of PixArt-α results"
        ),
        "composition_accuracy": Published("GenEval 0.26 against 0.15 at epoch 30", "table of PixArt-α results"),
    },
    "mmdit": {
        "loss": Published("training loss of μP is lower; curves without numbers", "MMDiT figures"),
        "composition_accuracy": Published("GenEval 0.8218 against 0.8154", "abstract; table of MMDiT results"),
        "clip_like_score": Published("text-image alignment 0.715 against 0.703", "table of MMDiT results"),
    },
}

CLIP_UNKNOWN = Published("not known here", "the table of PixArt-α results has CLIP scores; their values were not at hand")

# Where the paper's baseline is another than ours
BASELINE = {"mmdit": "the paper's baseline was tuned by hand; ours is the default setting"}
HUMAN_RUNS = {"mmdit": 5}  # what tuning by hand took, in target runs: the paper holds its cost against that

# Cost of tuning, by family
COST = {
    "dit": Published("2.6 %", "derived: 5 trials × 42.55M × 200K over 674.8M × 2.4M; not stated in the paper"),
    "pixart": Published("5.5 %", "abstract; 5 trials × 0.04B × 5 epochs over 0.61B × 30 epochs"),
    "mmdit": Published(
        "3 % of human tuning, which took about 5 runs; 12 % of one run by the formula",
        "abstract; derived: 80 trials × 0.18B × 30K over 18B × 200K at equal batch",
    ),
}

# Sensitivity of the hyperparameters in MMDiT's random search
LR_MATTERS = Published("the learning rate matters most", "MMDiT random search")
CLIP = Published("best clip 1, where 0.1 is the habit", "MMDiT random search")
CLIP_TIGHT = Published("tight clipping spoils maximal updates", "MMDiT random search")
WARMUP = Published("warm-up is negligible", "MMDiT random search")
REPA = Published("not known here", "searched; its effect was not at hand")
NOT_AT_EDGE = Published("in single-epoch training the best rate is not at the edge of stability", "MMDiT random search")
CLIP_LOG2, CLIP_HABIT = 0.0, 0.1


@dataclass(frozen=True)
class NotRun:
    """A claim that an experiment of its family does not test, and what testing it takes."""

    name: str
    family: str
    hypothesis: Hypothesis
    claim: str
    published: Published
    needs: str


# A100-80GB hours. DiT: section 4 of the paper (7 days x 32 GPUs; 13 h x 8 GPUs for each proxy trial). PixArt: derived from the
# throughput that those figures imply, 32 images/s and GPU at width 1152 and 137 at width 288, times the images that are seen.
NOT_RUN = (
    NotRun(
        "dit-xl",
        "dit",
        "H3",
        "DiT-XL-2-μP on ImageNet-256 reaches DiT-XL-2's FID 2.9 times sooner",
        SPEEDUP,
        "5,376 A100-hours for the μP run, 520 for its search, about 15,700 for the baseline",
    ),
    NotRun(
        "pixart",
        "pixart",
        "H4",
        "PixArt-α-μP on SA-1B, 0.04B to 0.61B: better than the baseline",
        Published("GenEval 0.26 against 0.15; tuning 5.5 % of one run", "abstract; Figure 1; table of PixArt-α results"),
        "about 560 A100-hours for the search and 2,900 for each of two targets (derived)",
    ),
    NotRun(
        "mmdit",
        "mmdit",
        "H5",
        "MMDiT-μP, 0.18B to 18B: better than human tuning",
        Published("GenEval 0.8218 against 0.8154; tuning 3 % of the experts'", "abstract; Figure 1"),
        "internal data and code, batch size unpublished: A100-hours cannot be stated",
    ),
)
