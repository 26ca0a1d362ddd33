"""Sweep throughput: packed, back to back in one process, and one process per trial, side by side at each desk width.

Runs K trials (learning rates of one seed) of the desk study's shape to its horizon in each way and prints seconds per trial and
ratios. Every way trains the same trials; packed and back to back give the same bits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.data import stage as data_stage
from mudit.data.reader import LatentStore
from mudit.parametrization.table import table_for
from mudit.stages import Job
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs

CONFIG = Path(__file__).resolve().parent.parent / "config.yaml"
EXPERIMENT = "dit-digits"


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    config = load(CONFIG).experiments[EXPERIMENT]
    if arguments.child:
        width, log2_lr, folder = int(arguments.child[0]), float(arguments.child[1]), Path(arguments.child[2])
        _train(config, LatentStore.open(folder), width, [_member(config, log2_lr)], arguments.steps)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        folder.mkdir()
        data_stage.run(Job(EXPERIMENT, config, "", {}, folder, Path(scratch) / "state"))
        print(f"{arguments.trials} trials, {arguments.steps} steps, batch {config.train.batch_size}, {arguments.threads} thread(s)")
        print("seconds per trial          process  back to back   packed   | process/packed  back to back/packed")
        rows = []
        for width in [*config.sweep.widths.width, config.sweep.tuned.width]:
            rows.append(_measure(config, folder, width, arguments))
            print(_line(rows[-1]), flush=True)
    print(json.dumps(rows))


def _measure(config: Experiment, folder: Path, width: int, arguments: argparse.Namespace) -> dict[str, float]:
    members = [_member(config, -9.0 + index) for index in range(arguments.trials)]
    store = LatentStore.open(folder)

    def alone() -> None:
        for member in members:
            _train(config, store, width, [member], arguments.steps)

    def processes() -> None:
        for member in members:
            command = [sys.executable, __file__, "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
            subprocess.run([*command, "--child", str(width), str(member.knobs.log2_lr), str(folder)], check=True)

    def packed() -> None:
        _train(config, store, width, members, arguments.steps)

    seconds = {name: _seconds(way) / len(members) for name, way in (("process", processes), ("alone", alone), ("packed", packed))}
    return {"width": width, **seconds}


def _train(config: Experiment, store: LatentStore, width: int, members: list[Member], steps: int) -> None:
    group = TrialGroup(config, store, table_for(config.model, width, "mup"), members, config.train.batch_size)
    for step in range(steps):
        group.step(step)


def _member(config: Experiment, log2_lr: float) -> Member:
    return Member(Knobs.of(config, log2_lr, config.train.batch_size), 0)


def _seconds(way: object) -> float:
    assert callable(way)
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _line(row: dict[str, float]) -> str:
    process, alone, packed = row["process"], row["alone"], row["packed"]
    return (
        f"width {row['width']:4.0f}               {process:8.2f}  {alone:12.2f} {packed:8.2f}   |"
        f"{process / packed:14.2f}x {alone / packed:20.2f}x"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=3, metavar=("WIDTH", "LOG2_LR", "DATA"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
