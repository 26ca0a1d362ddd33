"""Batches prepared ahead: while a GPU computes a step, a thread gathers, pads and pins what the next one sees.

Token features as wide as T5-XXL's take a core about a millisecond per caption (docs/benchmarks.md), which a GPU would wait for.
Where the CPU computes, a thread would fight with it for the same cores: there it is a plain call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self

import torch

from mudit.data.reader import LatentSplit
from mudit.train.batches import Batch


class Ahead:
    """The batches of `at`, asked for in order of steps. `at` is never in two threads at once; of several steps one is held.

    Used as a context, it leaves no thread behind. Otherwise the thread ends with the last step, with `close` or with this object.
    """

    def __init__(self, at: Callable[[int], Batch], device: torch.device, steps: int | None) -> None:
        """`steps` of the run, beyond which nothing is prepared; None: nothing is prepared ahead at all."""
        self._at, self._device = at, device
        self._steps = steps if steps is not None and pays(device) else 0
        self._thread: ThreadPoolExecutor | None = None
        self._expected: tuple[int, Future[Batch]] | None = None

    def at(self, step: int) -> Batch:
        """The batch of `step`, on the CPU. Raises what preparing it raised."""
        expected, self._expected = self._expected, None
        if expected is not None and expected[0] == step:
            batch = expected[1].result()
        else:  # the first step of this process, or one after a jump
            if expected is not None:
                wait([expected[1]])
            batch = self._prepared(step)
        if step + 1 < self._steps:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
            self._expected = step + 1, self._thread.submit(self._prepared, step + 1)
        else:
            self.close()
        return batch

    def close(self) -> None:
        """Drop what is prepared and end the thread: at once, or when it is done with its batch."""
        self._expected = None
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepared(self, step: int) -> Batch:
        batch = self._at(step)
        if self._device.type != "cuda":
            return batch
        # A new thread is on the first GPU, whichever the process's own is.
        with torch.cuda.device(self._device):
            return batch.map(lambda tensor: tensor.pin_memory())


def pays(device: torch.device) -> bool:
    """Whether a thread has anything to do while this device computes."""
    return device.type == "cuda"


def steps_to_prepare(split: LatentSplit, steps: int | None) -> int | None:
    """`steps`, unless captions are encoded on the fly: that is work of the same GPU, in the precision that is set when it runs."""
    return None if split.encodes_captions else steps
