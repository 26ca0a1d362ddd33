"""A training step against `diffusers`' DiT of the same size and batch, utilisation, and the CPU kernels against torch's own.

Steps of the two models alternate, so that a drift of the machine's speed hits both. Both run forward, backward and fused AdamW on
the plain noise-prediction loss with the same batch; ours carries learned variance channels like theirs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.config.load import load
from mudit.config.models import ModelSection
from mudit.models.blocks import attend, gelu_tanh
from mudit.models.families import build
from mudit.models.flops import train_flops
from mudit.train.throughput import matmul_peak

CONFIG = Path(__file__).resolve().parent.parent / "config.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load(CONFIG).experiments["dit-digits"]
    peak = matmul_peak(torch.device("cpu"), repeats=10)
    print(f"{arguments.threads} thread(s), matmul peak {peak / 1e9:.0f} GFLOP/s, batch {config.train.batch_size}")
    for width in [*config.sweep.widths.width, config.train.width]:
        _compare(config.model, width, config.train.batch_size, arguments.steps, peak)
    _kernels(config.model, config.train.width, config.train.batch_size)


def _compare(section: ModelSection, width: int, batch: int, steps: int, peak: float) -> None:
    ours, theirs = build(section, width), _diffusers(section, width)
    x, noise = torch.randn(2, batch, section.channels, section.image_size, section.image_size)
    t, y = torch.randint(0, 1000, (batch,)), torch.randint(0, section.num_classes, (batch,))
    steppers = [
        _stepper(ours, lambda: ours(x, t, y), noise),
        _stepper(theirs, lambda: theirs(x, timestep=t, class_labels=y).sample, noise),
    ]
    seconds: list[list[float]] = [[], []]
    for index in range(steps + 2):
        for which, step in enumerate(steppers):
            start = time.perf_counter()
            step()
            if index >= 2:
                seconds[which].append(time.perf_counter() - start)
    mine, other = (statistics.median(values) for values in seconds)
    utilisation = train_flops(section, width, batch) / mine / peak
    print(
        f"width {width:4d}: ours {mine * 1e3:6.1f} ms, diffusers {other * 1e3:6.1f} ms, ratio {other / mine:.2f}x; "
        f"utilisation {utilisation:.0%} of the matmul peak"
    )


def _diffusers(section: ModelSection, width: int) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=width // section.head_dim,
        attention_head_dim=section.head_dim,
        in_channels=section.channels,
        out_channels=2 * section.channels,
        num_layers=section.depth,
        sample_size=section.image_size,
        patch_size=section.patch_size,
        num_embeds_ada_norm=section.num_classes,
    )


def _stepper(model: nn.Module, forward: Callable[[], Tensor], noise: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(forward()[:, : noise.shape[1]], noise).backward()
        optimizer.step()

    return step


def _kernels(section: ModelSection, width: int, batch: int) -> None:
    tokens = (section.image_size // section.patch_size) ** 2
    q = torch.randn(batch, width // section.head_dim, tokens, section.head_dim, requires_grad=True)
    hidden = torch.randn(batch, tokens, section.mlp_ratio * width, requires_grad=True)
    pairs: list[tuple[str, Callable[[], Tensor], Callable[[], Tensor]]] = [
        ("attention", lambda: attend(q, q, q), lambda: F.scaled_dot_product_attention(q, q, q)),
        ("tanh-GELU", lambda: gelu_tanh(hidden), lambda: F.gelu(hidden, approximate="tanh")),
    ]
    for name, ours, torchs in pairs:
        mine, other = _kernel_ms(ours), _kernel_ms(torchs)
        print(f"{name} forward and backward at width {width}: ours {mine:.2f} ms, torch {other:.2f} ms, ratio {other / mine:.2f}x")


def _kernel_ms(kernel: Callable[[], Tensor]) -> float:
    gradient = torch.randn_like(kernel())
    times = []
    for _ in range(30):
        start = time.perf_counter()
        kernel().backward(gradient)
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:]) * 1e3


if __name__ == "__main__":
    main()
