"""A small sweep run as real processes, one or several, that tests stop and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import ROOT

# Trials of which some diverge, in packs of two or three. Every group step adds a byte to the file `steps`.
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from support import changed
from mudit.config.load import load
from mudit.jobs.distributed import joined
from mudit.stages import Job
from mudit.sweep import stage, trials
from mudit.train.group import TrialGroup
out, save_every_s = Path(sys.argv[1]), float(sys.argv[2])
config = changed(
    load(Path({config!r})).experiments["dit-digits"],
    sweep__schemes=["mup"], sweep__log2_lr=[-9.0, -5.0, -1.0, 3.0], sweep__log2_lr_min=-9.0, sweep__log2_lr_max=3.0,
    sweep__seeds=[0, 1], sweep__widths__width=[16], sweep__widths__batch_size=8, sweep__widths__steps=24,
    sweep__batch_sizes=None, sweep__steps=None, sweep__tuned=None, sweep__output_mults=None, validation__images=16,
    validation__draws=1,
)
trials.measure_group_size = lambda make, members, rehearse: (3, {{3: 0.001}})
trials.SAVE_EVERY_S = save_every_s
once = TrialGroup.step
def counted(group, step):
    losses = once(group, step)
    with (out / "steps").open("a") as file:
        file.write(".")
    return losses
TrialGroup.step = counted
with joined() as world:
    state, results = out / "state", out / "results"
    results.mkdir(parents=True, exist_ok=True)
    stage.run(Job("dit-digits", config, "mup_w16_b8", {{"data": Path({data!r})}}, results, state))
"""


class Sweep:
    """The script, and where one course of stops and starts keeps its files."""

    def __init__(self, script: Path, out: Path) -> None:
        self._script, self.out = script, out
        out.mkdir(parents=True)

    @property
    def steps(self) -> int:
        """Steps of groups so far, of all processes and starts."""
        file = self.out / "steps"
        return file.stat().st_size if file.exists() else 0

    @property
    def result(self) -> bytes:
        return (self.out / "results/trials.json").read_bytes()

    def start(self, processes: int = 1, *, save_every_s: float = 0, **environment: str) -> list[subprocess.Popen[bytes]]:
        """Start the processes of one job as torchrun does."""
        base = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        if processes > 1:
            base |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        command = [sys.executable, self._script, self.out, str(save_every_s)]
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in range(processes)]
        return [subprocess.Popen(command, env=base | rank) for rank in ranks]

    def finish(self, processes: int = 1) -> bytes:
        """Run to the end; what was written."""
        assert [process.wait() for process in self.start(processes)] == [0] * processes
        return self.result

    def stop(self, number: signal.Signals, steps: int, *, processes: int = 1, only: int | None = None) -> list[int]:
        """Start, send a signal to all processes (or to one) once `steps` more steps are done; exit codes."""
        before, started = self.steps, self.start(processes)
        deadline = time.monotonic() + 120
        while self.steps < before + steps:
            assert all(process.poll() is None for process in started), "the sweep ended before the signal"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        for process in started if only is None else [started[only]]:
            process.send_signal(number)
        return [process.wait() for process in started]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="package")
def sweep_script(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "sweep.py"
    path.write_text(SCRIPT.format(tests=str(ROOT / "tests"), config=str(ROOT / "config.yaml"), data=str(digits_folder)))
    return path


@pytest.fixture(scope="package")
def whole(sweep_script: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep by one process that nothing stopped."""
    sweep = Sweep(sweep_script, tmp_path_factory.mktemp("whole") / "sweep")
    sweep.finish()
    return sweep


@pytest.fixture
def sweep(sweep_script: Path, tmp_path: Path) -> Sweep:
    return Sweep(sweep_script, tmp_path / "sweep")
