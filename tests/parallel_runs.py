"""Short training runs of any family for the tests of several processes: a store without files, and a script for torchrun.

`python parallel_runs.py CASES.json OUT` runs every case of a list, one after another, and rank 0 writes what they came to.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mudit.config.cluster import TrainWorkers
from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.jobs.distributed import World, joined
from mudit.models.condition import TextCondition
from mudit.parametrization.table import table_for
from mudit.train import weights
from mudit.train.knobs import Knobs
from mudit.train.parallel import Layout
from mudit.train.trainer import RunSpec, Trainer
from support import ROOT, changed

EXPERIMENTS = {
    "dit": "dit-digits",
    "pixart": "pixart-emoji",
    "uvit": "uvit-emoji",
    "mmdit": "mmdit-emoji",
    "external": "dit-digits",
}
BATCH, WIDTH, IMAGES = 8, 24, 40


@dataclass(frozen=True)
class Case:
    """One run: a family, how its processes share it, and how far it goes."""

    name: str
    family: str = "dit"
    parallel: str = "replicated"
    micro_batch: int | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    log2_lr: float = -8.0
    steps: int = 6
    checkpoint_every: int = 100
    keep: int = 2  # checkpoints
    state: str | None = None  # folder of checkpoints; None: one of its own
    pause_s: float = 0.0  # per step: time for a test to send its signal
    limited_rank: int | None = None  # a rank that may write no file of more than 1000 bytes until the run has ended
    snapshots: tuple[int, ...] = ()
    file_bytes: int = weights.FILE_BYTES  # largest file of final weights


class FakeSplit:
    """Images and captions drawn at random, each a function of its number, so that any process can read any of them."""

    def __init__(self, experiment: Experiment) -> None:
        self._model = experiment.model
        self.latent_shape = (experiment.model.channels, experiment.model.image_size, experiment.model.image_size)
        self.has_std = self.flip = True
        self.encodes_captions = False

    def __len__(self) -> int:
        return IMAGES

    def _drawn(self, stream: int, indices_B: Tensor, *shape: int) -> Tensor:
        return torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(stream))[indices_B]

    def latents(self, indices_B: Tensor, noise: Tensor | None = None, flip_B: Tensor | None = None) -> Tensor:
        mean = self._drawn(0, indices_B, *self.latent_shape)
        if flip_B is not None:
            mean = torch.where(flip_B[:, None, None, None], mean.flip(-1), mean)
        return mean if noise is None else mean + 0.1 * noise

    def labels(self, indices_B: Tensor) -> Tensor:
        return indices_B % self._model.num_classes

    def text(self, indices_B: Tensor, dropped_B: Tensor) -> TextCondition:
        lengths_B = 1 + indices_B % self._model.max_tokens
        return TextCondition(
            tokens=self._drawn(1, indices_B, self._model.max_tokens, self._model.text_dim),
            mask=torch.arange(self._model.max_tokens) < lengths_B[:, None],
            pooled=self._drawn(2, indices_B, getattr(self._model, "pooled_dim", None) or 1),
            dropped=dropped_B,
        )

    def features(self, indices_B: Tensor) -> Tensor:
        tokens = (self._model.image_size // self._model.patch_size) ** 2
        return self._drawn(3, indices_B, tokens, self._model.alignment.features)


class FakeStore:
    """A store whose splits are the same images."""

    def __init__(self, experiment: Experiment) -> None:
        self._split = FakeSplit(experiment)

    def split(self, name: str) -> FakeSplit:
        return self._split


def experiment_of(family: str) -> Experiment:
    """The desk experiment of a family. Adam's eps is large, so that gradients which are zero but for rounding make no steps."""
    experiment = load(ROOT / "config.yaml").experiments[EXPERIMENTS[family]]
    experiment = changed(experiment, validation__images=17, validation__draws=1, optimizer__eps=1e-4, optimizer__clip_norm=0.5)
    if family == "external":
        from own_models import section

        return changed(experiment, model=section("Frozen", base_width=8, delta_width=16), diffusion__variance="fixed")
    return experiment


def trainer_of(case: Case, out: Path) -> Trainer:
    """A run of the present processes."""
    experiment = experiment_of(case.family)
    spec = RunSpec(
        table=table_for(experiment.model, WIDTH, "mup"),
        knobs=Knobs(case.log2_lr, experiment.optimizer.clip_norm, 2, 0.5 if case.family == "mmdit" else 0.0),
        seed=3,
        batch_size=BATCH,
        steps=case.steps,
        ema_decay=0.9,
        eval_every=3,
        checkpoint_every=case.checkpoint_every,
        keep_checkpoints=case.keep,
        identity=case.family,
        snapshots=tuple(case.snapshots),
    )
    world = World.of_environment()
    workers = TrainWorkers(
        nodes=1,
        per_node=world.size,
        parallel=case.parallel,
        micro_batch=case.micro_batch,
        checkpoint_activations=case.checkpoint_activations,
        compile=case.compile,
    )
    state = out / case.name / "state" if case.state is None else Path(case.state)
    return Trainer(experiment, FakeStore(experiment), spec, state, Layout.of(workers, BATCH))


@contextlib.contextmanager
def limited_files(limit: int | None) -> Iterator[None]:
    """Inside, the system lets this process write no file beyond so many bytes: as a full disk does, it fails the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run(case: Case, out: Path) -> None:
    """Train, and write weights, losses and what the optimizer was told into `out/NAME`."""
    folder, rank = out / case.name, World.of_environment().rank
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    trainer = trainer_of(case, out)
    trainer.resume()
    started, losses = trainer.step, []

    def advance(loss: float) -> None:
        losses.append(loss)
        (folder / f"step-{rank}").write_text(str(trainer.step))
        time.sleep(case.pause_s)

    with limited_files(1000 if rank == case.limited_rank else None):
        history = trainer.run(advance)
    weights.FILE_BYTES = case.file_bytes
    weights.save_weights(folder, trainer.model, trainer.ema.model, {})
    if rank == 0:
        trainer.snapshots.put(folder, {})
        rates = {name: group["lr"] for group in trainer.optimizer.param_groups for name in group["names"]}
        facts = {
            "started": started,
            "losses": losses,
            "records": history.records,
            "rates": rates,
            "diverged_at": history.diverged_at,
        }
        (folder / "facts.json").write_text(json.dumps(facts | {"table": trainer.spec.table.digest}))


def launch(cases: list[Case], out: Path, processes: int) -> subprocess.Popen[bytes]:
    """Start the cases in so many processes, by torchrun if there are several."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--log-dir={os.devnull}"]
    torchrun = [*launcher, f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *torchrun, __file__, str(out / "cases.json"), str(out)]
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    with (out / "log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, stdout=log, stderr=log)


def main() -> None:
    torch.set_num_threads(1)
    cases = [Case(**case) for case in json.loads(Path(sys.argv[1]).read_text())]
    logging.basicConfig(level=logging.INFO)
    with joined():
        for case in cases:
            run(case, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
