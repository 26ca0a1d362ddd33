"""One rank of several jobs, one after another: python rank_of_metrics.py JOBS.pickle [KILL_AT]

JOBS.pickle holds (module, job) pairs. With KILL_AT rank 0 kills itself without warning when it has begun so many batches of images.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
from pathlib import Path

import torch

from mudit.evaluate import extractor_stage, extractors
from mudit.jobs.distributed import barrier, joined

MOMENT_IMAGES, HELD_OUT_IMAGES = 400, 100


def main() -> None:
    jobs, *kill_at = sys.argv[1:]
    torch.set_num_threads(1)
    extractor_stage.MOMENT_IMAGES, extractor_stage._HELD_OUT_IMAGES = MOMENT_IMAGES, HELD_OUT_IMAGES
    with joined() as world:
        if kill_at and world.main:
            _kill_after(int(kill_at[0]))
        for module, job in pickle.loads(Path(jobs).read_bytes()):
            importlib.import_module(module).run(job)
            barrier()  # the next job reads what rank 0 has yet to write


def _kill_after(batches: int) -> None:
    forward, begun = extractors.DigitsFeatures.forward, []

    def counted(self: object, images: torch.Tensor) -> object:
        begun.append(len(images))
        if len(begun) > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, images)  # type: ignore[arg-type]

    extractors.DigitsFeatures.forward = counted  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
