"""The paper's own hours against the plan's arithmetic: what utilisation they imply, and what cached latents and bf16 save.

The paper states two totals for DiT on A100-80GB (section 4): width 288, batch 256, 200K steps in 13 h on 8 GPUs, and DiT-XL-2-muP,
2.4M steps in 7 days on 32. Its code encodes every image in every step with the autoencoder and trains in float32 with TF32
products, without recomputation. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from mudit.config.presets import PRESETS
from mudit.plan import encoders
from mudit.plan.counts import train_flops
from mudit.plan.hardware import PROCESSORS, Precision

_A100 = PROCESSORS["a100-80gb"]
_SIDE, _CHANNELS, _BATCH = 256, 4, 256
_DATASET, _VIEWS = 1_281_167, 2  # images of ImageNet, each stored with its mirror image
_MODEL = PRESETS["DiT-XL/2"].model


@dataclass(frozen=True)
class PublishedRun:
    """A run whose cost the paper states."""

    name: str
    width: int
    steps: int
    hours: float  # of A100-80GB GPUs

    @property
    def images(self) -> int:
        """Seen in training."""
        return self.steps * _BATCH

    @property
    def transformer(self) -> float:
        """Operations of the transformer, forward and backward."""
        return train_flops(_MODEL, self.width, self.images)

    @property
    def autoencoder(self) -> float:
        """Operations of encoding each image when it is read."""
        return 2 * encoders.vae_encode(_SIDE, _CHANNELS) * self.images

    @property
    def implied(self) -> float:
        """Share of the TF32 peak, the autoencoder's operations counted."""
        return (self.transformer + self.autoencoder) / (self.hours * 3600 * _A100.tf32)

    @property
    def implied_without_autoencoder(self) -> float:
        """The same share if only the transformer's operations are counted."""
        return self.transformer / (self.hours * 3600 * _A100.tf32)

    def predicted(self, utilisation: float, *, precision: Precision = "tf32", cached: bool = False) -> float:
        """GPU-hours at a utilisation. `cached`: the data set is encoded once, both views, and not in each step."""
        encoded = 2 * encoders.vae_encode(_SIDE, _CHANNELS) * _DATASET * _VIEWS if cached else self.autoencoder
        return (self.transformer / _A100.peak(precision) + encoded / _A100.tf32) / utilisation / 3600


RUNS = (
    PublishedRun("DiT, width 288, 200K steps", 288, 200_000, 13 * 8),
    PublishedRun("DiT-XL-2-muP, 2.4M steps", 1152, 2_400_000, 7 * 24 * 32),
)


def common_utilisation() -> float:
    """The geometric mean of what the two totals imply."""
    shares = [run.implied for run in RUNS]
    return (shares[0] * shares[1]) ** 0.5


def lines() -> list[str]:
    """The comparison as text."""
    share = common_utilisation()
    text = ["The paper's hours on A100-80GB, and the share of the TF32 peak (156 TFLOP/s) that they imply"]
    mean = f"at {share:.1%}"
    text.append(f"{'':28}{'paper':>9}{'transformer':>13}{'autoencoder':>13}{'implied':>9}{'without':>9}{mean:>10}")
    text += [
        f"{run.name:28}{run.hours:>7,.0f} h{run.transformer / 1e18:>10.1f} EF{run.autoencoder / 1e18:>10.1f} EF"
        f"{run.implied:>9.1%}{run.implied_without_autoencoder:>9.1%}{run.predicted(share):>8,.0f} h"
        for run in RUNS
    ]
    high, low = max(run.implied for run in RUNS), min(run.implied for run in RUNS)
    text += [
        "",
        f"No single share gives both totals: they imply {low:.1%} and {high:.1%}, and their mean, {share:.1%}, misses each by",
        f"a factor of {high / share:.2f}. Without the autoencoder's work no share comes near both: the small model's hours are",
        "its encoder's.",
        "",
        f"What the same runs take at {share:.1%} of the respective peak:",
        f"{'':28}{'as published':>14}{'cached':>12}{'cached, bf16':>14}{'saved':>8}",
    ]
    for run in RUNS:
        cached, both = run.predicted(share, cached=True), run.predicted(share, precision="bf16", cached=True)
        saved = 1 - both / run.predicted(share)
        text.append(f"{run.name:28}{run.predicted(share):>12,.0f} h{cached:>10,.1f} h{both:>12,.1f} h{saved:>8.0%}")
    text += [
        "",
        "implied, without: shares of the peak with and without the autoencoder's work. cached: both views of ImageNet are encoded",
        "once, which is counted in each row; a sweep shares it. bf16 at the same share of a peak twice as high is the most that it",
        "can save: public logs of DiT-XL/2 gain a factor of 1.2 to 1.3.",
    ]
    return text
