"""What the paper says, each value with its source. Figures marked "read off" were digitised from the published pictures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A value as text, and where it stands."""

    value: str
    source: str


RULES = Published(
    "μP of DiT is that of a plain Transformer; coordinates flat", "Theorem 3.1; coordinate check in the code's figures"
)
WIDTH = Published("2⁻¹⁰ at widths 144, 288 and 576", "Figure 3a (read off)")
BATCH_SIZE = Published("2⁻¹¹ at batch 128, 2⁻¹⁰ at 256 and 512: within one grid step", "Figure 3b (read off)")
STEPS = Published("2⁻⁹ at 100K steps, 2⁻¹⁰ at 150K and 200K: within one grid step", "Figure 3c (read off)")
SP_WIDTH = Published("no curve; in theory it falls by 1 per doubling", "Yang et al. 2022 (Tensor Programs V)")
NONE = Published("not given", "")
BASE_LR = Published("2⁻¹⁰", "section 4; README of the published code")
BASE_LR_LOG2 = -10.0
DEPTH, BASE_WIDTH, TARGET_WIDTH = 28, 288, 1152  # of DiT-XL-2-μP and its proxies
NO_TUNING = Published("no further tuning at the target", "Algorithm 4")
SPEEDUP = Published("2.9×", "abstract; 2.4M against 7M iterations")
SPEEDUP_FACTOR = 2.9
SEARCH = Published("2.6 %", "derived: 5 trials × 42.55M × 200K over 674.8M × 2.4M; not stated in the paper")
DISTANCE = Published("9.43 against 10.73 at 2.4M iterations", "FID-50K, pre-training figure (read off)")
NO_KERNEL_DISTANCE = Published("not given", "the paper reports FID, sFID and IS")


@dataclass(frozen=True)
class NotRun:
    """A claim that this experiment does not test, and what testing it takes."""

    name: str
    claim: str
    published: Published
    needs: str


# A100-80GB hours. DiT: section 4 of the paper (7 days x 32 GPUs; 13 h x 8 GPUs for each proxy trial). PixArt: derived from the
# throughput that those figures imply, 32 images/s and GPU at width 1152 and 137 at width 288, times the images that are seen.
NOT_RUN = (
    NotRun(
        "dit-xl",
        "DiT-XL-2-μP on ImageNet-256 reaches DiT-XL-2's FID 2.9 times sooner",
        SPEEDUP,
        "5,376 A100-hours for the μP run, 520 for its search, about 15,700 for the baseline",
    ),
    NotRun(
        "pixart",
        "PixArt-α-μP, 0.04B to 0.61B: better than the baseline",
        Published("GenEval 0.26 against 0.15; tuning 5.5 % of one run", "abstract; Figure 1; table of PixArt-α results"),
        "about 560 A100-hours for the search and 2,900 for each of two targets (derived)",
    ),
    NotRun(
        "mmdit",
        "MMDiT-μP, 0.18B to 18B: better than human tuning",
        Published("GenEval 0.8218 against 0.8154; tuning 3 % of the experts'", "abstract; Figure 1"),
        "internal data and code, batch size unpublished: A100-hours cannot be stated",
    ),
)
