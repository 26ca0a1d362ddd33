"""What a checkpoint costs the training loop: written at once, or copied and written by a thread, against the disk itself.

The state is that of a DiT: weights, average and two moments of AdamW. The loop is its training step at a batch of 2. What the loop
loses is the time that it waits for a save, and, beside a thread, by how much steps are longer than before. Rounds alternate, so
that a drift of the machine's speed hits all. The limit is a plain write of as many bytes, flushed to the disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mudit.config.load import load
from mudit.models.families import build
from mudit.train.checkpoint import Checkpoint, CheckpointFolder

CONFIG = Path(__file__).resolve().parent.parent / "config.yaml"
BATCH = 2
STEPS = 10  # that are timed without a checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    section = load(CONFIG).experiments["dit-digits"].model
    model = build(section, arguments.width)
    state = {f"{kind}.{name}": torch.rand_like(tensor) for kind in range(3) for name, tensor in model.named_parameters()}
    state |= dict(model.named_parameters())
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    step = _stepper(model, section.channels, section.image_size, section.num_classes)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        _measure(Path(scratch), state, size, step, arguments.rounds)


def _measure(scratch: Path, state: dict[str, Tensor], size: int, step: Callable[[], None], rounds: int) -> None:
    folder = CheckpointFolder(scratch / "checkpoints", identity="benchmark", keep=1)
    writes, at_once, copies, threads, plain, beside = [], [], [], [], [], []
    step()
    for number in range(rounds):
        writes.append(_plain_write(scratch / "plain", size))
        at_once.append(_timed(lambda number=number: folder.save(Checkpoint(2 * number, state, {}))))
        own = [_timed(step) for _ in range(STEPS)]
        copies.append(_timed(lambda number=number: folder.begin(Checkpoint(2 * number + 1, state, {}))))
        slowed = []
        while not folder.written:
            slowed.append(_timed(step))
        end = _timed(folder.finish)
        plain.append(statistics.median(own))
        beside.append(statistics.median(slowed))
        threads.append(copies[-1] + sum(slowed) - len(slowed) * plain[-1] + end)
    limit = statistics.median(writes)
    print(f"{size / 1e6:.0f} MB of state; the disk takes {size / 1e6 / limit:.0f} MB/s: {limit:.2f} s is the limit")
    for name, stalls in (("at once", at_once), ("by a thread", threads)):
        stall = statistics.median(stalls)
        shown = ", ".join(f"{each:.2f}" for each in stalls)
        print(f"{name}: the loop loses {stall:.2f} s, {stall / limit:.2f} of the limit (rounds: {shown})")
    print(f"of the thread's, the copy to memory is {statistics.median(copies):.2f} s;", end=" ")
    print(f"a step takes {1e3 * statistics.median(plain):.0f} ms, and {1e3 * statistics.median(beside):.0f} ms beside the thread")


def _stepper(model: nn.Module, channels: int, side: int, classes: int) -> Callable[[], None]:
    x, t, y = torch.randn(BATCH, channels, side, side), torch.randint(0, 1000, (BATCH,)), torch.randint(0, classes, (BATCH,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x, t, y).square().mean().backward()
        optimizer.step()

    return step


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _plain_write(path: Path, size: int) -> float:
    """Seconds to write so many random bytes in one file and flush them."""
    block = os.urandom(1 << 24)
    start = time.perf_counter()
    with path.open("wb") as file:
        for first in range(0, size, len(block)):
            file.write(block[: min(len(block), size - first)])
        file.flush()
        os.fsync(file.fileno())
    elapsed = time.perf_counter() - start
    path.unlink()
    return elapsed


if __name__ == "__main__":
    main()
