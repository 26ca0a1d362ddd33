"""`mudit launch STAGE EXPERIMENT [KEY]`: one artefact, in as many processes as it is configured to have, until the time is up.

One process works right here. Several on one machine are started by torchrun; on several machines, by one torchrun each, which srun
starts inside the Slurm job. Imports no torch.

Inside a Slurm job, the job's time limit becomes MUDIT_DEADLINE: the stage writes its state shortly before, and the job puts itself
back into the queue under its own id. A run that is longer than the queue allows is so cut into slices without anybody's help, and
whatever waits for the job (Snakemake) sees one job that runs and waits by turns.

A job may find that another one makes its artefact already: Snakemake was killed, its jobs went on, and the next Snakemake submits
them again. It steps back into the queue, without an error, until the other one is done.

Signals reach the processes of the stage and nobody else: torchrun and srun would not wait for a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mudit.config.cluster import Workers
from mudit.config.schema import Experiment
from mudit.errors import BusyError, ConfigError
from mudit.files import write_text
from mudit.jobs import containers, slurm, threads
from mudit.jobs.interrupt import DEADLINE, EXIT_CODE, Interrupt, Interrupted
from mudit.provenance import place
from mudit.stages import STATE, Artefact

_LOG = logging.getLogger(__name__)
OUTCOMES = "MUDIT_OUTCOMES"
ASKED = "asked"  # a file beside the outcomes: the launcher was asked to stop
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_MARGIN_SHARE, _MARGIN_S = 0.1, 300.0  # of the time left, at most; a trainer adds what its last checkpoint took
_YIELD_S = 60.0  # that a job waits for another one which makes the same, before it gives its machines back
_FIRST_PORT, _PORTS = 20000, 10000
# Snakemake sets each to the threads of the whole rule, and torch takes MKL's number where it differs from OpenMP's.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """How one process ended."""

    rank: int
    code: int
    message: str
    """The user's error, or the traceback; empty if there is none."""
    when: float
    """Seconds since 1970."""

    @property
    def failed(self) -> bool:
        """Whether it neither finished nor stopped because it was asked to."""
        return self.code not in (0, EXIT_CODE)


def workers_of(artefact: Artefact, experiment: Experiment, nodes: int | None, per_node: int | None) -> Workers:
    """The processes of an artefact: as its experiment's `execution` says, where `nodes` and `per_node` do not say otherwise.

    Raises ConfigError if there are several and the stage is for one, or several machines and no Slurm job.
    """
    configured: Workers = getattr(experiment.execution, artefact.stage.name, None) or Workers(nodes=1, per_node=1)
    workers = Workers(nodes=nodes or configured.nodes, per_node=per_node or configured.per_node)
    if workers.processes > 1 and not artefact.stage.parallel:
        raise ConfigError(f"{artefact.id}: the stage {artefact.stage.name} runs in one process, not {workers.processes}")
    if workers.nodes > 1 and slurm.job() is None:
        raise ConfigError(f"{artefact.id}: {workers.nodes} machines need a Slurm job; start it with: snakemake --profile slurm")
    return workers


def deadline() -> None:
    """Set MUDIT_DEADLINE from the Slurm job's time limit, unless it is set already or there is none."""
    job = slurm.job()
    if job is None or DEADLINE in os.environ:
        return
    left = slurm.seconds_left(job)
    if left is not None:
        os.environ[DEADLINE] = str(time.time() + left - min(_MARGIN_S, _MARGIN_SHARE * left))


@contextlib.contextmanager
def requeued() -> Iterator[None]:
    """Puts the Slurm job back into the queue if the work inside was interrupted and Slurm is not ending the job itself.

    Inside a job, BusyError is an interruption too: another one was faster by so little that `await_others` did not see it.
    """
    job = slurm.job()
    try:
        yield
    except (Interrupted, BusyError) as end:
        if job is None:
            raise
        if slurm.requeue(job):
            _LOG.info("Slurm job %s goes on in its next slice", job)
        raise Interrupted from end


def await_others(artefact: Artefact) -> None:
    """Inside a Slurm job, wait until no other process makes the artefact. Elsewhere whoever starts it twice is told (`place.lock`).

    Raises Interrupted after a minute, or when the job is asked to stop: a job in the queue costs nothing, machines that wait do.
    """
    if slurm.job() is None or not place.locked(artefact):
        return
    _LOG.info("%s: another process is making it; this job waits, and goes back into the queue in %.0f s", artefact.id, _YIELD_S)
    until = time.monotonic() + _YIELD_S
    with Interrupt() as interrupt:
        while place.locked(artefact):
            if interrupt.asked or time.monotonic() >= until:
                raise Interrupted
            time.sleep(1)


def cores_of(workers: Workers) -> int:
    """CPU cores of each process: its share of the threads that the caller may use on one machine (OMP_NUM_THREADS, or all)."""
    return max(1, threads.allowed() // workers.per_node)


def run(artefact: Artefact, workers: Workers, arguments: list[str]) -> None:
    """Run `mudit ARGUMENTS` in the several processes of `workers`, and wait for them.

    Raises Interrupted if they stopped because they were asked to, ResultsError if they could not leave word of how they ended,
    SystemExit with 2 after printing a user's error, and SystemExit with 1 after printing the first process's traceback otherwise.
    """
    cores = cores_of(workers)
    with place.writing(artefact):
        (STATE / "launch").mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=STATE / "launch", prefix=artefact.id.replace("/", ".") + "-"))
        _try_writing(folder)
    environment = (
        slurm.clean_environment(dict(os.environ)) | dict.fromkeys(_THREADS, str(cores)) | {OUTCOMES: str(folder.resolve())}
    )
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(_command(workers, cores, arguments), env=environment, stdout=2, stderr=said, preexec_fn=_deaf)
        with _forwarding(process, folder, remote=workers.nodes > 1) as signals:
            code = process.wait()
        said.seek(0)
        text = said.read().decode(errors="replace")
    outcomes = _outcomes(folder)
    try:
        if len(outcomes) < workers.processes and not signals and not any(outcome.failed for outcome in outcomes):
            with place.writing(artefact):
                _try_writing(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _judge(outcomes, workers.processes, code, asked=bool(signals), said=text)


def _try_writing(folder: Path) -> None:
    """Raises OSError where a process could not leave word. All processes at once write less than this."""
    probe = folder / "probe"
    try:
        probe.write_bytes(bytes(2**16))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(probe)) from None  # a failed write does not say where
    probe.unlink()


def _command(workers: Workers, cores: int, arguments: list[str]) -> list[str]:
    torchrun = [containers.python(), "-m", "torch.distributed.run", f"--nproc-per-node={workers.per_node}", "--max-restarts=0"]
    torchrun += ["--signals-to-handle=SIGQUIT"]  # those of _SIGNALS are the ranks' own; see _deaf
    torchrun += [f"--log-dir={os.devnull}"]  # else it leaves an empty folder in /tmp behind; the ranks' own lines go where ours do
    rank = ["-m", "mudit.jobs.rank", *arguments]
    if workers.processes == 1:
        return containers.inside([containers.python(), *rank])
    if workers.nodes == 1:
        return containers.inside([*torchrun, "--standalone", *rank])
    job = slurm.number()
    # This process is on the job's first machine, where Slurm starts the script of a job. Jobs that share it differ in the port.
    rendezvous = f"{socket.gethostname()}:{_FIRST_PORT + job % _PORTS}"
    torchrun += [f"--nnodes={workers.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous}", f"--rdzv-id={job}"]
    # --overlap: the step that this process runs in holds the job's cores already. All counts are said, because srun takes what is
    # not said from its environment.
    step = ["srun", "--overlap", f"--nodes={workers.nodes}", f"--ntasks={workers.nodes}", "--ntasks-per-node=1"]
    step += [f"--cpus-per-task={cores * workers.per_node}", "--cpu-bind=none", "--kill-on-bad-exit=1", "--export=ALL"]
    # Slurm starts what srun names with every signal at its default, so each machine makes its torchrun deaf itself.
    return [*step, "sh", "-c", 'trap "" TERM USR1; exec "$@"', "sh", *containers.inside([*torchrun, *rank])]


def _deaf() -> None:
    """In the child before it starts: torchrun and all that it starts ignore the signals that ask for a checkpoint; ranks listen."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)


@contextlib.contextmanager
def _forwarding(process: subprocess.Popen[bytes], folder: Path, *, remote: bool) -> Iterator[list[int]]:
    """While active, hands signals on to the ranks, and lists those that came.

    Ranks of this machine leave their process ids in `folder`. Those of others are reached through srun, which forwards SIGUSR1 to
    every process of its step; SIGTERM it would answer by killing the step. A rank that starts later finds ASKED in `folder`.
    """
    signals: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        (folder / ASKED).touch()  # for ranks that are not there yet
        if remote:
            process.send_signal(signal.SIGUSR1)
            return
        for path in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), number)

    former = [signal.signal(number, hand_on) for number in _SIGNALS]
    try:
        yield signals
    finally:
        for number, handler in zip(_SIGNALS, former, strict=True):
            signal.signal(number, handler)


def _outcomes(folder: Path) -> list[Outcome]:
    """What the ranks that ended by themselves left, in the order in which they ended."""
    found = [Outcome(**json.loads(path.read_text())) for path in folder.glob("*.json")]
    return sorted(found, key=lambda outcome: outcome.when)


def _judge(outcomes: list[Outcome], processes: int, code: int, *, asked: bool, said: str) -> None:
    """Turn the ends of all processes into one. The first failure counts: those that follow are its consequences."""
    mistakes = [outcome for outcome in outcomes if outcome.code == 2]
    if mistakes:
        print(min(mistakes, key=lambda outcome: outcome.rank).message, file=sys.stderr)
        raise SystemExit(2)
    stopped = [outcome for outcome in outcomes if outcome.code == EXIT_CODE]
    failures = [outcome for outcome in outcomes if outcome.failed]
    if stopped and len(outcomes) == processes and not failures:
        raise Interrupted
    if asked and (code or stopped) and not failures:
        raise Interrupted  # some were asked so early, or so late, that they could not say so
    if failures:
        first = failures[0]
        print(first.message or f"process {first.rank} ended with {first.code}", file=sys.stderr)
        others = ", ".join(str(outcome.rank) for outcome in failures[1:])
        print(f"process {first.rank} of {processes} failed first" + (f"; then {others}" if others else ""), file=sys.stderr)
        raise SystemExit(1)
    if code or len(outcomes) < processes:
        gone = sorted(set(range(processes)) - {outcome.rank for outcome in outcomes})
        print(said.rstrip(), file=sys.stderr)
        print(f"killed, or never started: process {', '.join(map(str, gone))} of {processes}", file=sys.stderr)
        raise SystemExit(1)


def record(rank: int, code: int, message: str) -> None:
    """Leave a rank's outcome for the launcher."""
    outcome: dict[str, Any] = {"rank": rank, "code": code, "message": message, "when": time.time()}
    write_text(Path(os.environ[OUTCOMES]) / f"{rank}.json", json.dumps(outcome), durable=False)
