"""The real Slurm of the tests, what is asked of it, and what is done to it.

Two machines, n1 and n2, are two slurmd on this one. The fixture `slurm` starts them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Workspace

SERVER = Path(__file__).parents[1] / "servers/slurm"
TIMEOUT_S = 900  # far more than anything here takes on a busy machine
# Every step of a stage takes so many seconds as the file `pace-STAGE` says, while it is there, and is told at once: as slow as a
# test needs it. The numbers are the same.
PACED = """

_EVERY_S = 0.5
_due = Heartbeat.due.fget

def _paced(self):
    try:
        time.sleep(float(Path("pace-" + self._values["artefact"].split("/")[1]).read_text()))
    except FileNotFoundError:
        pass
    return _due(self)

Heartbeat.due = property(_paced)
"""


def obstacle() -> str | None:
    """Why there can be no Slurm here."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        return "no Slurm; tests/servers/slurm install"
    if os.geteuid() != 0:
        return "only root can start a Slurm"
    conf = Path("/etc/slurm/slurm.conf")
    return "this machine belongs to a Slurm" if conf.exists() and not conf.is_symlink() else None


# Each time that no job has ended, Snakemake's executor asks ten seconds later than before.
_ASK_EVERY_SECOND = """
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
RemoteExecutor.next_seconds_between_status_checks = property(lambda executor: 1, lambda executor, seconds: None)
"""


def quick(workspace: Workspace) -> None:
    """Look after jobs more often than a real cluster would like, and ask for less memory."""
    with (workspace.path / "Snakefile").open("a") as file:
        file.write(_ASK_EVERY_SECOND)
    for old in ("before-status-checks: 20", "between-status-checks: 20"):
        workspace.edit("workflow/profiles/slurm/config.v9+.yaml", old, old.replace("20", "1"))
    workspace.edit("workflow/profiles/slurm/config.v9+.yaml", "latency-wait: 60", "latency-wait: 0")
    workspace.edit("workflow/profiles/slurm/site.yaml", "memory_gb: 64", "memory_gb: 2")


def cancel_all() -> None:
    """Clear the queue after a failure, whose reason must not be hidden: a job may end just while it is being cancelled."""
    subprocess.run(["scancel", "--user", "root"], check=False)


@dataclass(frozen=True)
class Submitted:
    """A workspace, in which Snakemake has its jobs run by Slurm."""

    workspace: Workspace
    process: subprocess.Popen[str]

    def finish(self) -> str:
        """At full speed from now on. Returns what Snakemake said; it must have succeeded."""
        set_pace(self.workspace)
        output, _ = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, output[-6000:]
        return output

    def wait(self, condition: Callable[[], object], seconds: float = TIMEOUT_S) -> object:
        """Until it holds; fails at once if Snakemake is over before that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            assert self.process.poll() is None, f"Snakemake ended too early:\n{self.process.communicate()[0][-6000:]}"
            time.sleep(0.2)
        raise AssertionError("nothing happened")


def set_pace(workspace: Workspace, **seconds: float) -> None:
    """From now on, a step of these stages takes so long; those of others take as long as they do."""
    for path in workspace.path.glob("pace-*"):
        path.unlink()
    for stage, each in seconds.items():
        (workspace.path / f"pace-{stage}").write_text(str(each))


@contextlib.contextmanager
def submitted(workspace: Workspace, *arguments: str, **pace: float) -> Iterator[Submitted]:
    """`snakemake --profile slurm`, with seconds per step of some stages; nothing is left of it after a failure."""
    set_pace(workspace, **pace)
    process = workspace.start("snakemake", "--profile", "slurm", *arguments)
    try:
        yield Submitted(workspace, process)
    except BaseException:
        process.kill()
        cancel_all()
        raise


def squeue(*arguments: str) -> list[str]:
    done = subprocess.run(["squeue", "--noheader", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.split()


def running(*arguments: str) -> list[str]:
    """Names of the jobs that run, tasks of arrays as ARRAY_TASK."""
    return squeue("--states", "RUNNING", "--format", "%i", *arguments)


def restarts(job: str) -> int:
    """How often Slurm has put a job back into its queue."""
    shown = subprocess.run(["scontrol", "show", "job", job], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"Restarts=(\d+)", shown)[1])  # type: ignore[index]


def failed(job: str) -> bool:
    """Whether it is over without success: Snakemake repeats it as another job."""
    return squeue("--states", "all", "--jobs", job, "--format", "%T") in (["FAILED"], ["NODE_FAIL"])


def preempt() -> None:
    """A job of the partition whose jobs come first takes both machines for a moment."""
    command = ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wait", "--wrap", "true"]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)


def lose_a_machine(server: Path) -> None:
    """n2 dies with all that runs on it, and comes back."""
    subprocess.run([SERVER, "kill", "n2", server], check=True)
    subprocess.run([SERVER, "up", server], check=True)


def let_pace(workspace: Workspace) -> None:
    with (workspace.path / "src/mudit/jobs/heartbeat.py").open("a") as file:
        file.write(PACED)
