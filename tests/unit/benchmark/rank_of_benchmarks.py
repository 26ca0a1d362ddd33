"""One rank of several jobs of the stage `benchmark`, one after another: python rank_of_benchmarks.py JOBS.pickle"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

from mudit.benchmark import stage
from mudit.jobs.distributed import barrier, joined
from mudit.stages import Job


def run(job: Job) -> None:
    """In small pieces, on one thread: sums that are split over threads round differently."""
    torch.set_num_threads(1)
    pieces, stage.PIECE_IMAGES = stage.PIECE_IMAGES, 5
    try:
        stage.run(job)
    finally:
        stage.PIECE_IMAGES = pieces


if __name__ == "__main__":
    with joined():
        for each in pickle.loads(Path(sys.argv[1]).read_bytes()):
            run(each)
            barrier()
