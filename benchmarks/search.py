"""Random search throughput: the packed search of one process against one process per trial, and back to back in one process.

Runs draws of the desk-text MMDiT search to its horizon, validation included, on a store of random numbers of the right shapes (the
arithmetic does not depend on the values), and prints trials per hour and ratios. Each way pays for the start of its processes.
Ratios are of processor seconds: with one thread those of an idle machine, and other work beside does not count. Wall seconds stand
beside them; on an idle machine they are the ones to quote.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.data.format import FeatureInfo, Shard, Split, StoredFile, StoreInfo, TextInfo, write_info
from mudit.data.reader import LatentStore
from mudit.data.tensors import save_tensors
from mudit.jobs.interrupt import Interrupt
from mudit.parametrization.table import table_for
from mudit.search.space import SearchStudy
from mudit.sweep.running import PackRun
from mudit.sweep.trials import PackedRuns
from mudit.sweep.watch import watching
from mudit.train.group import Member, TrialGroup
from mudit.train.validation import ValidationSet

CONFIG = Path(__file__).resolve().parent.parent / "config.yaml"
EXPERIMENT = "mmdit-emoji"
IMAGES = {"train": 1024, "validation": 400}
CAPTION = 10  # tokens of every caption; padded to the model's longest


@dataclass(frozen=True)
class Seconds:
    """Of one trial: of processors, and on the wall."""

    processor: float
    wall: float


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    config = _config(arguments)
    if arguments.child:
        way, folder = arguments.child[0], Path(arguments.child[1])
        _search(config, folder, [int(number) for number in arguments.child[2:]], packed=way == "packed")
        return
    search = config.search
    print(
        f"{EXPERIMENT}: width {search.width}, batch {search.batch_size}, {search.steps} steps, {arguments.threads} thread(s); "
        f"{arguments.trials} trials packed, {arguments.solo} in each other way"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_store(config, folder)
        SearchStudy(search, folder / "optuna.log")
        solo, many = list(range(arguments.solo)), list(range(arguments.trials))
        seconds = {
            "one process per trial": _seconds(arguments, folder, "alone", [[number] for number in solo]),
            "back to back": _seconds(arguments, folder, "alone", [solo]),
            "packed": _seconds(arguments, folder, "packed", [many]),
        }
    slowest = seconds["one process per trial"]
    for name, value in seconds.items():
        print(
            f"{name:22s} per trial: {value.processor:6.2f} processor s, {slowest.processor / value.processor:.2f}x; "
            f"{value.wall:6.2f} wall s, {slowest.wall / value.wall:.2f}x, {3600 / value.wall:6.0f} trials per hour"
        )
    print(json.dumps({name: asdict(value) for name, value in seconds.items()}))


def _config(arguments: argparse.Namespace) -> Experiment:
    config = load(CONFIG).experiments[EXPERIMENT]
    sizes = {"width": arguments.width, "batch_size": arguments.batch_size, "steps": arguments.steps, "trials": arguments.trials}
    search = config.search.model_copy(update={name: value for name, value in sizes.items() if value is not None})
    return config.model_copy(update={"search": search})


def _seconds(arguments: argparse.Namespace, folder: Path, way: str, processes: list[list[int]]) -> Seconds:
    """Seconds per trial of processes that run these trials, one process after another."""
    options = {"--steps": arguments.steps, "--width": arguments.width, "--batch-size": arguments.batch_size}
    command = [sys.executable, __file__, "--threads", str(arguments.threads), "--trials", str(arguments.trials)]
    command += [text for name, value in options.items() if value is not None for text in (name, str(value))]
    trials = sum(map(len, processes))
    start, wall_start = _children(), time.perf_counter()
    for numbers in processes:
        subprocess.run([*command, "--child", way, str(folder), *map(str, numbers)], check=True)
    return Seconds((_children() - start) / trials, (time.perf_counter() - wall_start) / trials)


def _children() -> float:
    """Processor seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _search(config: Experiment, folder: Path, numbers: list[int], *, packed: bool) -> None:
    search, store = config.search, LatentStore.open(folder)
    table, validation = table_for(config.model, search.width, search.scheme), ValidationSet(store, config)
    draws = SearchStudy(search, folder / "optuna.log").draws
    members = [Member(draws[number].knobs, search.seeds[0]) for number in numbers]

    def new_group(some: list[Member]) -> TrialGroup:
        return TrialGroup(config, store, table, some, search.batch_size)

    if packed:
        records = []
        with Interrupt() as interrupt, watching(EXPERIMENT, "search", folder / "state") as watch:
            runs = PackedRuns(
                "search",
                new_group,
                validation,
                [search.steps],
                search.divergence_factor,
                state=folder / "state",
                interrupt=interrupt,
                watch=watch,
            )
            runs.run(members, records.extend)
        diverged = sum(record.status == "diverged" for _, record in records)
        sizes = ", ".join(f"{size}: {seconds * 1e3:.1f}" for size, seconds in runs.seconds.items())
        print(f"packs of {runs.size}; ms per trial and step by trials at once {sizes}; {diverged} diverged", flush=True)
        return
    for member in members:
        run = PackRun(new_group, [member])
        for _ in run.steps(validation, [search.steps], search.divergence_factor, _silent):
            pass
        print(f"alone: {run.records()[0].status}", flush=True)


def _silent(*arguments: object, **columns: object) -> None:
    """Progress goes nowhere."""


def _write_store(config: Experiment, folder: Path) -> None:
    """A store of random numbers in the shapes that the model reads."""
    model, generator = config.model, torch.Generator().manual_seed(0)
    grid = model.image_size // model.patch_size
    splits = {}
    for name, count in IMAGES.items():
        path = folder / f"{name}-00000.safetensors"
        tensors = {
            "mean": torch.randn(count, model.channels, model.image_size, model.image_size, generator=generator),
            "labels": torch.zeros(count, dtype=torch.int64),
            "tokens": torch.randn(count * CAPTION, model.text_dim, generator=generator).half(),
            "token_ends": CAPTION * torch.arange(1, count + 1),
            "pooled": torch.randn(count, model.pooled_dim, generator=generator),
            "features": torch.randn(count, grid**2, model.alignment.features, generator=generator).half(),
        }
        save_tensors(tensors, path)
        captions = folder / f"{name}-00000.captions.json"
        captions.write_text(json.dumps(["random"] * count))
        splits[name] = Split(count=count, shards=[Shard(**_stored(path), count=count, captions=StoredFile(**_stored(captions)))])
    made_up = {"name": "random"}
    write_info(
        folder,
        StoreInfo(
            format="mudit-latents",
            version=3,
            source=made_up,
            encoder=made_up,
            latent_shape=(model.channels, model.image_size, model.image_size),
            latent_scale=1.0,
            latent_shift=0.0,
            moments="float32",
            has_std=False,
            flip=False,
            num_classes=1,
            class_names=["random"],
            text=TextInfo(
                token_dim=model.text_dim,
                pooled_dim=model.pooled_dim,
                max_tokens=config.data.captions.max_tokens,
                cut=0,
                storage="float16",
                relative_error=0.0,
                section=None,
                encoders={"tokens": made_up, "pooled": made_up},
                subjects=None,
            ),
            features=FeatureInfo(grid=grid, dim=model.alignment.features, encoder=made_up),
            splits=splits,
            corrupt={"count": 0, "without_caption": 0, "names": [], "file": None, "unused_captions": 0},
        ),
    )


def _stored(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16, help="trials of the packed search (default: 16)")
    parser.add_argument("--solo", type=int, default=3, help="trials of the other ways (default: 3)")
    parser.add_argument("--steps", type=int, help="optimizer steps of a trial (default: as configured)")
    parser.add_argument("--width", type=int, help="model width (default: as configured)")
    parser.add_argument("--batch-size", type=int, help="images per step (default: as configured)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs="+", metavar="WAY FOLDER TRIAL", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
